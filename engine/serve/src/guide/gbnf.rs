//! Grammars as llama.cpp and XGrammar write them (`root ::= …`), in Lark.

use super::spec::SpecError;

/// Is the text such a grammar?
pub fn is(text: &str) -> bool {
    text.contains("::=")
}

/// The same grammar in Lark: `root` is `start`, character classes are expressions, and rules have the names that Lark takes for rules.
pub fn to_lark(text: &str) -> Result<String, SpecError> {
    let mut out = String::with_capacity(text.len() + 64);
    let mut chars = text.chars().peekable();
    let mut depth = 0usize;
    while let Some(c) = chars.next() {
        match c {
            '#' => while chars.next_if(|c| *c != '\n').is_some() {},
            '"' => {
                out.push('"');
                loop {
                    match chars.next() {
                        None | Some('\n') => return Err(bad("a literal has no end")),
                        Some('"') => break out.push('"'),
                        Some('\\') => {
                            let Some(escaped) = chars.next() else { return Err(bad("a literal has no end")) };
                            match escaped {
                                // JSON, and so Lark, has no escape of two digits.
                                'x' => out.push_str("\\u00"),
                                _ => out.extend(['\\', escaped]),
                            }
                        }
                        Some(c) => out.push(c),
                    }
                }
            }
            '[' => {
                out.push_str("/[");
                loop {
                    match chars.next() {
                        None => return Err(bad("a class of characters has no end")),
                        Some(']') => break out.push_str("]/"),
                        Some('\\') => {
                            let Some(escaped) = chars.next() else { return Err(bad("a class of characters has no end")) };
                            out.extend(['\\', escaped]);
                        }
                        Some('[') => out.push_str("\\["),
                        Some('/') => out.push_str("\\/"),
                        Some(c) => out.push(c),
                    }
                }
            }
            '.' => out.push_str("/[^\\n]/"),
            ':' if chars.peek() == Some(&':') => {
                chars.next();
                if chars.next() != Some('=') {
                    return Err(bad("`::` is not followed by `=`"));
                }
                out.push(':');
            }
            c if c.is_ascii_alphabetic() || c == '_' => {
                let mut name = String::from(c);
                while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) {
                    name.push(c);
                }
                out.push_str(&rule(&name));
            }
            '(' => {
                depth += 1;
                out.push(c);
            }
            ')' => {
                depth = depth.saturating_sub(1);
                out.push(c);
            }
            // Within parentheses a rule may go on in the next line.
            '\n' if depth > 0 => out.push(' '),
            _ => out.push(c),
        }
    }
    Ok(out)
}

fn bad(what: &str) -> SpecError {
    SpecError::new("structured_outputs.grammar", what)
}

/// A rule's name in Lark, where upper case means a terminal.
fn rule(name: &str) -> String {
    match name {
        "root" => "start".to_owned(),
        "start" => "start_".to_owned(),
        _ => name.to_ascii_lowercase().replace('-', "_"),
    }
}
