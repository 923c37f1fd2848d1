//! What a run would do: for each stage cached or run, and which field made the difference.

use crate::error::{Error, Result};
use crate::estimate::{self, Derived, Estimate};
use crate::manifest::{Manifest, Stage};
use crate::receipt::Receipt;
use crate::retain::{self, Retain};
use crate::stage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Everything the bytes of a stage depend on. Threads, memory, devices, how often to checkpoint and paths of the run are not in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// The stage's kind.
    pub kind: String,
    /// VERSION of its code.
    pub version: u32,
    /// Its options that bytes depend on, defaults filled in.
    pub config: Value,
    /// Role, name and output digest of what it reads.
    pub inputs: Vec<Value>,
    /// Name and blake3 of the files it reads.
    pub assets: BTreeMap<String, String>,
    /// Its seed, if it uses one.
    pub seed: Option<u64>,
}

impl Key {
    /// blake3 of the canonical JSON, cut to 32 hex digits.
    pub fn fingerprint(&self) -> String {
        let text = serde_json::to_vec(self).expect("a key is plain data because it derives Serialize");
        blake3::hash(&text).to_hex()[..32].to_string()
    }
}

/// File name of the key inside a stage's folder.
pub const KEY: &str = "key.json";

/// What will become of a stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "action", content = "why")]
pub enum Action {
    /// Its output stands.
    Cached,
    /// It runs, for this reason.
    Run(String),
}

/// One stage of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    /// Stage name.
    pub name: String,
    /// Stage kind.
    pub kind: String,
    /// Cached or run, and why.
    #[serde(flatten)]
    pub action: Action,
    /// Rows, bytes, seconds and memory: known for what is cached, else guessed.
    pub size: Estimate,
    /// Whether its output stands without its documents, which `retain` let go.
    pub documents_dropped: bool,
    /// What the options of a `pretrain` stage come to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Derived>,
}

/// The folder of a stage's output.
pub fn store_path(run: &Path, fingerprint: &str) -> PathBuf {
    run.join(".store").join(fingerprint)
}

/// The key of a stage, given the receipts of all it needs.
pub fn key(stage: &Stage, folder: &Path, receipts: &BTreeMap<String, Receipt>) -> Result<Key> {
    let mut inputs = Vec::new();
    let named = stage.inputs.iter().map(|n| ("input", n));
    let referenced = stage.references.iter().flat_map(|(k, ns)| ns.iter().map(move |n| (k.as_str(), n)));
    for (role, name) in named.chain(referenced) {
        let receipt = receipts.get(name).expect("stages are planned after what they need");
        inputs.push(json!({ "role": role, "stage": name, "digest": receipt.output_digest }));
    }
    Ok(Key {
        kind: stage.kind.to_string(),
        version: stage.info().version,
        config: stage.options.to_json(),
        inputs,
        assets: stage::asset_digests(stage, folder)?,
        seed: stage.info().seeded.then_some(stage.seed),
    })
}

/// The receipt of a finished stage whose files all have their committed length; documents that were dropped are not missed.
pub fn finished(path: &Path) -> Result<Option<Receipt>> {
    let Some(receipt) = Receipt::read(path)? else { return Ok(None) };
    let whole =
        retain::stored(path, &receipt).all(|f| std::fs::metadata(path.join(&f.path)).is_ok_and(|m| m.len() == f.bytes));
    Ok(whole.then_some(receipt))
}

/// Why a stage with this key is not cached: the first field that differs from what the run's link points to.
pub fn reason(run: &Path, name: &str, key: &Key) -> String {
    let Ok(text) = std::fs::read(run.join(name).join(KEY)) else {
        let started = store_path(run, &key.fingerprint()).join("fragments").exists();
        return if started { "was interrupted".into() } else { "never ran".into() };
    };
    let Ok(before) = serde_json::from_slice::<Key>(&text) else { return "its record is damaged".into() };
    if before == *key {
        return "its files are missing or shorter than committed".into();
    }
    let (old, new) = (json!(before), json!(key));
    first_difference("", &old, &new).unwrap_or_else(|| "its record changed".into())
}

fn first_difference(path: &str, old: &Value, new: &Value) -> Option<String> {
    let join = |k: &str| if path.is_empty() { k.to_string() } else { format!("{path}.{k}") };
    match (old, new) {
        (a, b) if a == b => None,
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|k| {
                first_difference(&join(k), a.get(k).unwrap_or(&Value::Null), b.get(k).unwrap_or(&Value::Null))
            })
        }
        (Value::Array(a), Value::Array(b)) if path == "inputs" && a.len() == b.len() => {
            let changed =
                a.iter().zip(b).find(|(x, y)| x != y).map(|(_, y)| y["stage"].as_str().unwrap_or("?").to_string());
            changed.map(|name| format!("input `{name}` changed"))
        }
        (Value::Null, b) => Some(format!("{path} added ({})", short(b))),
        (a, Value::Null) => Some(format!("{path} removed ({})", short(a))),
        (a, b) => Some(format!("{path}: {} -> {}", short(a), short(b))),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 40 { text } else { text.chars().take(37).chain("...".chars()).collect() }
}

/// Plans every stage of a manifest without doing anything.
pub fn plan(manifest: &Manifest, run: &Path) -> Result<Vec<Planned>> {
    let mut receipts: BTreeMap<String, Receipt> = BTreeMap::new();
    let mut sizes: BTreeMap<String, Estimate> = BTreeMap::new();
    let mut planned = Vec::new();
    for stage in &manifest.stages {
        let last = Receipt::read(&run.join(&stage.name))?;
        let mut documents_dropped = false;
        let waiting = stage.needs().find(|n| !receipts.contains_key(*n));
        let (action, receipt) = match waiting {
            Some(name) => (Action::Run(format!("`{name}` runs first")), None),
            None => {
                let key = key(stage, &manifest.folder, &receipts)?;
                let path = store_path(run, &key.fingerprint());
                match finished(&path)? {
                    Some(receipt) if retain::is_dropped(&path) && stage.retain == Retain::All => {
                        (Action::Run("its documents were dropped, and `retain` keeps them now".into()), Some(receipt))
                    }
                    Some(receipt) => {
                        documents_dropped = retain::is_dropped(&path);
                        (Action::Cached, Some(receipt))
                    }
                    None => (Action::Run(reason(run, &stage.name, &key)), None),
                }
            }
        };
        let size = match &receipt {
            Some(receipt) => estimate::finished(receipt),
            None => {
                let source = stage::asset_bytes(stage, &manifest.folder)?;
                estimate::stage(stage, manifest, source, last.as_ref(), &sizes)
            }
        };
        sizes.insert(stage.name.clone(), size);
        planned.push(Planned {
            name: stage.name.clone(),
            kind: stage.kind.to_string(),
            action,
            size,
            documents_dropped,
            model: estimate::derived(stage, manifest),
        });
        if let Some(receipt) = receipt {
            receipts.insert(stage.name.clone(), receipt);
        }
    }
    // A stage that runs reads its inputs: those without documents run first, and before them what they read.
    for stage in manifest.stages.iter().rev() {
        let runs = planned.iter().any(|p| p.name == stage.name && p.action != Action::Cached);
        for need in planned.iter_mut().filter(|p| runs && p.documents_dropped && stage.needs().any(|n| *n == p.name)) {
            need.action = Action::Run(format!("`{}` reads its documents, which were dropped", stage.name));
            need.documents_dropped = false;
        }
    }
    Ok(planned)
}

/// Bytes a run is likely to need at least: its sources once as text columns and once as derived tables, compressed.
pub fn least_free_bytes(manifest: &Manifest) -> Result<u64> {
    let mut bytes = 32 << 20;
    for stage in &manifest.stages {
        bytes += 3 * stage::asset_bytes(stage, &manifest.folder)?;
    }
    Ok(bytes)
}

/// Free bytes on the file system of a folder (or of its nearest existing parent).
pub fn free_bytes(folder: &Path) -> Result<u64> {
    let absolute = std::path::absolute(folder).map_err(Error::io("look at", folder))?;
    let existing = absolute.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(existing).map_err(|e| Error::io("look at", existing)(e.into()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}
