//! vLLM's `--speculative-config`, as far as this engine serves it: drafts by prompt lookup.

use domain::{Fault, FaultKind};
use engine::speculate::Speculation;
use serde::Deserialize;

/// The JSON object; names and defaults are vLLM 0.33's, but for the last two, which are ours.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    method: String,
    num_speculative_tokens: usize,
    prompt_lookup_max: Option<usize>,
    prompt_lookup_min: Option<usize>,
    /// No drafts while more requests than this run.
    disable_by_batch_size: Option<usize>,
    /// A request whose drafts are accepted more rarely than this goes without for a while.
    acceptance_min: Option<f32>,
}

/// Reads the flag's value.
pub fn speculation(json: &str) -> Result<Speculation, Fault> {
    let usage = |what: String| {
        let example = r#"{"method":"ngram","num_speculative_tokens":8,"prompt_lookup_min":3,"prompt_lookup_max":5}"#;
        Fault::new(FaultKind::Usage, format!("--speculative-config: {what}"), format!("write for example {example}"))
    };
    let written: Written = serde_json::from_str(json).map_err(|error| usage(error.to_string()))?;
    if written.method != "ngram" {
        return Err(usage(format!("the method {:?} is not served; \"ngram\" is", written.method)));
    }
    let mut speculation = Speculation::ngram(written.num_speculative_tokens);
    let lookup = match (written.prompt_lookup_min, written.prompt_lookup_max) {
        (None, None) => (speculation.lookup_min, speculation.lookup_max),
        // Where one is given, the other is the same.
        (min, max) => (min.or(max).unwrap_or_default(), max.or(min).unwrap_or_default()),
    };
    (speculation.lookup_min, speculation.lookup_max) = lookup;
    speculation.batch_max = written.disable_by_batch_size.unwrap_or(speculation.batch_max);
    speculation.acceptance_min = written.acceptance_min.unwrap_or(speculation.acceptance_min);
    match speculation.mistakes().as_slice() {
        [] => Ok(speculation),
        mistakes => Err(usage(mistakes.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_reads_as_vllms() {
        let check = |json: &str, expected: (usize, usize, usize)| {
            let read = speculation(json).unwrap_or_else(|fault| panic!("{fault}"));
            assert_eq!((read.tokens, read.lookup_min, read.lookup_max), expected, "{json}");
        };
        check(r#"{"method":"ngram","num_speculative_tokens":4}"#, (4, 5, 5));
        check(r#"{"method":"ngram","num_speculative_tokens":4,"prompt_lookup_max":3}"#, (4, 3, 3));
        check(r#"{"method":"ngram","num_speculative_tokens":4,"prompt_lookup_min":2}"#, (4, 2, 2));
        check(r#"{"method":"ngram","num_speculative_tokens":4,"prompt_lookup_min":2,"prompt_lookup_max":6}"#, (4, 2, 6));
    }

    #[test]
    fn what_is_not_served_is_named() {
        let check = |json: &str, says: &str| {
            let fault = speculation(json).expect_err(json).to_string();
            assert!(fault.contains("--speculative-config") && fault.contains(says), "{fault:?} does not say {says:?}");
        };
        check(r#"{"method":"eagle","num_speculative_tokens":4}"#, "eagle");
        check(r#"{"method":"ngram"}"#, "num_speculative_tokens");
        check(r#"{"method":"ngram","num_speculative_tokens":0}"#, "num_speculative_tokens is 0");
        check(
            r#"{"method":"ngram","num_speculative_tokens":4,"prompt_lookup_min":3,"prompt_lookup_max":2}"#,
            "prompt_lookup_max is 2",
        );
        check(r#"{"method":"ngram","num_speculative_tokens":4,"model":"x"}"#, "model");
        check("ngram", "expected");
    }
}
