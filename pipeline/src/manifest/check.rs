//! One stage's table against its kind: known keys, number of inputs, options that can be read, a name that hides nothing.

use super::faults::{Fault, Faults};
use super::kinds::{self, StageOptions};
use super::read::Raw;
use super::{Stage, nearest};
use crate::retain::{RETAIN, Retain};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Keys every stage may have.
const COMMON: [&str; 5] = ["kind", "input", "inputs", "seed", RETAIN];

/// The stage, and whether nothing is wrong with its options; None if its kind is not known.
pub(super) fn check_stage(raw: &Raw, seed: u64, faults: &mut Faults) -> Option<(Stage, bool)> {
    let names: Vec<String> = kinds::KINDS.iter().map(|k| k.name.to_string()).collect();
    let Some(Value::String(kind)) = raw.values.get("kind") else {
        faults.push(Fault {
            line: raw.line,
            message: format!("stage `{}` has no `kind`", raw.name),
            hint: Some(format!("one of: {}", names.join(", "))),
        });
        return None;
    };
    let Some(info) = kinds::info(kind) else {
        let hint = nearest(kind, &names).map(|n| format!("did you mean `{n}`?"));
        faults.push(Fault {
            line: raw.line_of("kind"),
            message: format!("unknown kind `{kind}` in stage `{}`   (known: {})", raw.name, names.join(", ")),
            hint,
        });
        return None;
    };
    let mut table = raw.values.clone();
    let inputs = take_inputs(&mut table, raw, faults);
    let own_seed = if info.seeded { table.remove("seed") } else { None };
    let seed = match own_seed {
        None => seed,
        Some(value) => value.as_u64().unwrap_or_else(|| {
            let message = format!("`seed` in stage `{}` must be a whole number from 0 up", raw.name);
            faults.push(Fault { line: raw.line_of("seed"), message, hint: None });
            seed
        }),
    };
    table.remove("kind");
    let retain = Retain::read(table.remove(RETAIN).as_ref(), info).unwrap_or_else(|(what, hint)| {
        let message = format!("`{RETAIN}` in stage `{}`: {what}", raw.name);
        faults.push(Fault { line: raw.line_of(RETAIN), message, hint: Some(hint) });
        Retain::All
    });
    let mut references = BTreeMap::new();
    for reference in info.references {
        let named = table.remove(reference.key).map(|v| stage_names(&v));
        match named {
            Some(Some(names)) => drop(references.insert(reference.key.to_string(), names)),
            Some(None) => faults.push(Fault {
                line: raw.line_of(reference.key),
                message: format!("`{}` in stage `{}` must name a stage", reference.key, raw.name),
                hint: None,
            }),
            None if reference.required => faults.push(Fault {
                line: raw.line,
                message: format!(
                    "stage `{}` needs `{}`, the name of a stage that makes a {}",
                    raw.name,
                    reference.key,
                    format!("{:?}", reference.makes).to_lowercase()
                ),
                hint: None,
            }),
            None => {}
        }
    }
    let mut known = kinds::option_names(kind);
    known.extend(info.references.iter().map(|r| r.key.to_string()));
    for key in table.keys().filter(|k| !known.contains(k)).cloned().collect::<Vec<_>>() {
        let mut all = known.clone();
        all.extend(COMMON.iter().filter(|c| info.seeded || **c != "seed").map(|s| s.to_string()));
        let message = format!("unknown field `{key}` in stage `{}`", raw.name);
        faults.unknown_on_line(raw.line_of(&key), &message, &key, &all);
        table.remove(&key);
    }
    let (least, most) = info.inputs;
    let counted = inputs.len() >= least && inputs.len() <= most;
    let named = raw.values.contains_key("input") || raw.values.contains_key("inputs");
    if !counted && (!named || !inputs.is_empty()) {
        let expected = match (least, most) {
            (0, 0) => "no input".to_string(),
            (1, 1) => "1 input".to_string(),
            (a, b) if a == b => format!("{a} inputs"),
            (a, b) => format!("{a} to {b} inputs"),
        };
        let (got, hint) = match raw.values.contains_key("input") && raw.values.contains_key("inputs") {
            true => (
                format!("{} from `input` and `inputs` together", inputs.len()),
                "both keys are there: keep one of them".to_string(),
            ),
            false if most == 0 => (inputs.len().to_string(), "take `input` away".to_string()),
            false if most == 1 => (inputs.len().to_string(), "name it with  input = \"stage\"".to_string()),
            false => {
                (inputs.len().to_string(), "name them with  input = \"stage\"  or  inputs = [\"a\", \"b\"]".to_string())
            }
        };
        let line = if raw.lines.contains_key("input") { raw.line_of("input") } else { raw.line_of("inputs") };
        let message = format!("stage `{}` (kind {kind}) takes {expected}, got {got}", raw.name);
        faults.push(Fault { line, message, hint: Some(hint) });
    }
    let (options, found) = StageOptions::read(kind, &table);
    let whole = found.is_empty() && counted;
    for f in found {
        let message = match f.key.as_str() {
            "kind" => format!("stage `{}`: {}", raw.name, f.message),
            key => format!("`{key}` in stage `{}`: {}", raw.name, f.message),
        };
        faults.push(Fault { line: raw.line_of(&f.key), message, hint: f.hint });
    }
    let stage =
        Stage { name: raw.name.clone(), kind: info.name, inputs, references, options, seed, retain, line: raw.line };
    Some((stage, whole))
}

/// Endings of the tables that stand beside a stage's own, and names that a run uses itself.
const ENDINGS: [&str; 6] = ["_all", "_verdicts", "_edits", "_metrics", "_report", "_trace"];
const TAKEN: [&str; 3] = ["history", "stages", "report"];

/// Names that would hide another table or file of the run.
pub(super) fn check_names(raws: &[Raw], faults: &mut Faults) {
    for (i, raw) in raws.iter().enumerate() {
        let lower = raw.name.to_ascii_lowercase();
        let clash = if let Some(ending) = ENDINGS.iter().find(|e| lower.ends_with(**e)) {
            Some(format!("ends in `{ending}`, which names the tables beside a stage in SQL"))
        } else if TAKEN.contains(&lower.as_str()) {
            Some("is a name that every run uses itself".to_string())
        } else {
            let other = raws[..i].iter().find(|r| r.name.to_ascii_lowercase() == lower);
            other.map(|other| {
                format!("differs from stage `{}` only in case, which SQL and some file systems ignore", other.name)
            })
        };
        if let Some(clash) = clash {
            let hint =
                Some(format!("call it something else, e.g. `{}_2`", raw.name.split('_').next().unwrap_or("stage")));
            faults.push(Fault { line: raw.line, message: format!("the stage name `{}` {clash}", raw.name), hint });
        }
    }
}

fn take_inputs(table: &mut Map<String, Value>, raw: &Raw, faults: &mut Faults) -> Vec<String> {
    let mut inputs = Vec::new();
    for key in ["input", "inputs"] {
        if let Some(value) = table.remove(key) {
            match stage_names(&value) {
                Some(names) => inputs.extend(names),
                None => faults.push(Fault {
                    line: raw.line_of(key),
                    message: format!("`{key}` in stage `{}` must name stages", raw.name),
                    hint: None,
                }),
            }
        }
    }
    inputs
}

fn stage_names(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(s) => Some(vec![s.clone()]),
        Value::Array(items) => items.iter().map(|i| i.as_str().map(String::from)).collect(),
        _ => None,
    }
}
