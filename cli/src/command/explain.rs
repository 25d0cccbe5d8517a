//! `trackside explain`: where a request would go, and why.

use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use domain::{Fault, FaultKind};
use serde_json::{Value, json};

use crate::args::ExplainArgs;
use crate::{admin, table};

pub fn run(args: ExplainArgs) -> Result<(), Fault> {
    let explained = super::runtime(1)?.block_on(async {
        let body = body(&args).await?;
        admin::ask(&args.scheduler, "/debug/decide", Some(body)).await
    })?;
    if args.json {
        super::show(&format!("{explained:#}\n"));
    } else {
        super::show(&screen(&explained));
    }
    Ok(())
}

async fn body(args: &ExplainArgs) -> Result<Bytes, Fault> {
    if let Some(path) = &args.body {
        return read(path).map(Bytes::from).map_err(|error| {
            let what = format!("cannot read {}", path.display());
            Fault::new(FaultKind::Storage, what, "give a readable file, or - for stdin").because(error)
        });
    }
    let model = match &args.model {
        Some(model) => model.clone(),
        None => only_model(&admin::ask(&args.scheduler, "/debug/fleet", None).await?)?,
    };
    let message = args.message.as_deref().unwrap_or_default();
    Ok(json!({ "model": model, "messages": [{ "role": "user", "content": message }] }).to_string().into())
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut body = Vec::new();
        std::io::stdin().lock().read_to_end(&mut body)?;
        return Ok(body);
    }
    std::fs::read(path)
}

fn only_model(fleet: &Value) -> Result<String, Fault> {
    let models = fleet["models"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<&str> = models.iter().filter_map(|model| model["id"].as_str()).collect();
    match names[..] {
        [name] => Ok(name.to_owned()),
        [] => Err(Fault::new(FaultKind::Unreachable, "the scheduler knows no model", "wait for an engine (trackside status)")),
        _ => {
            Err(Fault::new(FaultKind::Usage, format!("several models are served: {}", names.join(", ")), "name one with --model"))
        }
    }
}

/// The explanation for a person.
fn screen(explained: &Value) -> String {
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let list = |key: &str| explained[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let verdict = &explained["decision"];
    let mut screen = match verdict["kind"].as_str() {
        Some("route") => {
            let order: Vec<String> = verdict["endpoints"].as_array().into_iter().flatten().map(word).collect();
            let (first, others) = order.split_first().map_or(("none", &[][..]), |(first, others)| (first.as_str(), others));
            let then = if others.is_empty() { String::new() } else { format!(", then {}", others.join(", ")) };
            format!("goes to {first}{then}\n")
        }
        Some("wait") => format!("waits: {}\n", word(&verdict["reason"])),
        _ => format!("is refused: {}\n", word(&verdict["reason"])),
    };
    screen += &format!("{} prompt tokens for {}\n", explained["prompt_tokens"], word(&explained["model"]));
    if let Some(why) = explained["untokenised"].as_str() {
        screen += &format!("routed by load alone, the prompt could not be tokenised: {why}\n");
    }
    let weights = explained["weights"].as_object();
    let scorers: Vec<&String> = weights.into_iter().flat_map(|weights| weights.keys()).collect();
    let titles: Vec<String> =
        scorers.iter().map(|name| format!("{} ×{}", name.to_uppercase(), explained["weights"][*name])).collect();
    let mut head = vec!["RANK", "ENGINE", "TOTAL"];
    head.extend(titles.iter().map(String::as_str));
    head.extend(["CACHED", "IN FLIGHT", "LEFT OUT BECAUSE"]);
    let number = |value: &Value| value.as_f64().map(|number| format!("{number:.3}")).unwrap_or_default();
    let rows: Vec<Vec<String>> = list("candidates")
        .iter()
        .map(|row| {
            let mut cells = vec![row["rank"].as_u64().map(|rank| rank.to_string()).unwrap_or_default()];
            cells.extend([word(&row["engine"]), number(&row["total"])]);
            cells.extend(scorers.iter().map(|name| number(&row["scores"][*name])));
            cells.push(format!("{} of {} blocks", row["cached_blocks"], row["prompt_blocks"]));
            cells.extend([row["requests_in_flight"].to_string(), row["refused"].as_str().unwrap_or_default().to_owned()]);
            cells
        })
        .collect();
    screen + "\n" + &table::render(&head, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_reads_as_a_sentence_and_a_table() {
        let explained = json!({
            "model": "m", "prompt_tokens": 33, "untokenised": null, "weights": { "prefix": 3.0, "queue": 2.0 },
            "decision": { "kind": "route", "endpoints": ["n/engine-1"], "prefill": null },
            "candidates": [
                { "rank": 1, "engine": "n/engine-1", "total": 4.5, "scores": { "prefix": 1.0, "queue": 0.75 }, "cached_blocks": 2,
                  "prompt_blocks": 2, "requests_in_flight": 1, "refused": null },
                { "rank": null, "engine": "n/engine-0", "total": null, "scores": {}, "cached_blocks": 0, "prompt_blocks": 2,
                  "requests_in_flight": 0, "refused": "crashed" },
            ],
        });
        let expected = "goes to n/engine-1\n33 prompt tokens for m\n\n\
            RANK   ENGINE       TOTAL   PREFIX ×3.0   QUEUE ×2.0   CACHED          IN FLIGHT   LEFT OUT BECAUSE\n\
            1      n/engine-1   4.500   1.000         0.750        2 of 2 blocks   1\n       n/engine-0                                      0 of 2 blocks   0           crashed\n";
        assert_eq!(screen(&explained), expected);
    }
}
