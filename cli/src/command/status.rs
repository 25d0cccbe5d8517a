//! `trackside status`: the fleet as a table.

use domain::Fault;
use serde_json::Value;

use crate::args::StatusArgs;
use crate::{admin, table};

pub fn run(args: StatusArgs) -> Result<(), Fault> {
    let fleet = super::runtime(1)?.block_on(admin::ask(&args.scheduler, "/debug/fleet", None))?;
    if args.json {
        super::show(&format!("{fleet:#}\n"));
    } else {
        super::show(&screen(&fleet));
    }
    Ok(())
}

/// Text of a JSON value: strings without quotes, nothing for null.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The fleet for a person: one line an engine, then what is known of nodes and index.
pub fn screen(fleet: &Value) -> String {
    let nodes = fleet["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let engines = nodes.iter().flat_map(|node| {
        let engines = node["engines"].as_array().map(Vec::as_slice).unwrap_or_default();
        engines.iter().map(|engine| (text(&node["node"]), engine))
    });
    let rows: Vec<Vec<String>> = engines
        .map(|(node, engine)| {
            let kv = match (engine["kv_blocks_used"].as_f64(), engine["kv_blocks_total"].as_f64()) {
                (Some(used), Some(total)) if total > 0.0 => format!("{:.0}%", 100.0 * used / total),
                _ => String::new(),
            };
            let step = engine["decode_step_ms"].as_f64().map(|ms| format!("{ms:.1} ms")).unwrap_or_default();
            let mut row = vec![format!("{node}/{}", text(&engine["engine"]))];
            row.extend(["model", "state", "address", "running", "waiting"].map(|key| text(&engine[key])));
            row.extend([kv, text(&engine["index_blocks"]), step, text(&engine["restarts"]), text(&engine["reason"])]);
            row
        })
        .collect();
    let head =
        ["ENGINE", "MODEL", "STATE", "ADDRESS", "RUNNING", "WAITING", "KV USE", "BLOCKS", "DECODE STEP", "RESTARTS", "WHY"];
    let mut screen = if rows.is_empty() { "no engines\n".to_owned() } else { table::render(&head, &rows) };
    let learned = &fleet["learned"];
    screen += &format!(
        "\n{} of {} connected nodes are known whole; {} blocks are indexed\n",
        text(&learned["learned_nodes"]),
        text(&learned["connected_nodes"]),
        text(&learned["blocks"]),
    );
    for node in nodes.iter().filter(|node| node["connected"] != Value::Bool(true)) {
        screen += &format!(
            "{} is not connected; last heard {} ms ago, its engines are routed to by what was last known\n",
            text(&node["node"]),
            text(&node["heard_ms_ago"])
        );
    }
    screen
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_fleet_is_a_table_and_a_lost_node_is_named() {
        let engine = json!({ "engine": "engine-0", "model": "m", "state": "ready", "address": "127.0.0.1:8200", "running": 1,
            "waiting": 0, "kv_blocks_used": 5, "kv_blocks_total": 20, "index_blocks": 9, "decode_step_ms": 2.25, "restarts": 0, "reason": "" });
        let fleet = json!({ "learned": { "learned_nodes": 0, "connected_nodes": 0, "blocks": 9 },
            "nodes": [{ "node": "n1", "connected": false, "heard_ms_ago": 1500, "engines": [engine] }] });
        assert_eq!(
            screen(&fleet),
            "ENGINE        MODEL   STATE   ADDRESS          RUNNING   WAITING   KV USE   BLOCKS   DECODE STEP   RESTARTS   WHY\n\
             n1/engine-0   m       ready   127.0.0.1:8200   1         0         25%      9        2.2 ms        0\n\
             \n0 of 0 connected nodes are known whole; 9 blocks are indexed\n\
             n1 is not connected; last heard 1500 ms ago, its engines are routed to by what was last known\n"
        );
    }
}
