//! The chat template and what it is given, as the command line has them in place of the model's own.

use std::path::Path;

use domain::{Fault, FaultKind};
use engine_assets::TextAssets;
use serde_json::{Map, Value};

use crate::args::{ContentFormat, EngineArgs};

/// Largest file that is read as a template.
const TEMPLATE_BYTES_MAX: u64 = 1 << 20;

/// Changes the assets before their digest is taken, so that an engine with another template is another to whoever compares them.
pub fn apply(args: &EngineArgs, text: &mut TextAssets) -> Result<(), Fault> {
    if let Some(given) = &args.chat_template {
        text.chat_template = Some(template(given)?);
        text.tool_template = None;
    }
    if let Some(json) = &args.default_chat_template_kwargs {
        let kwargs: Map<String, Value> = serde_json::from_str(json).map_err(|error| {
            Fault::new(FaultKind::Usage, "--default-chat-template-kwargs is no JSON object", "write it as '{\"name\": value}'")
                .because(error)
        })?;
        text.template_kwargs = (!kwargs.is_empty()).then(|| Value::Object(kwargs).to_string());
    }
    text.content_parts = match args.chat_template_content_format {
        ContentFormat::Auto => None,
        ContentFormat::String => Some(false),
        ContentFormat::Openai => Some(true),
    };
    Ok(())
}

/// Whether a grammar holds for the thought: `--structured-outputs-config`, of whose keys those are taken that mean something here.
pub fn structured_in_reasoning(config: Option<&str>) -> Result<bool, Fault> {
    let fault = |what: String| {
        let action = "the keys are backend (auto or guidance) and enable_in_reasoning (true or false)";
        Fault::new(FaultKind::Usage, format!("--structured-outputs-config: {what}"), action)
    };
    let config: Option<Map<String, Value>> =
        config.map(serde_json::from_str).transpose().map_err(|error| fault("it is no JSON object".into()).because(error))?;
    let mut on = false;
    for (key, value) in config.iter().flatten() {
        match (key.as_str(), value) {
            ("enable_in_reasoning", Value::Bool(value)) => on = *value,
            ("backend", Value::String(name)) if matches!(name.as_str(), "auto" | "guidance") => {}
            _ => return Err(fault(format!("{key} cannot be {value}"))),
        }
    }
    Ok(on)
}

/// A file, or the template itself. As vLLM: what is no file and holds no character of Jinja's is the name of a file that is not there.
fn template(given: &str) -> Result<String, Fault> {
    let path = Path::new(given);
    let fault = |what: String| Fault::new(FaultKind::Usage, what, "give a file with a Jinja template, or the template itself");
    match path.metadata() {
        Ok(file) if file.len() > TEMPLATE_BYTES_MAX => {
            Err(fault(format!("--chat-template {given} has {} bytes; at most {TEMPLATE_BYTES_MAX} are read", file.len())))
        }
        Ok(_) => {
            std::fs::read_to_string(path).map_err(|error| fault(format!("--chat-template {given} cannot be read")).because(error))
        }
        Err(_) if given.contains(['{', '}', '\n']) => Ok(given.to_owned()),
        Err(error) => Err(fault(format!("--chat-template {given} is neither a file nor a template")).because(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_of_structured_outputs_is_taken_or_refused_by_name() {
        let check = |config: &str, expected: Result<bool, &str>| match (structured_in_reasoning(Some(config)), expected) {
            (Ok(on), Ok(expected)) => assert_eq!(on, expected, "{config}"),
            (Err(fault), Err(names)) => assert!(fault.to_string().contains(names), "{fault}"),
            (got, expected) => panic!("{config}: {got:?}, not {expected:?}"),
        };
        check("{}", Ok(false));
        check(r#"{"backend": "guidance", "enable_in_reasoning": true}"#, Ok(true));
        check(r#"{"backend": "xgrammar"}"#, Err("xgrammar"));
        check(r#"{"reasoning_backend": "x"}"#, Err("reasoning_backend"));
        check("3", Err("structured-outputs-config"));
    }

    #[test]
    fn a_template_is_a_file_or_itself() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models/llama/chat_template.jinja");
        assert_eq!(template(file).expect("a file"), std::fs::read_to_string(file).expect("it is there"));
        assert_eq!(template("{{ messages }}").expect("a template"), "{{ messages }}");
        for given in ["no-such-file.jinja", env!("CARGO_MANIFEST_DIR")] {
            assert!(template(given).expect_err("neither").to_string().contains(given));
        }
    }
}
