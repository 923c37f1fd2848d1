//! One file per kind of stage: the glue between manifest, tables and the rooms that do the work.

pub mod classifier;
pub mod decontaminate;
pub mod dedup;
pub mod edit;
pub mod eval;
pub mod export;
pub mod extract;
pub mod filter;
pub mod grpo;
pub mod imported;
pub mod ingest;
pub mod language;
pub mod mix;
pub mod model;
pub mod pairs;
pub mod preference;
pub mod pretrain;
pub mod rollout;
mod rowlocal;
pub mod sft;
pub mod shape;
pub mod sql;
pub mod stats;
pub mod tasks;
pub mod tokenize;
pub mod tokenizer;
pub mod training;
pub mod verdict;

use crate::dataset::Dataset;
use crate::engine::Engine;
#[cfg(feature = "ballista")]
use crate::engine::task::Task;
use crate::error::{Error, Result};
use crate::manifest::Stage;
use crate::manifest::kinds::{OptionFault, Options, StageOptions};
use crate::progress::{Event, Progress};
use crate::ranks::Ranks;
use crate::session::{self, block_on};
use crate::source::files::Asset;
use crate::store::{FragmentRecord, OutputDir};
use datafusion::prelude::SessionContext;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

/// Where a run works: none of it may change a byte of the output.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Fragments worked on at a time, and threads of the trainer.
    pub threads: usize,
    /// Cap on the memory of query operators, in bytes; None: no cap.
    pub memory_limit_bytes: Option<u64>,
    /// Who works on fragments.
    pub engine: Engine,
    /// Folder to spill into; None: beside the output.
    pub scratch: Option<PathBuf>,
    /// How the work is cut; every run of the program has the default.
    pub cut: Cut,
    /// The processes that train together, this one among them; None: it is alone.
    pub ranks: Option<Arc<Ranks>>,
}

/// Sizes into which work is cut. Tests vary them: no row of any table, nor the order of rows, depends on them, and the bytes of
/// outputs only on `fragment_bytes`, which decides into how many files a table is divided.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Rows per batch inside plans.
    pub batch_rows: usize,
    /// Partitions of the plans of `sql`, `stats` and `pairs` stages.
    pub partitions: usize,
    /// Stored bytes of an input file that make one fragment.
    pub fragment_bytes: u64,
}

impl Default for Cut {
    fn default() -> Self {
        Self { batch_rows: session::BATCH_ROWS, partitions: 1, fragment_bytes: 64 << 20 }
    }
}

/// The one fragment an executor was asked for, and its record once it is made.
#[derive(Debug)]
pub struct Picked {
    phase: String,
    index: usize,
    record: Mutex<Option<FragmentRecord>>,
}

impl Picked {
    /// Fragment `index` of a phase.
    pub fn new(phase: &str, index: usize) -> Self {
        Self { phase: phase.to_string(), index, record: Mutex::new(None) }
    }

    /// The record, if the fragment was made.
    pub fn into_record(self) -> Option<FragmentRecord> {
        self.record.into_inner().expect(UNPOISONED)
    }
}

/// What a stage's code gets.
pub struct Context<'a> {
    /// The stage as the manifest has it.
    pub stage: &'a Stage,
    /// Its inputs, in order.
    pub inputs: Vec<Dataset>,
    /// Stages named by options, by option.
    pub references: BTreeMap<String, Vec<Dataset>>,
    /// Where it writes.
    pub out: OutputDir,
    /// Folder of the manifest.
    pub folder: &'a Path,
    /// Threads and memory.
    pub settings: &'a Settings,
    /// Who wants to hear about progress.
    pub progress: &'a dyn Progress,
    /// Set when the run should stop at the next safe point.
    pub stop: &'a AtomicBool,
    /// When the stage started, for rates only.
    pub started: Instant,
    /// In an executor, the one fragment to make.
    pub picked: Option<Picked>,
}

/// What a stage's code gives back.
#[derive(Default)]
pub struct Output {
    /// Its fragments, in order.
    pub fragments: Vec<FragmentRecord>,
    /// Measurements that may differ from run to run.
    pub metrics: Value,
    /// The line that sums it up.
    pub note: String,
}

/// Runs one stage.
pub fn run(context: &Context<'_>) -> Result<Output> {
    match &context.stage.options {
        StageOptions::Ingest(o) => ingest::run(context, o),
        StageOptions::Extract(o) => extract::run(context, o),
        StageOptions::Language(o) => language::run(context, o),
        StageOptions::Filter(o) => filter::run(context, o),
        StageOptions::Edit(o) => edit::run(context, o),
        StageOptions::Dedup(o) => dedup::run(context, o),
        StageOptions::Decontaminate(o) => decontaminate::run(context, o),
        StageOptions::Mix(o) => mix::run(context, o),
        StageOptions::Stats(o) => stats::run(context, o),
        StageOptions::Sql(o) => sql::run(context, o),
        StageOptions::Classifier(o) => classifier::run(context, o),
        StageOptions::Tasks(o) => tasks::run(context, o),
        StageOptions::Tokenizer(o) => tokenizer::run(context, o),
        StageOptions::Tokenize(o) => tokenize::run(context, o),
        StageOptions::Pretrain(o) => pretrain::run(context, o),
        StageOptions::Sft(o) => sft::run(context, o),
        StageOptions::Rollout(o) => rollout::run(context, o),
        StageOptions::Verdict(o) => verdict::run(context, o),
        StageOptions::Pairs(o) => pairs::run(context, o),
        StageOptions::Preference(o) => preference::run(context, o),
        StageOptions::Grpo(o) => grpo::run(context, o),
        StageOptions::Eval(o) => eval::run(context, o),
        StageOptions::Export(o) => export::run(context, o),
    }
}

/// Files a stage reads beside its inputs: name in the key, place.
fn assets(stage: &Stage, folder: &Path) -> std::result::Result<Vec<(String, Asset)>, OptionFault> {
    match &stage.options {
        StageOptions::Ingest(o) => {
            let mut files = ingest::files(o, folder)?;
            files.extend(ingest::takedown_files(o, folder));
            Ok(files)
        }
        StageOptions::Language(o) => Ok(language::files(o, folder)),
        StageOptions::Filter(o) => Ok(filter::files(o, folder)),
        StageOptions::Dedup(o) => Ok(dedup::files(o, folder)),
        StageOptions::Tokenizer(o) => Ok(tokenizer::files(o, folder)),
        StageOptions::Pretrain(o) => pretrain::files(o, folder),
        _ => Ok(Vec::new()),
    }
}

/// Faults of a stage's files: patterns that match nothing, models that are not there.
pub fn check_assets(stage: &Stage, folder: &Path) -> Vec<OptionFault> {
    match assets(stage, folder) {
        Err(fault) => vec![fault],
        Ok(files) => {
            let missing = files.iter().filter(|(_, a)| matches!(a, Asset::Local(p) if !p.is_file()));
            let key = |name: &str| match name.split(['.', ' ']).next() {
                Some("takedown") => "takedown",
                Some("lists") => "lists",
                Some("against") => "against",
                Some("file") => "file",
                Some("from") => "from",
                _ => "model",
            };
            missing.map(|(n, a)| OptionFault::new(key(n), format!("there is no file {}", a.shown()))).collect()
        }
    }
}

/// Digest of every file a stage reads, by name.
pub fn asset_digests(stage: &Stage, folder: &Path) -> Result<BTreeMap<String, String>> {
    let files = assets(stage, folder).map_err(|f| Error::Manifest(f.message))?;
    let mut digests = BTreeMap::new();
    for (name, asset) in files {
        digests.insert(name, asset.digest()?);
    }
    if let StageOptions::Language(o) = &stage.options {
        digests.extend(language::builtin_digest(o));
    }
    Ok(digests)
}

/// Bytes of the files a stage reads.
pub fn asset_bytes(stage: &Stage, folder: &Path) -> Result<u64> {
    let files = assets(stage, folder).map_err(|f| Error::Manifest(f.message))?;
    Ok(files.iter().filter_map(|(_, a)| a.bytes().ok()).sum())
}

impl Context<'_> {
    /// The stage's name.
    pub fn name(&self) -> &str {
        &self.stage.name
    }

    /// The one input of kinds that take one.
    pub fn input(&self) -> &Dataset {
        &self.inputs[0]
    }

    /// The stage an option names; kinds list their required ones in `KINDS`.
    pub fn reference(&self, key: &str) -> Option<&Dataset> {
        self.references.get(key).and_then(|d| d.first())
    }

    /// An error if the run was asked to stop.
    pub fn check_stop(&self) -> Result<()> {
        if self.stop.load(Ordering::SeqCst) { Err(self.stopped()) } else { Ok(()) }
    }

    /// What is said when a run that was asked to stop has stopped.
    pub fn stopped(&self) -> Error {
        Error::Interrupted(format!(
            "stopped in stage `{}`; finished work is kept\nhint: run the same command again to go on",
            self.name()
        ))
    }

    /// A session with this stage's share of the memory cap, whose plans keep the order of rows.
    pub fn session(&self) -> Result<SessionContext> {
        self.session_of(1)
    }

    /// A session with this stage's share of the memory cap, for plans in so many partitions.
    pub fn session_of(&self, partitions: usize) -> Result<SessionContext> {
        let share = self.settings.memory_limit_bytes.map(|b| b / self.settings.threads.max(1) as u64);
        let spill = self.settings.scratch.clone().unwrap_or_else(|| self.out.path.join("side").join("spill"));
        crate::store::durable::create_dir_all(&spill)?;
        session::session_of(share, Some(&spill), partitions, self.settings.cut.batch_rows)
    }

    /// Runs `work` for every index not yet committed, several at a time, and gives all records in order. `work` may use what earlier
    /// phases left in the memory of this process.
    pub fn fragments(
        &self,
        phase: &str,
        count: usize,
        work: impl Fn(usize) -> Result<FragmentRecord> + Sync,
    ) -> Result<Vec<FragmentRecord>> {
        match &self.picked {
            Some(picked) => self.pick(picked, phase, count, work),
            None => self.each(self.settings.threads, phase, count, work),
        }
    }

    /// The same wherever the engine works: `work` reads files alone, so any process can do it.
    pub fn spread(
        &self,
        phase: &str,
        count: usize,
        work: impl Fn(usize) -> Result<FragmentRecord> + Sync,
    ) -> Result<Vec<FragmentRecord>> {
        match &self.settings.engine {
            #[cfg(feature = "ballista")]
            Engine::Ballista(cluster) if self.picked.is_none() => {
                self.each(cluster.under_way(), phase, count, |index| {
                    cluster.fragment(&Task::of(self, phase, index)?, || self.check_stop())
                })
            }
            _ => self.fragments(phase, count, work),
        }
    }

    /// In an executor: makes the one fragment asked for, or gives the records of a phase before it, which `run` has committed.
    fn pick(
        &self,
        picked: &Picked,
        phase: &str,
        count: usize,
        work: impl Fn(usize) -> Result<FragmentRecord>,
    ) -> Result<Vec<FragmentRecord>> {
        let missing = |index| {
            Error::Integrity(format!(
                "fragment {index} of phase `{phase}` of stage `{}` is not in {}\nhint: do all processes of the cluster see the same folders?",
                self.name(),
                self.out.path.display()
            ))
        };
        if picked.phase != phase {
            return (0..count).map(|i| self.out.fragment(phase, i).ok_or_else(|| missing(i))).collect();
        }
        if picked.index >= count {
            return Err(missing(picked.index));
        }
        let mut record = work(picked.index)?;
        record.index = picked.index;
        *picked.record.lock().expect(UNPOISONED) = Some(record);
        Err(Error::Interrupted("the one fragment that was asked for is made".into()))
    }

    fn each(
        &self,
        threads: usize,
        phase: &str,
        count: usize,
        work: impl Fn(usize) -> Result<FragmentRecord> + Sync,
    ) -> Result<Vec<FragmentRecord>> {
        let records: Vec<Mutex<Option<FragmentRecord>>> =
            (0..count).map(|i| Mutex::new(self.out.fragment(phase, i))).collect();
        let todo: Vec<usize> = (0..count).filter(|i| records[*i].lock().expect(UNPOISONED).is_none()).collect();
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(count - todo.len()));
        let failure: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        self.progress.event(Event::Started { stage: self.name(), kind: self.stage.kind, units: count as u64 });
        let worker = || loop {
            let Some(&index) = todo.get(next.fetch_add(1, Ordering::SeqCst)) else { return };
            let result = self.check_stop().and_then(|()| work(index)).and_then(|mut record| {
                record.index = index;
                self.out.commit_fragment(phase, &record).map(|()| record)
            });
            match result {
                Ok(record) => {
                    *records[index].lock().expect(UNPOISONED) = Some(record);
                    let done = done.fetch_add(1, Ordering::SeqCst) as u64 + 1;
                    self.progress.event(Event::Advanced { stage: self.name(), done, units: count as u64, note: phase });
                }
                Err(e) => {
                    let mut failure = failure.lock().expect(UNPOISONED);
                    if failure.as_ref().is_none_or(|(i, _)| index < *i) {
                        *failure = Some((index, e));
                    }
                    next.store(todo.len(), Ordering::SeqCst);
                    return;
                }
            }
        };
        let threads = threads.clamp(1, todo.len().max(1));
        std::thread::scope(|scope| {
            for _ in 1..threads {
                std::thread::Builder::new()
                    .stack_size(STACK)
                    .spawn_scoped(scope, worker)
                    .expect("a thread starts because the system has room for one");
            }
            worker();
        });
        if let Some((_, e)) = failure.into_inner().expect(UNPOISONED) {
            return Err(e);
        }
        let all = records.into_iter().map(|r| r.into_inner().expect(UNPOISONED));
        Ok(all.map(|r| r.expect("every index was worked on because no worker failed")).collect())
    }
}

/// Stack of a worker: DataFusion's planner recurses.
pub(crate) const STACK: usize = 8 << 20;
pub(crate) const UNPOISONED: &str = "the lock is whole because no holder panics";

impl Options for filters::extract::ExtractConfig {}
