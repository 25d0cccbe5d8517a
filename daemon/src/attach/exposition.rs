//! Reads the few samples the agent wants out of an engine's `/metrics` (Prometheus text format).

/// Largest `/metrics` body that is read.
pub const BODY_BYTES_MAX: usize = 8 << 20;

/// One sample line.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    pub name: &'a str,
    labels: &'a str,
    pub value: f64,
}

impl<'a> Sample<'a> {
    /// A label's value as written; engines' names and numbers need no unescaping.
    pub fn label(&self, name: &str) -> Option<&'a str> {
        let mut rest = self.labels;
        while let Some((key, value)) = rest.split_once("=\"") {
            let end = closing_quote(value)?;
            if key.trim_start_matches([',', ' ']).trim() == name {
                return Some(&value[..end]);
            }
            rest = &value[end + 1..];
        }
        None
    }
}

/// The samples of a text, in order. Lines that are none are passed over: an engine's oddity must not blind the agent.
pub fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter_map(sample)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' ', '\t']).filter(|end| *end > 0)?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => {
            let close = closing_brace(rest)?;
            (&rest[..close], &rest[close + 1..])
        }
        None => ("", rest),
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample { name, labels, value })
}

/// Position of the brace that closes the labels, which may hold braces in quotes.
fn closing_brace(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        match text.as_bytes().get(at)? {
            b'}' => return Some(at),
            b'"' => at += 2 + closing_quote(text.get(at + 1..)?)?,
            _ => at += 1,
        }
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_whatever_stands_in_their_labels() {
        let text = "# HELP a b\na 1\nb{x=\"}\\\"{\",y=\"2\"} 2.5 1700000000\nc{} +Inf\nbroken{x=\"1 3\nd NaN\n\n";
        let read: Vec<_> = samples(text).map(|sample| (sample.name, sample.label("y"), sample.value)).collect();
        assert_eq!(read[..3], [("a", None, 1.0), ("b", Some("2"), 2.5), ("c", None, f64::INFINITY)]);
        assert!(read[3].0 == "d" && read[3].2.is_nan() && read.len() == 4);
        let cache = "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"100\"} 1.0";
        let sample = samples(cache).next().unwrap();
        assert_eq!((sample.label("num_gpu_blocks"), sample.label("size")), (Some("100"), None));
    }
}
