//! Whole answers of the gateway's own, and the engine's as the client sees them.

use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::response::Parts;
use http::{Response, StatusCode, Version};

use super::attempt::Failed;
use super::headers;
use super::relay::AnswerBody;
use crate::choose::Target;
use crate::edge::openai::Problem;

pub fn json_response(status: StatusCode, body: Vec<u8>) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub fn error_response(problem: &Problem) -> Response<AnswerBody> {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, problem.body().into_bytes());
    if let Some(seconds) = problem.retry_after_s {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// An engine's answer, without what concerned its own connection.
pub fn shown(mut head: Parts, body: AnswerBody, id: &HeaderValue) -> Response<AnswerBody> {
    head.headers = headers::to_client(head.headers, id);
    // The engine's protocol is not the client's.
    head.version = Version::HTTP_11;
    head.extensions.clear();
    Response::from_parts(head, body)
}

/// No engine gave an answer: the last one's own words where it had any, else what happened.
pub fn unanswered(failures: Vec<(&Target, Failed)>, id: &HeaderValue) -> Response<AnswerBody> {
    let told: Vec<String> = failures.iter().map(|(target, failed)| format!("engine {}: {failed}", target.engine.id)).collect();
    if let Some((_, Failed::Status { head, body })) = failures.into_iter().next_back() {
        return shown(*head, AnswerBody::whole(body), id);
    }
    error_response(&Problem {
        retry_after_s: Some(1),
        ..Problem::new(502, "EngineUnreachableError", format!("No engine answered; {}.", told.join("; ")))
    })
}
