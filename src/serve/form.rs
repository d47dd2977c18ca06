//! What an answer is to be held to: `response_format`, and llama.cpp's `grammar` and `json_schema`.

use super::Served;
use super::failure::{Failure, Outcome};
use super::fields::Fields;
use crate::engine::grammar::{Form, Grammar};
use serde_json::Value;

/// A form, and the field that asked for it.
pub type Asked = (Form, String);

/// The one form a request names.
pub fn asked(fields: &mut Fields) -> Outcome<Option<Asked>> {
    let mut asked = response_format(fields)?;
    for name in ["grammar", "json_schema"] {
        let form = match name {
            "grammar" => fields.text(name)?.filter(|text| !text.trim().is_empty()).map(Form::Grammar),
            _ => fields.take(name).map(Form::Schema),
        };
        if let Some(form) = form {
            if asked.is_some() {
                return Err(Failure::field(name, "says what the answer must be, and so does another field"));
            }
            asked = Some((form, name.to_string()));
        }
    }
    Ok(asked)
}

/// The schema of a form that is JSON. Errors: 400 for another.
pub fn json((form, field): Asked) -> Outcome<Value> {
    match form {
        Form::Object => Ok(serde_json::json!({ "type": "object" })),
        Form::Schema(schema) => Ok(schema),
        _ => Err(Failure::field(field, "together with tools is not supported; a JSON schema is")),
    }
}

/// Errors: 400 naming the field.
pub fn compile((form, field): &Asked, served: &Served) -> Outcome<Grammar> {
    served.engine.grammar(form).map_err(|e| match e {
        crate::error::Error::Usage(why) => Failure::field(field, format!("is refused: {why}")),
        other => other.into(),
    })
}

/// OpenAI's object; llama.cpp's spelling of it, with `schema` beside `type`, is read too.
fn response_format(fields: &mut Fields) -> Outcome<Option<Asked>> {
    let Some(mut format) = fields.object("response_format")? else { return Ok(None) };
    let kind = format.text("type")?;
    let asked = match kind.as_deref() {
        Some("text") => None,
        Some("json_object") => {
            let place = format.name("schema");
            let form = format.take("schema").map_or(Form::Object, Form::Schema);
            Some((form, place))
        }
        Some("json_schema") => Some(match format.object("json_schema")? {
            Some(mut named) => {
                let asked = schema(&mut named)?;
                for text in ["name", "description"] {
                    named.text(text)?;
                }
                named.flag("strict")?; // answers keep to their schema whether they are asked to or not
                named.end()?;
                asked
            }
            None => schema(&mut format)?,
        }),
        Some("grammar") => match format.text("grammar")? {
            Some(text) => Some((Form::Grammar(text), format.name("grammar"))),
            None => return Err(Failure::field(format.name("grammar"), "is missing")),
        },
        _ => {
            let problem = "is none of \"text\", \"json_object\" and \"json_schema\"";
            return Err(Failure::field(format.name("type"), problem));
        }
    };
    format.end().map(|()| asked)
}

/// The `schema` of an object that has to have one.
pub fn schema(fields: &mut Fields) -> Outcome<Asked> {
    let place = fields.name("schema");
    match fields.take("schema") {
        Some(schema @ Value::Object(_)) => Ok((Form::Schema(schema), place)),
        Some(_) => Err(Failure::field(place, "is no object")),
        None => Err(Failure::field(place, "is missing")),
    }
}
