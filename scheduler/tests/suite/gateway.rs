//! The gateway over real HTTP, with engines that fail in every way an engine can.

use std::sync::Arc;

use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use tokio::sync::Notify;

use crate::support::*;

#[tokio::test]
async fn a_request_reaches_the_engine_untouched_and_its_answer_the_client() {
    let scheduler = Scheduler::start().await;
    let engine = Engine::start(Script::ok()).await;
    let _node = Node::with(&scheduler, "n", vec![report("e", engine.address)]).await;
    // Spelling, order and unknown keys are the client's own.
    let body = "{ \"messages\" : [{\"role\":\"user\",\"content\":\"hi\\u0021\"}],\"model\":\"m\", \"mine\": 1e3 }";
    let headers = [
        ("x-trackside-replica", "forged/1"),
        ("connection", "x-private"),
        ("x-private", "1"),
        ("authorization", "Bearer t"),
        ("x-request-id", "job-7"),
    ];
    let answer = scheduler.request(scheduler.bound.gateway, Method::POST, "/v1/chat/completions?a=b", &headers, body).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "{\"ok\":true}"));
    assert_eq!(answer.header("x-engine"), "yes");
    assert_eq!(answer.header("keep-alive"), "");
    assert_eq!(answer.header("x-request-id"), "job-7", "the client's own id");
    assert_eq!(answer.header("x-trackside-engine"), "n/e");
    assert_eq!(answer.header("x-trackside-incarnation"), "0000000000000001");
    let seen = &engine.requests()[0];
    assert_eq!(seen.body, body);
    let head = seen.head.to_ascii_lowercase();
    assert!(head.starts_with("post /v1/chat/completions?a=b http/1.1\r\n"), "{head}");
    assert!(head.contains("x-trackside-replica: scheduler-0/") && !head.contains("forged"), "{head}");
    assert!(head.contains("authorization: bearer t") && head.contains("x-request-id: job-7"), "{head}");
    assert!(!head.contains("x-private"), "{head}");
    let other = scheduler.chat("hi").await;
    assert_eq!(other.header("x-request-id").len(), 32, "made where the client gave none");
    assert_eq!(scheduler.metric("trackside_scheduler_requests_total{outcome=\"ok\"}").await, 2.0);
}

#[tokio::test]
async fn each_event_is_passed_on_when_it_comes() {
    let scheduler = Scheduler::start().await;
    let gate = Arc::new(Notify::new());
    let events = vec!["data: 1\n\n", "data: 2\n\n", "data: [DONE]\n\n"];
    let engine = Engine::start(Script::Stream { events, gate: Some(gate.clone()), proper_end: true }).await;
    let _node = Node::with(&scheduler, "n", vec![report("e", engine.address)]).await;
    let uri = format!("http://{}/v1/chat/completions", scheduler.bound.gateway);
    let request = Request::post(uri).body(Full::from(chat_body("hi", true))).unwrap();
    let mut response = scheduler.send(request).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    for expected in ["data: 1\n\n", "data: 2\n\n", "data: [DONE]\n\n"] {
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), expected);
        gate.notify_one();
    }
    assert!(response.body_mut().frame().await.is_none());
}

/// What a first engine does, and whether a second is asked then.
#[tokio::test]
async fn what_fails_before_its_first_data_is_retried_once_elsewhere() {
    let unstarted = |events: &[&'static str]| Script::Stream { events: events.to_vec(), gate: None, proper_end: false };
    let cases: Vec<(&str, Option<Script>, bool)> = vec![
        ("connection refused", None, true),
        ("reset before the head", Some(Script::Reset), true),
        ("body cut short", Some(Script::Cut("{\"half")), true),
        ("503", Some(Script::Whole { status: 503, body: "busy" }), true),
        ("502", Some(Script::Whole { status: 502, body: "bad" }), true),
        ("stream without an event", Some(unstarted(&[])), true),
        ("stream that ends well without an event", Some(Script::stream(&[])), true),
        ("only comments, then reset", Some(unstarted(&[": ping\n\n"])), true),
        ("half an event, then reset", Some(unstarted(&["data: {\"ha"])), true),
        ("500", Some(Script::Whole { status: 500, body: "no" }), false),
        ("400", Some(Script::Whole { status: 400, body: "no" }), false),
        ("429", Some(Script::Whole { status: 429, body: "no" }), false),
    ];
    for (case, script, retried) in cases {
        let scheduler = Scheduler::start().await;
        let second = Engine::start(Script::ok()).await;
        let first = Engine::start(script.clone().unwrap_or(Script::Reset)).await;
        let refusing = Refusing::at("127.0.0.1:0");
        let first_address = if script.is_some() { first.address } else { refusing.address };
        let engines = vec![report("first", first_address), busy(report("second", second.address), 4)];
        let _node = Node::with(&scheduler, "n", engines).await;
        let answer = scheduler.chat("hi").await;
        let served_by = answer.header("x-trackside-engine");
        let retries: f64 = scheduler.metric("trackside_scheduler_retries_total{reason=\"connect\"}").await
            + scheduler.metric("trackside_scheduler_retries_total{reason=\"reset\"}").await
            + scheduler.metric("trackside_scheduler_retries_total{reason=\"status\"}").await;
        if retried {
            assert_eq!((answer.status.as_u16(), served_by, retries), (200, "n/second", 1.0), "{case}");
        } else {
            assert_eq!((served_by, second.requests().len(), retries), ("n/first", 0, 0.0), "{case}");
        }
    }
}

#[tokio::test]
async fn with_nobody_else_to_ask_the_client_is_told() {
    let cases: Vec<(&str, Option<Script>, u16, &str)> = vec![
        ("connection refused", None, 502, "engine n/e: cannot connect"),
        ("reset", Some(Script::Reset), 502, "engine n/e: the connection broke before the answer"),
        ("503", Some(Script::Whole { status: 503, body: "the engine's own words" }), 503, "the engine's own words"),
    ];
    for (case, script, status, words) in cases {
        let scheduler = Scheduler::start().await;
        let engine = Engine::start(script.clone().unwrap_or(Script::Reset)).await;
        let refusing = Refusing::at("127.0.0.1:0");
        let address = if script.is_some() { engine.address } else { refusing.address };
        let _node = Node::with(&scheduler, "n", vec![report("e", address)]).await;
        let answer = scheduler.chat("hi").await;
        assert_eq!(answer.status.as_u16(), status, "{case}");
        assert!(answer.text().contains(words), "{case}: {}", answer.text());
        assert_eq!(scheduler.metric("trackside_scheduler_requests_total{outcome=\"failed\"}").await, 1.0, "{case}");
    }
}

#[tokio::test]
async fn a_request_is_tried_twice_and_not_more() {
    let scheduler = Scheduler::start().await;
    let (a, b) = (Engine::start(Script::Reset).await, Engine::start(Script::Cut("{")).await);
    let c = Engine::start(Script::ok()).await;
    let engines = vec![report("a", a.address), busy(report("b", b.address), 4), busy(report("c", c.address), 8)];
    let _node = Node::with(&scheduler, "n", engines).await;
    let answer = scheduler.chat("hi").await;
    assert_eq!((answer.status.as_u16(), c.requests().len()), (502, 0));
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("engine n/a: ") && message.contains("; engine n/b: "), "{message}");
}

#[tokio::test]
async fn a_long_body_passes_like_a_short_one() {
    let scheduler = Scheduler::start().await;
    let engine = Engine::start(Script::ok()).await;
    let _node = Node::with(&scheduler, "n", vec![report("e", engine.address)]).await;
    let body = chat_body(&"all aboard ".repeat(20_000), false);
    assert_eq!(scheduler.post("/v1/chat/completions", &body).await.status, 200);
    assert_eq!(engine.requests()[0].body, body);
}

#[tokio::test]
async fn after_the_first_event_a_lost_engine_ends_the_stream_with_an_error() {
    for proper_end in [false, true] {
        let scheduler = Scheduler::start().await;
        let events = vec!["data: {\"a\":1}\n\n", "data: {\"b"];
        let engine = Engine::start(Script::Stream { events, gate: None, proper_end }).await;
        let other = Engine::start(Script::ok()).await;
        let engines = vec![report("e", engine.address), busy(report("other", other.address), 4)];
        let _node = Node::with(&scheduler, "n", engines).await;
        let answer = scheduler.post("/v1/chat/completions", &chat_body("hi", true)).await;
        assert_eq!(answer.status, 200);
        let events: Vec<&str> = answer.text().split_terminator("\n\n").collect();
        assert_eq!(events.len(), 3, "{events:?}");
        assert_eq!((events[0], events[2]), ("data: {\"a\":1}", "data: [DONE]"));
        let error: serde_json::Value = serde_json::from_str(events[1].strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(error["error"]["type"], "EngineLostError");
        assert!(error["error"]["message"].as_str().unwrap().contains("n/e"), "{error}");
        assert_eq!(other.requests().len(), 0, "a stream that was begun is not repeated");
        assert_eq!(scheduler.metric("trackside_scheduler_requests_total{outcome=\"broken\"}").await, 1.0);
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request_at_the_engine() {
    let scheduler = Scheduler::start().await;
    let gate = Arc::new(Notify::new());
    let begun = Script::Stream { events: vec!["data: 1\n\n", "data: 2\n\n"], gate: Some(gate.clone()), proper_end: true };
    for script in [Script::Hang, begun] {
        let engine = Engine::start(script.clone()).await;
        let node = Node::with(&scheduler, "n", vec![v1_engine(&engine)]).await;
        let uri = format!("http://{}/v1/chat/completions", scheduler.bound.gateway);
        let request = Request::post(uri).body(Full::from(chat_body("hi", true))).unwrap();
        match script {
            Script::Hang => {
                let waiting = scheduler.send(request);
                tokio::select! {
                    _ = waiting => panic!("a hanging engine answers nobody"),
                    () = async { eventually("the request arrives", || async { engine.requests().pop() }).await; } => {}
                }
            }
            _ => {
                let mut response = scheduler.send(request).await;
                response.body_mut().frame().await.unwrap().unwrap();
            }
        }
        engine.left.notified().await;
        let open = || async { (scheduler.metric("trackside_scheduler_open_streams").await == 0.0).then_some(()) };
        eventually("no stream is open", open).await;
        node.changed(vec![], true).await;
    }
    assert_eq!(scheduler.metric("trackside_scheduler_requests_total{outcome=\"cancelled\"}").await, 2.0);
}

fn v1_engine(engine: &Engine) -> proto::v1::Engine {
    proto::v1::Engine { incarnation: u64::from(engine.address.port()), ..report("e", engine.address) }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_in_the_clients_language() {
    let scheduler = Scheduler::start_with(|config| config.body_bytes_max = 4096).await;
    let engine = Engine::start(Script::ok()).await;
    let mut other = report("other", engine.address);
    other.model = "z".into();
    let _node = Node::with(&scheduler, "n", vec![report("e", engine.address), other]).await;
    let chat = "/v1/chat/completions";
    let long_id = "x".repeat(300);
    let long_id = [("x-request-id", long_id.as_str())];
    let big = format!("{{\"model\":\"m\",\"prompt\":\"{}\"}}", "x".repeat(5000));
    let long = format!("{{\"model\":\"m\",\"prompt\":[{}1]}}", "1,".repeat(1100));
    let post = Method::POST;
    type Case<'c> = (Method, &'c str, &'c [(&'c str, &'c str)], &'c str, u16, &'c str);
    let cases: Vec<Case<'_>> = vec![
        (
            post.clone(),
            chat,
            &[],
            "{\"model\":\"nope\",\"messages\":[]}",
            404,
            "The model `nope` does not exist. Served here: m, z.",
        ),
        (post.clone(), chat, &[], "{\"messages\":[]}", 400, "names no `model`. Served here: m, z."),
        (post.clone(), chat, &[], "{\"model\":", 400, "The body is not the JSON object that this path takes"),
        (post.clone(), chat, &[], "", 400, "The body is not the JSON object"),
        (post.clone(), chat, &[], "[]", 400, "The body is not the JSON object"),
        (post.clone(), "/v1/completions", &[], "{\"model\":\"m\",\"prompt\":[1,\"a\"]}", 400, "expected i64 at line 1 column 28"),
        (post.clone(), "/v1/completions", &[], &big, 413, "more than 4096 bytes"),
        (
            post.clone(),
            "/v1/completions",
            &[],
            &long,
            400,
            "maximum context length is 1024 tokens. However, your prompt has 1101",
        ),
        (post.clone(), chat, &[("content-encoding", "gzip")], "x", 415, "Content-Encoding \"gzip\""),
        (post.clone(), chat, &long_id, "{}", 431, "X-Request-Id has 300 bytes"),
        (Method::GET, chat, &[], "", 405, "takes POST"),
        (post.clone(), "/v1/nothing", &[], "{}", 404, "Nothing is served at POST /v1/nothing"),
    ];
    for (method, path, headers, body, status, words) in cases {
        let answer = scheduler.request(scheduler.bound.gateway, method, path, headers, body).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status.as_u16(), error["code"].as_u64()), (status, Some(status.into())), "{path} {error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{words:?} in {error}");
    }
    assert_eq!(engine.requests().len(), 0, "no engine was troubled");
}

#[tokio::test]
async fn when_nobody_takes_work_the_client_hears_why_and_when_to_ask_again() {
    let cases = [("starting", 503, "1"), ("crashed", 503, "1"), ("draining", 503, "5"), ("quarantined", 503, "5")];
    for (state, status, retry_after) in cases {
        let scheduler = Scheduler::start().await;
        let engine = Engine::start(Script::ok()).await;
        let engines = vec![proto::v1::Engine { state: state.into(), ..report("e", engine.address) }];
        let _node = Node::with(&scheduler, "n", engines).await;
        let answer = scheduler.chat("hi").await;
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (status, retry_after), "{state}: {}", answer.text());
        assert_eq!(scheduler.get("/health").await.status, 503);
        assert_eq!(engine.requests().len(), 0);
    }
}

#[tokio::test]
async fn an_engine_takes_no_more_than_its_share() {
    let scheduler = Scheduler::start_with(|config| config.policy.limits.in_flight_max = 4).await;
    let engine = Engine::start(Script::ok()).await;
    let node = Node::with(&scheduler, "n", vec![busy(report("e", engine.address), 4)]).await;
    let answer = scheduler.chat("hi").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "1"), "{}", answer.text());
    node.changed(vec![busy(report("e", engine.address), 3)], false).await;
    scheduler.engine_where("n", "e", |engine| engine["requests_in_flight"] == 3).await;
    assert_eq!(scheduler.chat("hi").await.status, 200);
}

#[tokio::test]
async fn models_of_all_engines_are_listed_once_and_requests_go_to_their_own() {
    let scheduler = Scheduler::start().await;
    let (m, z) = (Engine::start(Script::ok()).await, Engine::start(Script::ok()).await);
    let other = proto::v1::Engine { model: "z".into(), adapters: vec!["tuned".into()], ..report("z0", z.address) };
    let _a = Node::with(&scheduler, "a", vec![report("m0", m.address), other]).await;
    let _b = Node::with(&scheduler, "b", vec![report("m1", m.address)]).await;
    let list = scheduler.get("/v1/models").await.json();
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|card| card["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["m", "tuned", "z"]);
    assert_eq!((&list["data"][1]["parent"], &list["data"][0]["max_model_len"]), (&"z".into(), &1024.into()));
    for (path, body) in [
        ("/v1/completions", "{\"model\":\"tuned\",\"prompt\":\"hi\"}"),
        ("/v1/completions", "{\"model\":\"z\",\"prompt\":\"hi\"}"),
        ("/tokenize", "{\"model\":\"z\",\"prompt\":\"hi\"}"),
        ("/detokenize", "{\"model\":\"z\",\"tokens\":[1]}"),
    ] {
        assert_eq!(scheduler.post(path, body).await.status, 200, "{path}");
    }
    assert_eq!((m.requests().len(), z.requests().len()), (0, 4));
}

#[tokio::test]
async fn a_shutdown_lets_open_streams_end() {
    let mut scheduler = Scheduler::start().await;
    let gate = Arc::new(Notify::new());
    let events = vec!["data: 1\n\n", "data: [DONE]\n\n"];
    let engine = Engine::start(Script::Stream { events, gate: Some(gate.clone()), proper_end: true }).await;
    let _node = Node::with(&scheduler, "n", vec![report("e", engine.address)]).await;
    let uri = format!("http://{}/v1/chat/completions", scheduler.bound.gateway);
    let request = Request::post(uri).body(Full::from(chat_body("hi", true))).unwrap();
    let mut response = scheduler.send(request).await;
    response.body_mut().frame().await.unwrap().unwrap();
    let gateway = scheduler.bound.gateway;
    let stopped = scheduler.stop();
    let closed = || async { tokio::net::TcpStream::connect(gateway).await.is_err().then_some(()) };
    eventually("no new connection is taken", closed).await;
    gate.notify_one();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "data: [DONE]\n\n");
    stopped.await;
}

/// Case: two clients use one request id at once (vLLM issues 10583 and 15041).
#[tokio::test]
async fn two_streams_of_one_request_id_do_not_touch_each_other() {
    let scheduler = Scheduler::start().await;
    let gate = Arc::new(Notify::new());
    let events = vec!["data: 1\n\n", "data: [DONE]\n\n"];
    let engine = Engine::start(Script::Stream { events, gate: Some(gate.clone()), proper_end: true }).await;
    let _node = Node::with(&scheduler, "n", vec![report("e", engine.address)]).await;
    let uri = format!("http://{}/v1/chat/completions", scheduler.bound.gateway);
    let open = async |text: &str| {
        let request = Request::post(&uri).header("x-request-id", "job-7").body(Full::from(chat_body(text, true))).unwrap();
        let mut response = scheduler.send(request).await;
        assert_eq!(response.headers()["x-request-id"], "job-7");
        response.body_mut().frame().await.unwrap().unwrap();
        response
    };
    let (first, second) = (open("one").await, open("two").await);
    drop(first);
    engine.left.notified().await;
    let one_open = || async { (scheduler.metric("trackside_scheduler_open_streams").await == 1.0).then_some(()) };
    eventually("one stream is open", one_open).await;
    gate.notify_one();
    assert_eq!(second.into_body().collect().await.unwrap().to_bytes(), "data: [DONE]\n\n");
    assert_eq!(scheduler.metric("trackside_scheduler_open_streams").await, 0.0);
}
