//! One fragment of a stage, described so that another process can make it.
//!
//! A task names the stage with its resolved options, the folders of its inputs and output, the phase and the index. The other process
//! runs the stage's own code up to that phase, takes the records of earlier phases from the output's folder, where `run` committed
//! them, and works on the one fragment.

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::manifest::Stage;
use crate::manifest::kinds::{self, StageOptions};
use crate::progress::Silent;
use crate::retain::Retain;
use crate::stage::{self, Context, Picked, Settings};
use crate::store::{FragmentRecord, OutputDir};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// A stage another one reads: its name and the folder of its output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    name: String,
    path: PathBuf,
}

/// One fragment to work on. All paths are absolute and mean the same in every process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    stage: String,
    kind: String,
    options: Value,
    seed: u64,
    inputs: Vec<Source>,
    references: BTreeMap<String, Vec<Source>>,
    folder: PathBuf,
    out: PathBuf,
    phase: String,
    index: usize,
}

/// What became of a task. A failure of the work is a value, so that it comes back whole and no cluster tries it again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The files are there; this is their record.
    Done(FragmentRecord),
    /// The work cannot be done.
    Failed {
        /// Exit code of the error, which names its case.
        code: i32,
        /// The error's text.
        message: String,
    },
}

impl Task {
    /// The fragment `index` of a phase of a running stage.
    pub fn of(context: &Context<'_>, phase: &str, index: usize) -> Result<Self> {
        let stage = context.stage;
        let mut references = BTreeMap::new();
        for (key, datasets) in &context.references {
            references.insert(key.clone(), sources(datasets)?);
        }
        Ok(Self {
            stage: stage.name.clone(),
            kind: stage.kind.to_string(),
            options: stage.options.to_json(),
            seed: stage.seed,
            inputs: sources(&context.inputs)?,
            references,
            folder: absolute(context.folder)?,
            out: absolute(&context.out.path)?,
            phase: phase.to_string(),
            index,
        })
    }

    /// Works on it.
    pub fn run(&self, settings: &Settings) -> Outcome {
        match self.work(settings) {
            Ok(record) => Outcome::Done(record),
            Err(e) => Outcome::Failed { code: e.exit_code(), message: e.to_string() },
        }
    }

    fn work(&self, settings: &Settings) -> Result<FragmentRecord> {
        let stage = self.stage()?;
        let mut references = BTreeMap::new();
        for (key, sources) in &self.references {
            references.insert(key.clone(), datasets(sources)?);
        }
        let stop = AtomicBool::new(false);
        let context = Context {
            stage: &stage,
            inputs: datasets(&self.inputs)?,
            references,
            // Not `open`: others write there at the same time.
            out: OutputDir { path: self.out.clone() },
            folder: &self.folder,
            settings,
            progress: &Silent,
            stop: &stop,
            started: Instant::now(),
            picked: Some(Picked::new(&self.phase, self.index)),
        };
        let ended = stage::run(&context);
        match (context.picked.and_then(Picked::into_record), ended) {
            (Some(record), _) => Ok(record),
            (None, Err(e)) => Err(e),
            (None, Ok(_)) => Err(Error::Integrity(format!(
                "stage `{}` has no fragment {} in phase `{}`\nhint: are scheduler, executors and `run` the same version of gristmill?",
                self.stage, self.index, self.phase
            ))),
        }
    }

    /// The stage as the manifest had it.
    fn stage(&self) -> Result<Stage> {
        let unknown = || {
            Error::Query(format!(
                "this gristmill cannot read the task of stage `{}` ({})\nhint: are scheduler, executors and `run` the same version of gristmill?",
                self.stage, self.kind
            ))
        };
        let info = kinds::info(&self.kind).ok_or_else(unknown)?;
        let (options, faults) = StageOptions::read(info.name, self.options.as_object().ok_or_else(unknown)?);
        if !faults.is_empty() {
            return Err(unknown());
        }
        let names = |sources: &[Source]| sources.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        Ok(Stage {
            name: self.stage.clone(),
            kind: info.name,
            inputs: names(&self.inputs),
            references: self.references.iter().map(|(k, s)| (k.clone(), names(s))).collect(),
            options,
            seed: self.seed,
            // Only `run` drops documents.
            retain: Retain::default(),
            line: 0,
        })
    }
}

impl Outcome {
    /// The record, or the error as it was.
    pub fn into_result(self) -> Result<FragmentRecord> {
        match self {
            Outcome::Done(record) => Ok(record),
            Outcome::Failed { code, message } => Err(Error::of_code(code, message)),
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    std::fs::canonicalize(path).map_err(Error::io("find", path))
}

fn sources(datasets: &[Dataset]) -> Result<Vec<Source>> {
    datasets.iter().map(|d| Ok(Source { name: d.name.clone(), path: absolute(&d.path)? })).collect()
}

fn datasets(sources: &[Source]) -> Result<Vec<Dataset>> {
    sources.iter().map(|s| Dataset::open(&s.name, s.path.clone())).collect()
}

#[cfg(test)]
impl Task {
    /// A task of a stage that was never run.
    pub(super) fn example(stage: &Stage) -> Self {
        let named = |names: &[String]| -> Vec<Source> {
            names.iter().map(|n| Source { name: n.clone(), path: "/store".into() }).collect()
        };
        Self {
            stage: stage.name.clone(),
            kind: stage.kind.into(),
            options: stage.options.to_json(),
            seed: stage.seed,
            inputs: named(&stage.inputs),
            references: stage.references.iter().map(|(k, n)| (k.clone(), named(n))).collect(),
            folder: "/manifests".into(),
            out: "/store/out".into(),
            phase: String::new(),
            index: 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;

    /// What a task says of a stage is all its code reads: every stage of every shipped manifest comes back as it was.
    #[test]
    fn every_stage_of_every_manifest_comes_back_from_its_task() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository");
        let shipped = std::fs::read_dir(root.join("manifests")).expect("the folder of manifests is there");
        let mut paths: Vec<PathBuf> = shipped.map(|e| e.expect("a readable folder").path()).collect();
        paths.retain(|p| p.extension().is_some_and(|e| e == "toml"));
        paths.push(root.join("tests/micro.toml"));
        let mut stages = 0;
        for path in paths {
            // Recipes of large crawls name files that a reader brings along.
            let Ok(manifest) = Manifest::load(&path, &[]) else { continue };
            for stage in &manifest.stages {
                let task = Task::example(stage);
                let text = serde_json::to_string(&task).expect("a task is plain data");
                let back: Task = serde_json::from_str(&text).expect("a task reads itself");
                assert_eq!(back, task);
                let read = back.stage().unwrap_or_else(|e| panic!("{}: {e}", stage.name));
                assert_eq!(read.options.to_json(), stage.options.to_json(), "{} of {}", stage.name, path.display());
                assert_eq!((&read.inputs, &read.references, read.seed), (&stage.inputs, &stage.references, stage.seed));
                stages += 1;
            }
        }
        assert!(stages > 60, "only {stages} stages were looked at");
    }

    #[test]
    fn a_failure_comes_back_as_the_case_it_was() {
        for error in [Error::InputData("bad".into()), Error::Resources("full".into()), Error::Integrity("torn".into())]
        {
            let (code, message) = (error.exit_code(), error.to_string());
            let text = serde_json::to_string(&Outcome::Failed { code, message: message.clone() }).expect("plain data");
            let back: Outcome = serde_json::from_str(&text).expect("it reads itself");
            let back = back.into_result().expect_err("a failure is an error");
            assert_eq!((back.exit_code(), back.to_string()), (code, message));
        }
    }
}
