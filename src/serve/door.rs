//! What every request passes on its way in and out: keys, origins, hosts, counting.

use super::House;
use super::failure::Failure;
use super::line::Busy;
use super::routes;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// Open without a key: what a page needs before it can ask for one, and what watches over the process.
const OPEN: &[&str] = &["/", "/health", "/openapi.json"];

pub async fn door(
    State(house): State<Arc<House>>,
    ConnectInfo(busy): ConnectInfo<Busy>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let _working = busy.begin();
    let arrived = Instant::now();
    let path = routes::known(request.uri().path());
    let anthropic = request.uri().path().starts_with("/v1/messages"); // also where there is nothing
    let origin = request.headers().get(header::ORIGIN).cloned();
    let method = request.method().clone();
    let allowed = origin.as_ref().and_then(|origin| allowed_origin(&house, origin));
    let mut response = match admit(&house, &request) {
        Err(failure) => failure.into_response(),
        Ok(()) if method == Method::OPTIONS && allowed.is_some() => preflight(request.headers()),
        Ok(()) => next.run(request).await,
    };
    let id = format!("req_{}", super::unique());
    if anthropic && let Some(failure) = response.extensions().get::<Failure>() {
        let mut body = failure.anthropic();
        body["request_id"] = id.as_str().into();
        *response.body_mut() = Body::from(body.to_string());
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    if let Some(allowed) = allowed {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
        let exposed =
            HeaderValue::from_static("retry-after, request-id, x-request-id, x-should-retry, x-tools-left-out");
        response.headers_mut().insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        if anthropic {
            response.headers_mut().insert("request-id", id.clone());
        }
        response.headers_mut().insert("x-request-id", id);
    }
    house.metrics.request(path, response.status().as_u16());
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        house.metrics.turned_away(arrived.elapsed());
    }
    let (status, ms) = (response.status().as_u16(), arrived.elapsed().as_millis() as u64);
    // Why, by names that are ours or the field's, which a client chose: never by its words.
    let why = response.extensions().get::<Failure>().map(Failure::reason).unwrap_or_default();
    match response.status().is_success() {
        true => tracing::debug!(%method, path, status, ms, id, "request"),
        false => tracing::info!(%method, path, status, ms, id, why, "request refused"),
    }
    response
}

fn admit(house: &House, request: &Request<Body>) -> Result<(), Failure> {
    check_host(house, request)?;
    let preflight = request.method() == Method::OPTIONS; // browsers send these without keys
    let open = house.settings.keys.is_empty() || preflight || OPEN.contains(&routes::known(request.uri().path()));
    match open || knows_a_key(&house.settings.keys, request.headers()) {
        true => Ok(()),
        false => Err(Failure::key()),
    }
}

/// Without a key a server must not answer to the names of others: a page could point a name of its own at 127.0.0.1, or at
/// an address of this network, and read what is said here.
fn check_host(house: &House, request: &Request<Body>) -> Result<(), Failure> {
    if !house.settings.keys.is_empty() {
        return Ok(());
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(host) = host else { return Ok(()) }; // no browser sends none
    match is_local(host) || host_name(host).eq_ignore_ascii_case(&house.settings.host) {
        true => Ok(()),
        false => Err(Failure::forbidden(
            "this server has no API key, so it answers to addresses and to names of this machine or network (without a dot, or ending in .local, .lan, .internal or .home.arpa), not to names that others could own",
        )),
    }
}

fn host_name(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

/// RFC 1035, section 2.3.4.
const LONGEST_LABEL: usize = 63;

/// Whether a name, or address, means nothing outside of this machine or its network.
fn is_local(host: &str) -> bool {
    let name = host_name(host).trim_end_matches('.').to_ascii_lowercase();
    let ours = [".localhost", ".local", ".lan", ".internal", ".home.arpa"];
    let one_label = (1..=LONGEST_LABEL).contains(&name.len()) && !name.contains('.');
    one_label || ours.iter().any(|end| name.ends_with(end)) || name.parse::<IpAddr>().is_ok()
}

/// Looks at every key in full, so that the time it takes says nothing about how much of one was right.
fn knows_a_key(keys: &[String], headers: &HeaderMap) -> bool {
    let bearer = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let bearer = bearer.and_then(|value| match value.split_at_checked(7) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => Some(key),
        _ => None,
    });
    let Some(given) = bearer.or_else(|| headers.get("x-api-key").map(HeaderValue::as_bytes)) else { return false };
    let given = Sha256::digest(given);
    let same = |key: &String| {
        let difference = Sha256::digest(key.as_bytes()).iter().zip(&given).fold(0, |all, (a, b)| all | (a ^ b));
        u8::from(std::hint::black_box(difference) == 0)
    };
    keys.iter().fold(0, |any, key| any | same(key)) == 1
}

/// The value of `Access-Control-Allow-Origin` for a page of this origin.
fn allowed_origin(house: &House, origin: &HeaderValue) -> Option<HeaderValue> {
    let allowed = house.settings.cors.as_deref()?;
    (allowed == "*" || allowed.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}

/// Whatever headers a page's client wants to send may come: those of an origin that is allowed are no danger, and OpenAI's and
/// Anthropic's send many of their own.
fn preflight(asked: &HeaderMap) -> Response {
    let usual = HeaderValue::from_static("authorization, content-type, x-api-key, anthropic-version");
    let wanted = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned().unwrap_or(usual);
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS")),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, wanted),
        (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600")),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_hosts_are_told_from_names_of_others() {
        for host in [
            "localhost",
            "localhost:8080",
            "LOCALHOST.",
            "a.localhost:1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "::1",
            "box",
            "box.lan",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            assert!(!is_local(host), "{host}");
        }
        assert!(!is_local(&"a".repeat(70_000)));
    }

    #[test]
    fn keys_open_the_door_whole_only() {
        let keys = ["first-key".to_string(), "second-key".to_string()];
        let with = |name: &'static str, value: &str| {
            let value = HeaderValue::from_str(value).expect("a header");
            knows_a_key(&keys, &HeaderMap::from_iter([(header::HeaderName::from_static(name), value)]))
        };
        assert!(with("authorization", "Bearer first-key") && with("authorization", "bearer second-key"));
        assert!(with("x-api-key", "second-key"));
        for wrong in ["Bearer first-ke", "Bearer first-key2", "Basic first-key", "Bearer ", "first-key", "é"] {
            assert!(!with("authorization", wrong), "{wrong}");
        }
        assert!(!knows_a_key(&keys, &HeaderMap::new()));
    }
}
