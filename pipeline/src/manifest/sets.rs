//! `--set stage.key=value`: one option of a manifest changed from outside.

use super::faults::{Fault, Faults};
use super::kinds::{self, StageOptions};
use super::read::{Raw, json};
use super::{Manifest, nearest, reference};
use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

/// Applies overrides to the tables as read.
pub(super) fn apply_sets(sets: &[String], manifest: &mut Manifest, raws: &mut [Raw], faults: &mut Faults) {
    for set in sets {
        let Some((target, written)) = set.split_once('=') else {
            faults.push(Fault { line: 0, message: format!("--set {set}: expected stage.key=value"), hint: None });
            continue;
        };
        let value = match DeTable::parse(&format!("v = {written}")) {
            Ok(table) => table.get_ref().iter().next().map(|(_, v)| json(v.get_ref())).unwrap_or(Value::Null),
            Err(_) => Value::String(written.to_string()),
        };
        let path = key_path(target);
        match path.split_first() {
            Some((key, [])) if key == "seed" => match value.as_u64() {
                Some(seed) => manifest.seed = seed,
                None => {
                    let message = format!("--set {set}: `seed` must be a whole number from 0 up");
                    faults.push(Fault { line: 0, message, hint: None });
                }
            },
            Some((stage, [key, inside @ ..])) if raws.iter().any(|r| r.name == *stage) => {
                let raw = raws.iter_mut().find(|r| r.name == *stage).expect("it was found one line up");
                let schema = match raw.values.get("kind").and_then(Value::as_str).filter(|k| kinds::info(k).is_some()) {
                    Some(kind) => StageOptions::schema(kind),
                    None => Value::Null,
                };
                let at = raw.values.entry(key.clone()).or_insert(Value::Null);
                put(at, inside, value, &schema["properties"][key], &schema);
            }
            _ => {
                let names: Vec<String> = raws.iter().map(|r| r.name.clone()).collect();
                let first = path.first().map_or(target, String::as_str);
                let hint = match names.iter().any(|n| n == first) {
                    true => Some(format!("name the option too, as in  --set {first}.key=value")),
                    false => nearest(first, &names).map(|n| format!("did you mean stage `{n}`?")),
                };
                faults.push(Fault {
                    line: 0,
                    message: format!("--set {set}: no such stage   (known: {})", names.join(", ")),
                    hint,
                });
            }
        }
    }
}

/// The parts of a dotted key; parts in quotes may hold dots.
fn key_path(target: &str) -> Vec<String> {
    let text = format!("{target} = 0");
    let Ok(table) = DeTable::parse(&text) else { return target.split('.').map(String::from).collect() };
    let (mut path, mut table) = (Vec::new(), table.get_ref());
    while let Some((key, value)) = table.iter().next() {
        path.push(key.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(inside) => table = inside,
            _ => break,
        }
    }
    path
}

/// Puts a value at a path below an option. Tables of plain values have names that may hold dots: the rest of the path is one.
fn put(at: &mut Value, path: &[String], value: Value, property: &Value, schema: &Value) {
    let Some((first, rest)) = path.split_first() else {
        let types = reference::type_of(property, schema);
        let takes = |name: &str| types.split(" or ").any(|t| t.starts_with(name));
        // One word for an option that takes a list is a list of one.
        let alone = takes("list of") && !takes("string");
        *at = if alone && !matches!(value, Value::Array(_) | Value::Object(_)) {
            Value::Array(vec![value])
        } else {
            value
        };
        return;
    };
    if !at.is_object() {
        *at = Value::Object(Map::new());
    }
    let table = at.as_object_mut().expect("it was made one two lines up");
    let object = reference::object_of(property, schema);
    let (name, rest, inside) = match &object["properties"][first] {
        Value::Null => {
            let each = reference::object_of(&object["additionalProperties"], schema);
            match each["type"] == "object" {
                true => (first.clone(), rest, each),
                false => (path.join("."), &[][..], each),
            }
        }
        own => (first.clone(), rest, own),
    };
    put(table.entry(name).or_insert(Value::Null), rest, value, inside, schema);
}
