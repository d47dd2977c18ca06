//! Which path leads where, in one list that the document at `/openapi.json` is held against.

use super::failure::Failure;
use super::{House, answers, door, figures, slots, thermocline, watch, words};
use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get, post};
use std::sync::Arc;

/// Every path and the method it answers to. A name in braces stands for the rest of a path.
pub const ROUTES: &[(&str, &str)] = &[
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/props"),
    ("GET", "/thermocline"),
    ("GET", "/thermocline/stream"),
    ("GET", "/openapi.json"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/v1/responses"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/apply-template"),
    ("GET", "/slots"),
    ("POST", "/slots/{slot}"),
];

/// Features of other servers that people look for here, refused by name.
const MISSING: &[(&str, &str)] = &[("/v1/embeddings", "embeddings"), ("/embeddings", "embeddings")];

/// Other names, for those who leave the version out, or put it in.
const ALIASES: &[(&str, &str)] = &[
    ("/chat/completions", "/v1/chat/completions"),
    ("/completions", "/v1/completions"),
    ("/models", "/v1/models"),
    ("/v1/health", "/health"),
];

pub fn router(house: Arc<House>) -> Router {
    let mut router = Router::new();
    for &(_, path) in ROUTES {
        // In axum's spelling a name that takes the rest of the path has a star: names of models have slashes.
        router = router.route(&path.replace("{model}", "{*model}"), handler(path));
    }
    for &(path, feature) in MISSING {
        router = router.route(path, post(move || async move { Failure::not_here(feature) }));
    }
    for &(path, is) in ALIASES {
        router = router.route(path, handler(is));
    }
    router
        .fallback(|uri: Uri| async move { Failure::no_route(uri.path()) })
        .method_not_allowed_fallback(
            |method: Method, uri: Uri| async move { Failure::method(method.as_str(), uri.path()) },
        )
        .layer(from_fn_with_state(house.clone(), door::door))
        .with_state(house)
}

fn handler(path: &str) -> MethodRouter<Arc<House>> {
    match path {
        "/" => get(watch::page),
        "/health" => get(watch::health),
        "/metrics" => get(figures::metrics),
        "/props" => get(watch::props),
        "/thermocline" => get(thermocline::now),
        "/thermocline/stream" => get(thermocline::stream),
        "/openapi.json" => get(watch::document),
        "/v1/models" => get(watch::models),
        "/v1/models/{model}" => get(watch::model),
        "/v1/chat/completions" => post(answers::chat),
        "/v1/completions" => post(answers::completion),
        "/v1/messages" => post(answers::message),
        "/v1/messages/count_tokens" => post(words::count_tokens),
        "/v1/responses" => post(answers::response),
        "/tokenize" => post(words::tokenize),
        "/detokenize" => post(words::detokenize),
        "/apply-template" => post(words::apply_template),
        "/slots" => get(slots::list),
        "/slots/{slot}" => post(slots::act),
        other => unreachable!("{other} is in the list and has no handler"),
    }
}

/// What logs and metrics call a path: one of the list, so that nobody's inventions fill them.
pub fn known(path: &str) -> &'static str {
    if let Some((_, is)) = ALIASES.iter().find(|(alias, _)| *alias == path) {
        return is;
    }
    let missing = MISSING.iter().map(|(path, _)| *path);
    let mut all = ROUTES.iter().map(|(_, path)| *path).chain(missing);
    let fits = |route: &&str| match route.split_once('{') {
        Some((beginning, _)) => path.len() > beginning.len() && path.starts_with(beginning),
        None => *route == path,
    };
    all.find(fits).unwrap_or("other")
}
