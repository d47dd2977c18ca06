//! What goes wrong with a request, in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

use crate::error::Error;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::path::{MAIN_SEPARATOR, Path};

/// Seconds a client is asked to wait before it tries again.
const RETRY_SECONDS: u64 = 1;

/// The code of an answer that took too long.
const TIMEOUT: &str = "timeout";

/// The code, in Anthropic's details, of a conversation that is not kept.
const NO_THREADS: &str = "thread_unsupported_request";

/// An answer that is none.
#[derive(Clone, Debug)]
pub struct Failure {
    pub status: StatusCode,
    message: String,
    /// The field that is wrong.
    param: Option<String>,
    code: Option<&'static str>,
}

pub type Outcome<T> = Result<T, Failure>;

/// What names of a chat's fields begin with, and how they begin in the request that was made into it; the first that fits
/// counts.
pub type Names = Vec<(String, String)>;

impl Failure {
    fn new(status: StatusCode, message: impl Into<String>, code: Option<&'static str>) -> Failure {
        Failure { status, message: message.into(), param: None, code }
    }

    /// 400: the request makes no sense, whatever is wrong with it.
    pub fn request(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, message, None)
    }

    /// 400 for one field. `problem` goes on after its name.
    pub fn field(name: impl Into<String>, problem: impl AsRef<str>) -> Failure {
        let name = name.into();
        let message = format!("{name} {}", problem.as_ref());
        Failure { param: Some(name), ..Failure::request(message) }
    }

    /// The same, as a problem of a field.
    pub fn of(self, name: &str) -> Failure {
        Failure { param: Some(name.into()), ..self }
    }

    /// The same for whoever has other names for fields.
    pub fn named(self, names: &Names) -> Failure {
        let Some(param) = &self.param else { return self };
        let theirs = |(here, there): &(String, String)| {
            let rest = param.strip_prefix(here.as_str())?;
            (rest.is_empty() || rest.starts_with(['.', '['])).then(|| format!("{there}{rest}"))
        };
        let Some(theirs) = names.iter().find_map(theirs) else { return self };
        let message = self.message.strip_prefix(param.as_str()).map(|rest| format!("{theirs}{rest}"));
        Failure { message: message.unwrap_or_else(|| self.message.clone()), param: Some(theirs), ..self }
    }

    /// What is wrong with a file, without the folder it is in, which is nobody's business.
    pub fn of_file(e: Error, file: &Path) -> Failure {
        let folder = file.parent().map(|folder| format!("{}{MAIN_SEPARATOR}", folder.display()));
        let failure = Failure::from(e);
        Failure { message: failure.message.replace(&folder.unwrap_or_default(), ""), ..failure }
    }

    /// 400: conversations that Anthropic's servers keep. Its packages know the code and send all of it themselves then.
    pub fn no_threads() -> Failure {
        let code = Some(NO_THREADS);
        Failure { code, ..Failure::field("thread", "is not supported: nothing is stored, send the whole conversation") }
    }

    /// 400: more tokens than the context has positions. Agents look for these words, Anthropic's and llama.cpp's, and make room.
    pub fn too_long(tokens: usize, context: usize) -> Failure {
        let message = format!(
            "prompt is too long: {tokens} tokens > {context} maximum; it exceeds the available context size: shorten it, or start the server with a larger --ctx-size"
        );
        Failure::new(StatusCode::BAD_REQUEST, message, Some("context_length_exceeded"))
    }

    /// 401.
    pub fn key() -> Failure {
        let message = "this server asks for an API key: send it as `Authorization: Bearer KEY`";
        Failure::new(StatusCode::UNAUTHORIZED, message, Some("invalid_api_key"))
    }

    /// 403.
    pub fn forbidden(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::FORBIDDEN, message, Some("forbidden"))
    }

    /// 404.
    pub fn no_model(asked: &str, served: &str) -> Failure {
        let message = format!("there is no model {asked:?} here; this server answers as {served:?}");
        Failure { param: Some("model".into()), ..Failure::new(StatusCode::NOT_FOUND, message, Some("model_not_found")) }
    }

    pub fn no_file(name: &str) -> Failure {
        let message = format!("no conversation was saved as {name:?}");
        Failure { param: Some("filename".into()), ..Failure::new(StatusCode::NOT_FOUND, message, Some("not_found")) }
    }

    pub fn no_slot(slots: usize) -> Failure {
        let message = format!("there is no such slot; they are numbered 0 to {}", slots - 1);
        Failure::new(StatusCode::NOT_FOUND, message, Some("not_found"))
    }

    pub fn no_route(path: &str) -> Failure {
        let message = format!("there is nothing at {path:?}; /openapi.json lists what there is");
        Failure::new(StatusCode::NOT_FOUND, message, Some("not_found"))
    }

    /// 404: something that other servers have there.
    pub fn not_here(feature: &str) -> Failure {
        let message = format!("there are no {feature} here; /openapi.json lists what there is");
        Failure::new(StatusCode::NOT_FOUND, message, Some("not_found"))
    }

    /// 405.
    pub fn method(method: &str, path: &str) -> Failure {
        let message = format!("{path} does not answer to {method}");
        Failure::new(StatusCode::METHOD_NOT_ALLOWED, message, Some("method_not_allowed"))
    }

    /// 408: the body did not arrive in time.
    pub fn slow_body(seconds: u64) -> Failure {
        let message = format!("the body did not arrive within {seconds} seconds");
        Failure::new(StatusCode::REQUEST_TIMEOUT, message, Some("body_timeout"))
    }

    /// 413.
    pub fn large_body(most: usize) -> Failure {
        let message = format!("the body is larger than {} MiB", most >> 20);
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, message, Some("body_too_large"))
    }

    /// 415.
    pub fn media(found: Option<&str>) -> Failure {
        let found = found.map_or("none".to_string(), |f| format!("{f:?}"));
        let message = format!("the Content-Type application/json is expected, found {found}");
        Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message, Some("unsupported_media_type"))
    }

    pub fn coding(found: &str) -> Failure {
        let message = format!("the body is expected as it is, found the Content-Encoding {found:?}");
        Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message, Some("unsupported_media_type"))
    }

    /// 429: everything is taken.
    pub fn full(places: usize) -> Failure {
        let message = format!("all {places} places for answers being written or waiting are taken; try again soon");
        Failure::new(StatusCode::TOO_MANY_REQUESTS, message, Some("queue_full"))
    }

    /// 429, for texts nobody is to answer.
    pub fn full_of_words(places: usize) -> Failure {
        let message = format!("{places} texts are worked on or wait for that; try again soon");
        Failure::new(StatusCode::TOO_MANY_REQUESTS, message, Some("queue_full"))
    }

    /// 403: this server was not started for it.
    pub fn closed(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::FORBIDDEN, message, Some("not_supported"))
    }

    /// 503: not yet, or no longer.
    pub fn unavailable(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, message, Some("unavailable"))
    }

    /// 503, to those whose answers are cut off.
    pub fn ending() -> Failure {
        Failure::unavailable("the server is ending")
    }

    /// 503: the answer took too long.
    pub fn timeout(seconds: u64) -> Failure {
        let message = format!("the answer was not done within the {seconds} seconds --timeout allows");
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, message, Some(TIMEOUT))
    }

    pub fn internal(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, message, None)
    }

    /// For the log: a code, or the field that was wrong.
    pub fn reason(&self) -> String {
        let field = self.param.as_deref().map(|name| name.chars().take(64).collect::<String>());
        field.or_else(|| self.code.map(String::from)).unwrap_or_else(|| "the body".into())
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// The whole body, also of an event in a stream that has begun.
    pub fn body(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            503 => "unavailable_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "error": { "message": self.message, "type": kind, "param": self.param, "code": self.code } })
    }
}

impl Failure {
    /// The same in Anthropic's shape.
    pub fn anthropic(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        let mut error = json!({ "type": kind, "message": self.message });
        if self.code == Some(NO_THREADS) {
            error["details"] = json!({ "error_code": NO_THREADS, "unsupported": ["thread"] });
        }
        json!({ "type": "error", "error": error })
    }
}

impl From<Error> for Failure {
    /// What the engine refuses is the request's fault, what fails is ours.
    fn from(e: Error) -> Failure {
        match e {
            Error::Usage(message) => Failure::request(message),
            other => Failure::internal(other.to_string()),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        // For the door, which knows whose API it was.
        response.extensions_mut().insert(self.clone());
        let headers = response.headers_mut();
        match self.status {
            // Again it would take as long. Clients of OpenAI and Anthropic know this header.
            _ if self.code == Some(TIMEOUT) => {
                headers.insert("x-should-retry", HeaderValue::from_static("false"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}
