//! The manual of manifests, made from the options themselves: JSON schema and Markdown reference.

use super::kinds::{KINDS, KindInfo, StageOptions};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// The JSON schema of a manifest.
pub fn json_schema() -> Value {
    let mut definitions = Map::new();
    let mut kinds = Vec::new();
    for info in KINDS {
        let mut schema = StageOptions::schema(info.name);
        if let Some(more) = schema.as_object_mut().and_then(|s| s.remove("$defs")).and_then(|d| d.as_object().cloned())
        {
            definitions.extend(more);
        }
        if let Some(object) = schema.as_object_mut() {
            object.remove("$schema");
            object.insert("description".into(), info.summary.into());
            let properties = object.entry("properties").or_insert_with(|| json!({}));
            let properties = properties.as_object_mut().expect("properties are an object in every schema");
            properties.insert("kind".into(), json!({ "const": info.name }));
            let names = json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] });
            for key in ["input", "inputs"]
                .iter()
                .filter(|_| info.inputs.1 > 0)
                .chain(&info.references.iter().map(|r| r.key).collect::<Vec<_>>())
            {
                properties.insert(key.to_string(), names.clone());
            }
            if info.seeded {
                properties.entry("seed").or_insert_with(|| json!({ "type": "integer", "minimum": 0 }));
            }
            object.insert("required".into(), json!(["kind"]));
        }
        definitions.insert(format!("stage_{}", info.name), schema);
        kinds.push(json!({ "$ref": format!("#/$defs/stage_{}", info.name) }));
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gristmill manifest",
        "type": "object",
        "required": ["name", "stage"],
        "additionalProperties": false,
        "properties": {
            "name": { "type": "string", "description": "Name of the run; its folder is DIR/<name>." },
            "seed": { "type": "integer", "minimum": 0, "description": "Seed of every stage that does not set its own." },
            "stage": { "type": "object", "additionalProperties": { "oneOf": kinds } },
        },
        "$defs": definitions,
    })
}

/// The reference of all kinds and options as Markdown.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Manifest reference\n\nMade by `gristmill schema --markdown`; do not edit.\n\nA manifest has `name`, an optional `seed` and a table of \
         stages. Every stage has a `kind`; `input = \"stage\"` or `inputs = [\"a\", \"b\"]` names what it reads. Stages that use \
         randomness take a `seed` of their own.\n",
    );
    for info in KINDS {
        kind(info, &mut out);
    }
    out
}

fn kind(info: &KindInfo, out: &mut String) {
    let (least, most) = info.inputs;
    let inputs = match (least, most) {
        (0, 0) => "no input".to_string(),
        (a, b) if a == b => format!("{a} input{}", if a == 1 { "" } else { "s" }),
        (a, b) => format!("{a} to {b} inputs"),
    };
    let _ = write!(out, "\n## {}\n\n{} Takes {inputs}; makes a {:?}.\n", info.name, info.summary, info.makes);
    let schema = StageOptions::schema(info.name);
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    if properties.is_empty() && info.references.is_empty() {
        return;
    }
    out.push_str("\n| option | type | default | meaning |\n|---|---|---|---|\n");
    for reference in info.references {
        let need = if reference.required { "required" } else { "none" };
        let _ = writeln!(out, "| `{}` | stage | {need} | a stage that makes a {:?} |", reference.key, reference.makes);
    }
    for (name, property) in properties {
        let text = |v: &Value| v.as_str().unwrap_or("").replace('\n', " ").replace('|', "\\|");
        let _ = writeln!(
            out,
            "| `{name}` | {} | `{}` | {} |",
            type_of(&property, &schema).replace('|', "\\|"),
            property.get("default").unwrap_or(&Value::Null),
            text(&property["description"])
        );
    }
}

fn type_of(property: &Value, schema: &Value) -> String {
    if let Some(name) = property["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
        return type_of(&schema["$defs"][name], schema);
    }
    if let Some(values) = property["enum"].as_array() {
        return values
            .iter()
            .map(|v| v.as_str().map_or_else(|| v.to_string(), |s| format!("\"{s}\"")))
            .collect::<Vec<_>>()
            .join(" or ");
    }
    if let Some(value) = property.get("const") {
        return value.to_string();
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(options) = property[key].as_array() {
            let mut types: Vec<String> = options.iter().map(|o| type_of(o, schema)).filter(|t| t != "null").collect();
            types.dedup();
            return types.join(" or ");
        }
    }
    match &property["type"] {
        Value::String(t) if t == "array" => format!("list of {}", type_of(&property["items"], schema)),
        Value::String(t) => t.clone(),
        Value::Array(ts) => {
            ts.iter().filter_map(Value::as_str).filter(|t| *t != "null").collect::<Vec<_>>().join(" or ")
        }
        _ => "any".to_string(),
    }
}
