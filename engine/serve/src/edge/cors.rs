//! Which pages of other origins may read answers, as Starlette's `CORSMiddleware` has it, which vLLM uses: `--allowed-origins` and its
//! fellows. Without flags, all may.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, COOKIE, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::answer::bytes_of;

/// Everything.
const ALL: &str = "*";
const ALL_METHODS: &str = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT";
/// Headers that any page may send.
const SAFE_HEADERS: [&str; 4] = ["Accept", "Accept-Language", "Content-Language", "Content-Type"];
const MAX_AGE_S: u32 = 600;

/// Who may do what; `*` in a list is everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    pub origins: Vec<String>,
    pub methods: Vec<String>,
    pub headers: Vec<String>,
    /// Pages may send cookies and read what they bring.
    pub credentials: bool,
}

impl Default for Cors {
    fn default() -> Self {
        let all = || vec![ALL.to_owned()];
        Self { origins: all(), methods: all(), headers: all(), credentials: false }
    }
}

impl Cors {
    fn allows(list: &[String], value: &str) -> bool {
        list.iter().any(|allowed| allowed == ALL || allowed.eq_ignore_ascii_case(value))
    }

    /// Says that `origin` may read the answer, if it may.
    fn admit(&self, origin: &HeaderValue, names_it: bool, headers: &mut HeaderMap) -> bool {
        let all = self.origins.iter().any(|allowed| allowed == ALL);
        let allowed = all || origin.to_str().is_ok_and(|origin| self.origins.iter().any(|allowed| allowed == origin));
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if !all || names_it {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        if allowed {
            let named = if all && !names_it { HeaderValue::from_static(ALL) } else { origin.clone() };
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, named);
        }
        allowed
    }

    /// What a browser asks before it sends the request itself.
    fn preflight(&self, origin: &HeaderValue, method: &HeaderValue, asked: Option<&HeaderValue>) -> Response {
        let mut headers = HeaderMap::new();
        let mut refused = Vec::new();
        if !self.admit(origin, self.credentials, &mut headers) {
            refused.push("origin");
        }
        if !method.to_str().is_ok_and(|method| Self::allows(&self.methods, method)) {
            refused.push("method");
        }
        let all_headers = self.headers.iter().any(|allowed| allowed == ALL);
        let safe = |name: &str| SAFE_HEADERS.iter().any(|safe| safe.eq_ignore_ascii_case(name));
        let names = asked.and_then(|asked| asked.to_str().ok()).unwrap_or_default().split(',').map(str::trim);
        let mut names = names.filter(|name| !name.is_empty());
        if !names.all(|name| safe(name) || Self::allows(&self.headers, name)) {
            refused.push("headers");
        }
        let listed = |list: String| HeaderValue::from_str(&list).ok();
        let methods = if Self::allows(&self.methods, ALL) { ALL_METHODS.to_owned() } else { self.methods.join(", ") };
        let allowed_headers = match all_headers {
            true => asked.cloned(),
            false => {
                let mut names: Vec<&str> = SAFE_HEADERS.into_iter().chain(self.headers.iter().map(String::as_str)).collect();
                names.sort_unstable();
                listed(names.join(", "))
            }
        };
        headers.extend(listed(methods).map(|methods| (ACCESS_CONTROL_ALLOW_METHODS, methods)));
        headers.extend(allowed_headers.map(|names| (ACCESS_CONTROL_ALLOW_HEADERS, names)));
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_S.into());
        let mut response = match refused.is_empty() {
            true => bytes_of(StatusCode::OK, "text/plain; charset=utf-8", "OK"),
            false => {
                let what = format!("Disallowed CORS {}", refused.join(", "));
                bytes_of(StatusCode::BAD_REQUEST, "text/plain; charset=utf-8", what)
            }
        };
        response.headers_mut().extend(headers);
        response
    }
}

pub async fn answer(State(cors): State<Arc<Cors>>, request: Request, next: Next) -> Response {
    let Some(origin) = request.headers().get(ORIGIN).cloned() else { return next.run(request).await };
    let method = request.headers().get(ACCESS_CONTROL_REQUEST_METHOD);
    if let Some(method) = method.filter(|_| request.method() == Method::OPTIONS) {
        return cors.preflight(&origin, method, request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS));
    }
    let brings_cookie = request.headers().contains_key(COOKIE);
    let mut response = next.run(request).await;
    cors.admit(&origin, brings_cookie, response.headers_mut());
    response
}
