//! The manual of manifests, made from the options themselves: JSON schema and Markdown reference.

use super::kinds::{KINDS, KindInfo, StageOptions};
use crate::retain::{RETAIN, Retain};
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
            if Retain::is_for(info) {
                let about =
                    "What stays once every stage that reads this one is committed: all, or only verdicts and edits.";
                properties.insert(
                    RETAIN.into(),
                    json!({ "enum": ["all", "verdicts"], "default": "all", "description": about }),
                );
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
         randomness take a `seed` of their own. Stages that make verdicts take `retain = \"verdicts\"`: once every stage that reads them is \
         committed, their documents go; verdicts, edits and digest stay, and if the documents are asked for again the stage runs again.\n",
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
        let (one, many) = if LISTS.contains(&reference.key) {
            ("list of stages", "stages that make a")
        } else {
            ("stage", "a stage that makes a")
        };
        let _ = writeln!(out, "| `{}` | {one} | {need} | {many} {:?} |", reference.key, reference.makes);
    }
    for (name, property) in &properties {
        rows(name, property, &schema, out);
    }
    if info.name == "filter" {
        rules(out);
    }
}

/// References that take several stages.
const LISTS: [&str; 2] = ["against", "models"];

/// The row of an option, and of the options inside it.
fn rows(name: &str, property: &Value, schema: &Value, out: &mut String) {
    let text = |v: &Value| v.as_str().unwrap_or("").replace('\n', " ").replace('|', "\\|");
    let _ = writeln!(
        out,
        "| `{name}` | {} | `{}` | {} |",
        type_of(property, schema).replace('|', "\\|"),
        property.get("default").unwrap_or(&Value::Null),
        text(&property["description"])
    );
    let object = object_of(property, schema);
    let each = object_of(&object["additionalProperties"], schema);
    for (inside, of) in [(object, name.to_string()), (each, format!("{name}.NAME"))] {
        for (key, property) in inside["properties"].as_object().into_iter().flatten() {
            rows(&format!("{of}.{key}"), property, schema, out);
        }
    }
}

/// What a property is when it is an object: itself, what it refers to, or the one alternative that is no null.
pub fn object_of<'a>(property: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(name) = property["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
        return object_of(&schema["$defs"][name], schema);
    }
    let alternatives = property["anyOf"].as_array().into_iter().flatten();
    alternatives.map(|a| object_of(a, schema)).find(|a| a["type"] == "object").unwrap_or(property)
}

/// The rules of filters, by family, and the recipes.
fn rules(out: &mut String) {
    out.push_str(
        "\nThe rules that `rules` and `languages` may name. In `where` and in SQL they are columns with the \
         measured values, and their names stand in double quotes: `where = '\"gopher_quality.min_words\" > 80'`.\n\n\
         | rule | keeps | default | measured |\n|---|---|---|---|\n",
    );
    for rule in filters::rules::known_rules() {
        let keeps = match rule.direction {
            filters::rules::Direction::AtLeast => "at least",
            filters::rules::Direction::AtMost => "at most",
        };
        let about = rule.about.replace('|', "\\|");
        let _ = writeln!(out, "| `{}` | {keeps} | {} | {about} |", rule.name, rule.threshold);
    }
    out.push_str("\nThe recipes:\n\n| recipe | rules |\n|---|---|\n");
    for recipe in filters::rules::known_recipes() {
        let config = filters::rules::FilterConfig {
            recipe: Some((*recipe).to_string()),
            ..filters::rules::FilterConfig::default()
        };
        let rules = filters::rules::resolve(&config).expect("a known recipe is right because it is known");
        let mut families: Vec<(String, Vec<String>)> = Vec::new();
        for rule in rules {
            let (family, measure) = rule.name.split_once('.').expect("every rule has a family");
            match families.last_mut().filter(|(last, _)| last == family) {
                Some((_, measures)) => measures.push(measure.to_string()),
                None => families.push((family.to_string(), vec![measure.to_string()])),
            }
        }
        let shown: Vec<String> = families.iter().map(|(f, ms)| format!("`{f}`: {}", ms.join(", "))).collect();
        let _ = writeln!(out, "| `{recipe}` | {} |", shown.join("; "));
    }
}

/// What to say of a value that cannot be read, from the reader's own message: what was expected and what is there.
pub fn mistyped(message: &str, value: &Value, property: &Value, schema: &Value) -> String {
    if message.contains("did not match any variant") {
        return format!("expected {}, got {value}", words(&type_of(property, schema)));
    }
    let Some((got, expected)) = message
        .strip_prefix("invalid type: ")
        .or(message.strip_prefix("invalid value: "))
        .and_then(|m| m.split_once(", expected "))
    else {
        return message.to_string();
    };
    let number = ["usize", "u64", "u32", "u16", "u8", "i64", "i32"].iter().find(|n| expected.starts_with(**n));
    let expected = match (number, expected) {
        (Some(n), _) if n.starts_with('u') => "a whole number from 0 up",
        (Some(_), _) => "a whole number",
        (None, "f64" | "f32") => "a number",
        (None, "a sequence") => "a list",
        (None, "a map") => "a table, as in { name = value }",
        (None, other) => other,
    };
    let got = got.strip_prefix("floating point ").or(got.strip_prefix("integer ")).unwrap_or(got);
    format!("expected {expected}, got {got}")
}

/// The types of [`type_of`] in words.
fn words(types: &str) -> String {
    let word = |t: &str| match t {
        "string" => "a string".to_string(),
        "integer" => "a whole number".to_string(),
        "number" => "a number".to_string(),
        "boolean" => "true or false".to_string(),
        "object" => "a table, as in { name = value }".to_string(),
        list if list.starts_with("list of ") => format!("a {list}s, as in [\"...\"]"),
        other => other.to_string(),
    };
    types.split(" or ").map(word).collect::<Vec<_>>().join(" or ")
}

/// The types an option takes, joined by ` or `.
pub fn type_of(property: &Value, schema: &Value) -> String {
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
