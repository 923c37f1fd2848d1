//! The manifest: TOML in, a checked list of stages out, or every fault at once with its line and a way out.

mod check;
mod edges;
pub mod faults;
pub mod kinds;
mod nearest;
mod read;
pub mod reference;
mod sets;

use crate::error::{Error, Result};
use crate::retain::Retain;
use crate::stage::shape;
use check::{check_names, check_stage};
use edges::{check_edges, order};
use faults::{Fault, Faults};
use kinds::{KindInfo, StageOptions};
pub use nearest::nearest;
use read::top_level;
use sets::apply_sets;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use toml::de::DeTable;

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
