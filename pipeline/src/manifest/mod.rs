//! The manifest: TOML in, a checked list of stages out, or every fault at once with its line and a way out.

pub mod faults;
pub mod kinds;
mod nearest;
pub mod reference;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::retain::{RETAIN, Retain};
use crate::stage::shape;
use faults::{Fault, Faults};
use kinds::{KindInfo, Output, StageOptions};
pub use nearest::nearest;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A checked manifest.
#[derive(Debug)]
pub struct Manifest {
    /// Name of the run; its folder is `DIR/<name>`.
    pub name: String,
    /// Seed of every stage that does not set its own.
    pub seed: u64,
    /// Who works on fragments, `local` or `ballista`; an argument of `run` wins over it.
    pub engine: Option<String>,
    /// The scheduler of the engine `ballista`, `HOST:PORT`.
    pub scheduler: Option<String>,
    /// The file it was read from.
    pub path: PathBuf,
    /// Folder that paths in it are relative to.
    pub folder: PathBuf,
    /// Stages in an order in which every stage comes after those it reads.
    pub stages: Vec<Stage>,
    /// The text, kept with the run.
    pub text: String,
}

/// One stage of a manifest.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its name: the table and folder it makes.
    pub name: String,
    /// What is known of its kind.
    pub kind: &'static str,
    /// The stages it reads as inputs, in order.
    pub inputs: Vec<String>,
    /// Stages named by options, by option.
    pub references: BTreeMap<String, Vec<String>>,
    /// Its options.
    pub options: StageOptions,
    /// Its seed.
    pub seed: u64,
    /// What it keeps once all that read it are committed.
    pub retain: Retain,
    /// Line of its table in the manifest, from 1.
    pub line: usize,
}

impl Stage {
    /// The kind's description.
    pub fn info(&self) -> &'static KindInfo {
        kinds::info(self.kind).expect("the kind was found when the manifest was read")
    }

    /// All stages it depends on: inputs, then references.
    pub fn needs(&self) -> impl Iterator<Item = &String> {
        self.inputs.iter().chain(self.references.values().flatten())
    }
}

/// Keys every stage may have.
const COMMON: [&str; 5] = ["kind", "input", "inputs", "seed", RETAIN];

/// A stage's table as read, before its kind is looked at.
struct Raw {
    name: String,
    line: usize,
    lines: BTreeMap<String, usize>,
    values: Map<String, Value>,
}

impl Raw {
    fn line_of(&self, key: &str) -> usize {
        self.lines.get(key).copied().unwrap_or(self.line)
    }
}

impl Manifest {
    /// Reads and checks a manifest file; `sets` are `stage.key=value` overrides.
    pub fn load(path: &Path, sets: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::Manifest(format!(
                "error: cannot read the manifest {}: {e}\nhint: give the path of a TOML file, e.g. manifests/quickstart.toml",
                path.display()
            ))
        })?;
        Self::parse(&text, path, sets)
    }

    /// Checks the text of a manifest.
    pub fn parse(text: &str, path: &Path, sets: &[String]) -> Result<Self> {
        let mut faults = Faults::new(path, text);
        let (document, errors) = DeTable::parse_recoverable(text);
        for e in errors {
            faults.at_offset(e.span().map_or(0, |s| s.start), e.message().to_string(), None);
        }
        if !faults.is_empty() {
            return Err(faults.into());
        }
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        let mut unread = BTreeSet::new();
        let mut manifest = Manifest {
            name: String::new(),
            seed: 0,
            engine: None,
            scheduler: None,
            path: path.to_path_buf(),
            folder,
            stages: Vec::new(),
            text: text.to_string(),
        };
        let mut raws = top_level(document.get_ref(), &mut manifest, &mut faults);
        apply_sets(sets, &mut manifest, &mut raws, &mut faults);
        for raw in &raws {
            if let Some((stage, whole)) = check_stage(raw, manifest.seed, &mut faults) {
                if !whole {
                    unread.insert(stage.name.clone());
                }
                manifest.stages.push(stage);
            }
        }
        check_names(&raws, &mut faults);
        unread.extend(check_edges(&raws, &manifest.stages, &mut faults));
        for (stage, raw) in
            manifest.stages.iter().filter_map(|s| raws.iter().find(|r| r.name == s.name).map(|r| (s, r)))
        {
            let mistaken = |key: &str| faults.has(raw.line_of(key), &format!("`{key}`"));
            let found = crate::stage::check_assets(stage, &manifest.folder);
            for f in found.into_iter().filter(|f| !mistaken(&f.key)).collect::<Vec<_>>() {
                faults.push(Fault {
                    line: raw.line_of(&f.key),
                    message: format!("{} (stage `{}`)", f.message, stage.name),
                    hint: f.hint,
                });
            }
        }
        manifest.stages = order(manifest.stages, &mut faults);
        for (stage, f) in shape::check(&manifest.stages, &unread) {
            let raw = raws.iter().find(|r| r.name == stage).expect("stages come from raws");
            let line = match f.key.as_str() {
                "input" if !raw.lines.contains_key("input") => raw.line_of("inputs"),
                key => raw.line_of(key),
            };
            faults.push(Fault { line, message: f.message, hint: f.hint });
        }
        if faults.is_empty() { Ok(manifest) } else { Err(faults.into()) }
    }

    /// A stage by name.
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|s| s.name == name)
    }
}

fn top_level(document: &DeTable<'_>, manifest: &mut Manifest, faults: &mut Faults) -> Vec<Raw> {
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

fn json(value: &DeValue<'_>) -> Value {
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

fn apply_sets(sets: &[String], manifest: &mut Manifest, raws: &mut [Raw], faults: &mut Faults) {
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

/// The stage, and whether nothing is wrong with its options; None if its kind is not known.
fn check_stage(raw: &Raw, seed: u64, faults: &mut Faults) -> Option<(Stage, bool)> {
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
fn check_names(raws: &[Raw], faults: &mut Faults) {
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

/// Gives the stages that read what is not there or of the wrong kind.
fn check_edges(raws: &[Raw], stages: &[Stage], faults: &mut Faults) -> BTreeSet<String> {
    let mut wrong = BTreeSet::new();
    let names: Vec<String> = raws.iter().map(|r| r.name.clone()).collect();
    for stage in stages {
        let raw = raws.iter().find(|r| r.name == stage.name).expect("stages come from raws");
        let info = stage.info();
        if stage.retain == Retain::Verdicts && !stages.iter().any(|s| s.needs().any(|n| *n == stage.name)) {
            faults.push(Fault {
                line: raw.line_of(RETAIN),
                message: format!(
                    "no stage reads `{}`, so nothing would be left to be had of its documents",
                    stage.name
                ),
                hint: Some(format!("take `{RETAIN}` away, or name the stage as an input of another one")),
            });
        }
        let wanted =
            |reference: &str| info.references.iter().find(|r| r.key == reference).map_or(info.reads, |r| r.makes);
        let inputs = stage.inputs.iter().map(|n| ("inputs", n, info.reads));
        let references = stage.references.iter().flat_map(|(key, ns)| ns.iter().map(move |n| (key.as_str(), n)));
        for (key, name, expected) in inputs.chain(references.map(|(k, n)| (k, n, wanted(k)))) {
            let line = if raw.lines.contains_key(key) { raw.line_of(key) } else { raw.line_of("input") };
            if !names.contains(name) {
                wrong.insert(stage.name.clone());
                faults.unknown_on_line(
                    line,
                    &format!("stage `{}` reads `{name}`, which is no stage", stage.name),
                    name,
                    &names,
                );
            } else if let Some(source) = stages.iter().find(|s| s.name == *name) {
                let makes = source.info().makes;
                if makes != expected {
                    wrong.insert(stage.name.clone());
                    faults.push(Fault {
                        line,
                        message: format!(
                            "stage `{}` needs a {} from `{name}`, which (kind {}) makes a {}",
                            stage.name,
                            word(expected),
                            source.kind,
                            word(makes)
                        ),
                        hint: None,
                    });
                }
            }
        }
    }
    wrong
}

fn word(output: Output) -> String {
    format!("{output:?}").to_lowercase()
}

/// Orders stages so that each comes after those it needs, keeping the written order where it is free.
fn order(stages: Vec<Stage>, faults: &mut Faults) -> Vec<Stage> {
    // Names that are no stage are faults of their own.
    let known: BTreeSet<String> = stages.iter().map(|s| s.name.clone()).collect();
    let mut left = stages;
    let mut done: Vec<Stage> = Vec::new();
    while !left.is_empty() {
        let ready =
            left.iter().position(|s| s.needs().all(|n| !known.contains(n) || done.iter().any(|d| d.name == *n)));
        match ready {
            Some(i) => done.push(left.remove(i)),
            None => {
                faults.push(cycle(&left));
                break;
            }
        }
    }
    done
}

fn cycle(left: &[Stage]) -> Fault {
    let mut path: Vec<&Stage> = vec![&left[0]];
    loop {
        let last = path[path.len() - 1];
        let next = last
            .needs()
            .find_map(|n| left.iter().find(|s| s.name == *n))
            .expect("a stage that never gets ready needs one that does not either");
        if let Some(start) = path.iter().position(|s| s.name == next.name) {
            let mut names: Vec<&str> = path[start..].iter().map(|s| s.name.as_str()).collect();
            names.push(&next.name);
            let line = path[start].line;
            return Fault {
                line,
                message: format!("the stages go in a circle: {}", names.join(" reads ")),
                hint: Some("take one of these inputs away".into()),
            };
        }
        path.push(next);
    }
}
