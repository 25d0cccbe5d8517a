//! Which headers cross the gateway, and the request id that every request has.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use proto::openai::REQUEST_ID_HEADER;
use proto::state::REPLICA_HEADER;

use crate::edge::openai::Problem;

/// Longest request id: it is repeated in every chunk of a stream.
pub const REQUEST_ID_BYTES_MAX: usize = 256;
/// Headers under this prefix are Trackside's own; a client's are not believed.
const OWN_PREFIX: &str = "x-trackside-";

/// Concern one connection only (RFC 9110 §7.6.1), besides what `Connection` names.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    const NAMES: [HeaderName; 8] = [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
    ];
    NAMES.contains(name) || name.as_str() == "proxy-connection"
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

fn end_to_end(headers: &mut HeaderMap, also_dropped: impl Fn(&HeaderName) -> bool) {
    let named = named_by_connection(headers);
    let dropped: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_hop_by_hop(name) || named.contains(name) || also_dropped(name) || name.as_str().starts_with(OWN_PREFIX))
        .cloned()
        .collect();
    for name in dropped {
        headers.remove(name);
    }
}

/// A client's headers as the engine gets them.
pub fn to_engine(mut headers: HeaderMap, request_id: &HeaderValue, replica: &HeaderValue) -> HeaderMap {
    end_to_end(&mut headers, |name| {
        // Host and length are the new connection's; answers are wanted plain, because their events are read on the way.
        [header::HOST, header::CONTENT_LENGTH, header::EXPECT, header::ACCEPT_ENCODING].contains(name)
    });
    headers.insert(REQUEST_ID_HEADER, request_id.clone());
    headers.insert(REPLICA_HEADER, replica.clone());
    headers
}

/// An engine's headers as the client gets them.
pub fn to_client(mut headers: HeaderMap, request_id: &HeaderValue) -> HeaderMap {
    end_to_end(&mut headers, |name| *name == header::CONTENT_LENGTH);
    headers.insert(REQUEST_ID_HEADER, request_id.clone());
    headers
}

/// The client's request id, or a new one.
pub fn request_id(headers: &HeaderMap) -> Result<HeaderValue, Problem> {
    match headers.get(REQUEST_ID_HEADER) {
        Some(id) if id.len() > REQUEST_ID_BYTES_MAX => Err(Problem::new(
            431,
            "BadRequestError",
            format!("X-Request-Id has {} bytes; at most {REQUEST_ID_BYTES_MAX} are taken", id.len()),
        )),
        Some(id) if !id.is_empty() => Ok(id.clone()),
        _ => {
            let id = format!("{:032x}", rand::random::<u128>());
            Ok(HeaderValue::try_from(id).expect("hex digits are a header value"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_what_is_meant_for_the_other_end_crosses() {
        let sent = map(&[
            ("host", "gateway"),
            ("connection", "close, x-private"),
            ("x-private", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("accept-encoding", "gzip"),
            ("x-trackside-replica", "forged/1"),
            ("authorization", "Bearer t"),
            ("content-type", "application/json"),
        ]);
        let (id, replica) = (HeaderValue::from_static("id"), HeaderValue::from_static("a/1"));
        let expected = map(&[
            ("authorization", "Bearer t"),
            ("content-type", "application/json"),
            ("x-request-id", "id"),
            ("x-trackside-replica", "a/1"),
        ]);
        assert_eq!(to_engine(sent, &id, &replica), expected);
        let answered =
            map(&[("connection", "keep-alive"), ("keep-alive", "timeout=5"), ("content-length", "3"), ("x-request-id", "x")]);
        assert_eq!(to_client(answered, &id), map(&[("x-request-id", "id")]));
    }

    #[test]
    fn a_request_id_is_kept_made_or_refused() {
        let id = |value: &str| {
            request_id(&HeaderMap::from_iter([(
                HeaderName::from_static(REQUEST_ID_HEADER),
                HeaderValue::from_str(value).unwrap(),
            )]))
        };
        assert_eq!(id("job-7").unwrap(), "job-7");
        assert_eq!(id("").unwrap().len(), 32);
        assert_eq!(id(&"x".repeat(REQUEST_ID_BYTES_MAX)).unwrap().len(), REQUEST_ID_BYTES_MAX);
        assert_eq!(id(&"x".repeat(REQUEST_ID_BYTES_MAX + 1)).unwrap_err().status, 431);
        assert_ne!(request_id(&HeaderMap::new()).unwrap(), request_id(&HeaderMap::new()).unwrap());
    }
}
