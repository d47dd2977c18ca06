//! The document at `/openapi.json` and the routes: each says what the other does.

use super::client::serve;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use thermocline::serve::ROUTES;

fn document() -> Value {
    serde_json::from_str(include_str!("../../src/serve/openapi.json")).expect("the document is JSON")
}

#[test]
fn the_document_lists_the_routes() {
    let document = document();
    let mut listed = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        listed.extend(operations.as_object().expect("operations").keys().map(|m| (m.to_uppercase(), path.clone())));
    }
    let routes: BTreeSet<(String, String)> = ROUTES.iter().map(|(m, p)| (m.to_string(), p.to_string())).collect();
    assert_eq!(listed, routes);
}

/// Every `$ref` leads somewhere, and nothing named is unused.
#[test]
fn references_hold() {
    fn walk(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(String::from));
                map.values().for_each(|value| walk(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut used = BTreeSet::new();
    walk(&document, &mut used);
    let mut named = BTreeSet::new();
    for kind in ["responses", "schemas"] {
        let names = document["components"][kind].as_object().expect("components").keys();
        named.extend(names.map(|name| format!("#/components/{kind}/{name}")));
    }
    assert_eq!(used, named);
}

/// Every route answers as the document says, and every field the document names is known.
#[test]
fn routes_answer_as_documented() {
    let served = serve(&[]);
    let document = document();
    assert!(served.get("/openapi.json").json() == document, "it is served as it is");
    for (method, path) in ROUTES {
        let operation = &document["paths"][path][method.to_lowercase()];
        let documented = |status: u16| operation["responses"].get(status.to_string()).is_some();
        if *path == "/thermocline/stream" {
            continue; // it does not end: tests/api/thermocline.rs reads it
        }
        if *path == "/slots/{slot}" {
            continue; // it wants a folder: tests/api/slots.rs has one
        }
        if *method == "GET" {
            let reply = served.get(&path.replace("{model}", "bundled"));
            assert_eq!(reply.status, 200, "{path}");
            let kind =
                reply.header("content-type").expect("a type").split(';').next().expect("a first part").to_string();
            assert!(operation["responses"]["200"]["content"].get(kind).is_some(), "{path}: {reply:?}");
            continue;
        }
        let mut schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        if let Some(reference) = schema["$ref"].as_str() {
            schema = document.pointer(&reference[1..]).expect("checked by another test");
        }
        let mut least = json!({});
        for field in schema["required"].as_array().expect("required fields") {
            least[field.as_str().expect("a name")] = match field.as_str() {
                Some("messages") => json!([{ "role": "user", "content": "Hi" }]),
                Some("max_tokens") => json!(16),
                Some("tokens") => json!([1, 2]),
                _ => json!("Hi"),
            };
        }
        let reply = served.post(path, &least);
        assert!(reply.status == 200 && documented(200), "{path}: {reply:?}");
        for field in reply_fields(&document, operation) {
            assert!(reply.json().get(&field).is_some(), "{path}: no {field} in {reply:?}");
        }
        for field in schema["properties"].as_object().expect("properties").keys().filter(|f| least.get(f).is_none()) {
            let mut body = least.clone();
            body[field] = Value::Null;
            assert_eq!(served.post(path, &body).status, 200, "{path}: {field} is null");
            body[field] = json!({ "no": "sense" });
            let reply = served.post(path, &body);
            assert!(!reply.body.contains(&format!("\"{field} is no field")), "{path}: {field}: {reply:?}");
            assert!(documented(reply.status), "{path}: {field}: {reply:?}");
        }
        for field in schema["required"].as_array().expect("required fields") {
            let mut body = least.clone();
            body[field.as_str().expect("a name")] = Value::Null;
            assert_eq!(served.post(path, &body).status, 400, "{path}");
        }
        assert!(served.post(path, &json!({ "odd": 1 })).status == 400 && documented(400));
        // What nobody knows may say nothing.
        assert_eq!(schema["additionalProperties"], json!({ "type": "null" }), "{path}");
        let mut body = least.clone();
        body["odd"] = Value::Null;
        assert_eq!(served.post(path, &body).status, 200, "{path}");
        assert!(served.raw(&format!("POST {path} HTTP/1.1"), b"{}").status == 415 && documented(415));
    }
}

fn reply_fields(document: &Value, operation: &Value) -> Vec<String> {
    let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
    let schema = schema["$ref"].as_str().map_or(Some(schema), |reference| document.pointer(&reference[1..]));
    let required = schema.expect("checked by another test")["required"].as_array().cloned().unwrap_or_default();
    required.iter().filter_map(|field| field.as_str().map(String::from)).collect()
}
