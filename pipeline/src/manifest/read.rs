//! The manifest's text as tables: name, seed and each stage's keys with their lines, before any kind is looked at.

use super::Manifest;
use super::faults::{Fault, Faults};
use crate::engine::Engine;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A stage's table as read, before its kind is looked at.
pub(super) struct Raw {
    pub name: String,
    pub line: usize,
    /// Line of each key.
    pub lines: BTreeMap<String, usize>,
    pub values: Map<String, Value>,
}

impl Raw {
    pub fn line_of(&self, key: &str) -> usize {
        self.lines.get(key).copied().unwrap_or(self.line)
    }
}

pub(super) fn top_level(document: &DeTable<'_>, manifest: &mut Manifest, faults: &mut Faults) -> Vec<Raw> {
    let mut raws = Vec::new();
    for (key, value) in document {
        let at = key.span().start;
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("name", DeValue::String(name)) if is_name(name) => manifest.name = name.to_string(),
            ("name", _) => faults.at_offset(
                value.span().start,
                "`name` must be a word of letters, digits, `_` and `-`".into(),
                None,
            ),
            ("seed", DeValue::Integer(_)) => match json(value.get_ref()).as_u64() {
                Some(seed) => manifest.seed = seed,
                None => faults.at_offset(value.span().start, "`seed` must be a whole number from 0 up".into(), None),
            },
            ("seed", other) => {
                faults.at_offset(value.span().start, format!("`seed` must be a number, got {}", other.type_str()), None)
            }
            ("engine", DeValue::String(name)) => manifest.engine = Some(name.to_string()),
            ("scheduler", DeValue::String(address)) => manifest.scheduler = Some(address.to_string()),
            (field @ ("engine" | "scheduler"), other) => faults.at_offset(
                value.span().start,
                format!("`{field}` must be a string, got {}", other.type_str()),
                None,
            ),
            ("stage", DeValue::Table(stages)) => {
                for (name, table) in stages {
                    raws.extend(raw_stage(name, table, faults));
                }
            }
            ("stage", other) => faults.at_offset(
                value.span().start,
                format!("`stage` must be a table of stages, got {}", other.type_str()),
                None,
            ),
            (other, _) => {
                let known = ["name", "seed", "engine", "scheduler", "stage"];
                faults.unknown(
                    at,
                    &format!("unknown field `{other}` in the manifest"),
                    other,
                    &known.map(String::from),
                );
            }
        }
    }
    if manifest.name.is_empty() && !document.iter().any(|(k, _)| k.get_ref() == "name") {
        faults.push(Fault {
            line: 1,
            message: "the manifest has no `name`".into(),
            hint: Some("add a first line such as  name = \"my-run\"".into()),
        });
    }
    if let Some(name) = &manifest.engine
        && let Err(message) = Engine::of(name, manifest.scheduler.as_deref())
    {
        let line = text_line(document, "engine", faults);
        faults.push(Fault { line, message, hint: None });
    } else if manifest.engine.is_none() && manifest.scheduler.is_some() {
        let line = text_line(document, "scheduler", faults);
        let hint = Some("add  engine = \"ballista\"".into());
        faults.push(Fault { line, message: "`scheduler` is for  engine = \"ballista\"".into(), hint });
    }
    if raws.is_empty() && faults.is_empty() {
        faults.push(Fault {
            line: 1,
            message: "the manifest has no stage".into(),
            hint: Some("add one, e.g.  [stage.crawl]".into()),
        });
    }
    raws.sort_by_key(|r| r.line);
    raws
}

/// Line of a top-level key.
fn text_line(document: &DeTable<'_>, key: &str, faults: &Faults) -> usize {
    document.iter().find(|(k, _)| k.get_ref() == key).map_or(0, |(k, _)| faults.line(k.span().start))
}

fn raw_stage(
    name: &Spanned<std::borrow::Cow<'_, str>>,
    table: &Spanned<DeValue<'_>>,
    faults: &mut Faults,
) -> Option<Raw> {
    let line = faults.line(name.span().start);
    if !is_name(name.get_ref()) {
        faults.at_offset(
            name.span().start,
            format!("stage name `{}` must be letters, digits and `_`", name.get_ref()),
            None,
        );
        return None;
    }
    let DeValue::Table(keys) = table.get_ref() else {
        faults.at_offset(
            table.span().start,
            format!("stage `{}` must be a table, got {}", name.get_ref(), table.get_ref().type_str()),
            None,
        );
        return None;
    };
    let mut raw = Raw { name: name.get_ref().to_string(), line, lines: BTreeMap::new(), values: Map::new() };
    for (key, value) in keys {
        raw.lines.insert(key.get_ref().to_string(), faults.line(key.span().start));
        raw.values.insert(key.get_ref().to_string(), json(value.get_ref()));
    }
    Some(raw)
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

pub(super) fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(s) => Value::String(s.to_string()),
        DeValue::Integer(i) => i128::from_str_radix(&i.as_str().replace('_', ""), i.radix()).map_or(Value::Null, |n| {
            // A number too large for an integer is still one to show.
            u64::try_from(n)
                .map(Value::from)
                .or_else(|_| i64::try_from(n).map(Value::from))
                .unwrap_or((n as f64).into())
        }),
        // JSON has no number for `inf` and `nan`: as strings they are refused under their own names.
        DeValue::Float(f) => match f.as_str().replace('_', "").parse::<f64>() {
            Ok(x) if x.is_finite() => x.into(),
            _ => Value::String(f.to_string()),
        },
        DeValue::Boolean(b) => Value::Bool(*b),
        DeValue::Datetime(d) => Value::String(d.to_string()),
        DeValue::Array(items) => Value::Array(items.iter().map(|i| json(i.get_ref())).collect()),
        DeValue::Table(t) => {
            Value::Object(t.iter().map(|(k, v)| (k.get_ref().to_string(), json(v.get_ref()))).collect())
        }
    }
}
