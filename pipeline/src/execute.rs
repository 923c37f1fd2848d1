//! Runs a plan: stage after stage, each committed before the next starts. Running again is resuming.

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::manifest::kinds::Output;
use crate::manifest::{Manifest, Stage};
use crate::plan::{self, Key};
use crate::progress::{Event, Progress};
use crate::receipt::{self, Receipt};
use crate::retain::{self, Retain};
use crate::stage::{self, Context, Settings};
use crate::store::{OutputDir, durable, lock};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// A revision of a run: which output each stage had. Written to `RUN/history/`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// The manifest's text.
    pub manifest: String,
    /// Stage order and outputs: name, kind, fingerprint, digest, inputs.
    pub stages: Vec<RevisionStage>,
}

/// One stage of a revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RevisionStage {
    /// Stage name.
    pub name: String,
    /// Stage kind.
    pub kind: String,
    /// Fingerprint: the folder in the store.
    pub fingerprint: String,
    /// Output digest.
    pub digest: String,
    /// Input stages in order.
    pub inputs: Vec<String>,
    /// Stages named by options.
    pub references: BTreeMap<String, Vec<String>>,
}

/// File in a run's folder with the names of the manifest's stages in plan order, written before the first stage starts: a run that
/// has not come to its end yet is read by it.
const ORDER: &str = "order.json";

/// What a run did.
#[derive(Debug, Default)]
pub struct Summary {
    /// Stages that ran.
    pub ran: usize,
    /// Stages that were cached.
    pub cached: usize,
    /// Seconds in all.
    pub elapsed_secs: f64,
}

/// Runs a manifest under `run`; `only` limits it to one stage and what it needs. With ranks, rank 0 runs it and the others train with
/// it.
pub fn run(
    manifest: &Manifest,
    run: &Path,
    only: Option<&str>,
    settings: &Settings,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Result<Summary> {
    let alone = || run_here(manifest, run, only, settings, progress, stop);
    match &settings.ranks {
        None => alone(),
        Some(ranks) if ranks.leads() => ranks.host(stop, alone),
        Some(ranks) => ranks.follow(manifest, run, settings, stop).map(|()| Summary::default()),
    }
}

fn run_here(
    manifest: &Manifest,
    run: &Path,
    only: Option<&str>,
    settings: &Settings,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Result<Summary> {
    let started = Instant::now();
    let wanted = closure(manifest, only)?;
    for stage in manifest.stages.iter().filter(|s| wanted.contains(&s.name)) {
        crate::estimate::fits(stage, manifest)?;
    }
    settings.engine.reach()?;
    let _lock = lock::acquire(run)?;
    let (least, free) = (plan::least_free_bytes(manifest)?, plan::free_bytes(run)?);
    if free < least {
        return Err(Error::Resources(format!(
            "{} has {} MB free, this run needs at least {} MB\nhint: free some space or choose another place with --root",
            run.display(),
            free >> 20,
            least >> 20
        )));
    }
    let order: Vec<&str> = manifest.stages.iter().map(|s| s.name.as_str()).collect();
    durable::commit_json(run, ORDER, &order)?;
    let mut summary = Summary::default();
    let mut done: BTreeMap<String, Dataset> = BTreeMap::new();
    for stage in manifest.stages.iter().filter(|s| wanted.contains(&s.name)) {
        let receipts = done.iter().map(|(n, d)| (n.clone(), d.receipt.clone())).collect();
        let key = plan::key(stage, &manifest.folder, &receipts)?;
        let path = plan::store_path(run, &key.fingerprint());
        let lacks = stage.retain == Retain::All && retain::is_dropped(&path);
        let receipt = match plan::finished(&path)?.filter(|_| !lacks) {
            Some(receipt) => {
                progress.event(Event::Cached { stage: &stage.name, rows: receipt.rows });
                summary.cached += 1;
                receipt
            }
            None => {
                summary.ran += 1 + restore(manifest, stage, &mut done, settings, progress, stop)?;
                run_stage(manifest, stage, &key, &path, &done, settings, progress, stop)?
            }
        };
        durable::switch_link(&link_to(&key.fingerprint()), &run.join(&stage.name))?;
        done.insert(stage.name.clone(), Dataset { name: stage.name.clone(), path, receipt });
        let_go(manifest, &done)?;
    }
    // What `only` left out but stands from before stays in the run.
    for stage in manifest.stages.iter().filter(|s| !wanted.contains(&s.name)) {
        if stage.needs().all(|n| done.contains_key(n)) {
            let receipts = done.iter().map(|(n, d)| (n.clone(), d.receipt.clone())).collect();
            let path = plan::store_path(run, &plan::key(stage, &manifest.folder, &receipts)?.fingerprint());
            if let Some(receipt) = plan::finished(&path)? {
                durable::switch_link(&link_to(&receipt.fingerprint), &run.join(&stage.name))?;
                done.insert(stage.name.clone(), Dataset { name: stage.name.clone(), path, receipt });
            }
        }
    }
    record(manifest, run, &done)?;
    summary.elapsed_secs = started.elapsed().as_secs_f64();
    Ok(summary)
}

/// Runs those stages again whose documents a stage is about to read and which `retain` let go; gives their number.
fn restore(
    manifest: &Manifest,
    reader: &Stage,
    done: &mut BTreeMap<String, Dataset>,
    settings: &Settings,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Result<usize> {
    let mut ran = 0;
    for name in reader.needs() {
        let before = done.get(name).expect("stages run after what they need").clone();
        if !before.documents_dropped() {
            continue;
        }
        progress.event(Event::Warning(&format!(
            "`{name}` runs again: `{}` reads its documents, which were dropped (retain = \"verdicts\")",
            reader.name
        )));
        let stage = manifest.stage(name).expect("what is done is a stage of the manifest");
        ran += 1 + restore(manifest, stage, done, settings, progress, stop)?;
        let receipts = done.iter().map(|(n, d)| (n.clone(), d.receipt.clone())).collect();
        let key = plan::key(stage, &manifest.folder, &receipts)?;
        let receipt = run_stage(manifest, stage, &key, &before.path, done, settings, progress, stop)?;
        if receipt.output_digest != before.receipt.output_digest {
            return Err(Error::Integrity(format!(
                "stage `{name}` ran again and gave other bytes: {} where {} was committed\nhint: remove what was made of it with  gristmill rm  and run the manifest again",
                receipt.output_digest, before.receipt.output_digest
            )));
        }
        done.insert(name.clone(), Dataset { receipt, ..before });
    }
    Ok(ran)
}

/// Drops the documents of stages that retain verdicts alone and whose readers are all committed.
fn let_go(manifest: &Manifest, done: &BTreeMap<String, Dataset>) -> Result<()> {
    let stages = || manifest.stages.iter().filter_map(|s| done.get(&s.name).map(|d| (s, d)));
    for (stage, dataset) in stages().filter(|(s, _)| s.retain == Retain::Verdicts) {
        // Two stages may have one output.
        let sharing = || stages().filter(|(_, d)| d.path == dataset.path).map(|(s, _)| s);
        let readers = manifest.stages.iter().filter(|r| r.needs().any(|n| sharing().any(|s| s.name == *n)));
        if sharing().all(|s| s.retain == Retain::Verdicts) && readers.clone().all(|r| done.contains_key(&r.name)) {
            debug_assert!(readers.count() > 0, "`{}` has a reader because the manifest was checked", stage.name);
            retain::drop_documents(&dataset.path, &dataset.receipt)?;
        }
    }
    Ok(())
}

#[allow(clippy::too_many_arguments, reason = "the parts of one call, used once")]
fn run_stage(
    manifest: &Manifest,
    stage: &Stage,
    key: &Key,
    path: &Path,
    done: &BTreeMap<String, Dataset>,
    settings: &Settings,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Result<Receipt> {
    let started = Instant::now();
    let out = OutputDir::open(path.to_path_buf())?;
    let stale = path.join(receipt::RECEIPT);
    if stale.exists() {
        std::fs::remove_file(&stale).map_err(Error::io("remove", &stale))?;
    }
    durable::commit_json(path, plan::KEY, key)?;
    retain::unmark(path)?;
    let dataset = |name: &String| done.get(name).expect("stages run after what they need").clone();
    let context = Context {
        stage,
        inputs: stage.inputs.iter().map(dataset).collect(),
        references: stage.references.iter().map(|(k, ns)| (k.clone(), ns.iter().map(dataset).collect())).collect(),
        out,
        folder: &manifest.folder,
        settings,
        progress,
        stop,
        started,
        picked: None,
    };
    let mut read = context.inputs.iter().chain(context.references.values().flatten());
    assert!(!read.any(Dataset::documents_dropped), "documents are there because `restore` ran first");
    let output = match &settings.ranks {
        Some(ranks) if stage.info().makes == Output::Model => {
            let reads = stage.needs().map(|name| (name.clone(), dataset(name).receipt.fingerprint)).collect();
            ranks.lead(stage, &key.fingerprint(), reads, || stage::run(&context))?
        }
        _ => stage::run(&context)?,
    };
    let (mut files, counts, rows) = Receipt::from_fragments(&output.fragments);
    files.dedup();
    let receipt = Receipt {
        stage: stage.name.clone(),
        kind: stage.kind.to_string(),
        version: stage.info().version,
        fingerprint: key.fingerprint(),
        output_digest: receipt::output_digest(&files),
        rows,
        counts,
        files,
        fragments: output.fragments.len(),
        elapsed_secs: started.elapsed().as_secs_f64(),
        metrics: output.metrics,
    };
    receipt.commit(path)?;
    context.out.remove_side_files()?;
    progress.event(Event::Finished { stage: &stage.name, rows, secs: receipt.elapsed_secs, note: &output.note });
    if let Some(text) = few_left(&receipt) {
        progress.event(Event::Warning(&text));
    }
    Ok(receipt)
}

/// Share of rows below which a stage that was not asked for a choice of languages says so.
const FEW: f64 = 0.2;

/// A word of warning if a stage kept few of its rows, with the rule that took most.
fn few_left(receipt: &Receipt) -> Option<String> {
    let count = |name: &str| receipt.counts.get(name).copied().unwrap_or(0);
    let (input, kept) = (count("in"), count("kept"));
    let dropped = receipt.counts.iter().filter_map(|(name, n)| Some((name.strip_prefix("dropped:")?, *n)));
    let (rule, most) = dropped.max_by_key(|(name, n)| (*n, std::cmp::Reverse(*name)))?;
    let few = input >= 20 && (kept as f64) < FEW * input as f64 && rule != "language.keep";
    few.then(|| {
        format!(
            "`{}` kept {kept} of {input}: {most} fell to {rule} (samples: gristmill report; other thresholds: gristmill explain RUN --rule)",
            receipt.stage
        )
    })
}

/// The named stage and all it needs; every stage if none is named.
fn closure(manifest: &Manifest, only: Option<&str>) -> Result<BTreeSet<String>> {
    let Some(only) = only else { return Ok(manifest.stages.iter().map(|s| s.name.clone()).collect()) };
    if manifest.stage(only).is_none() {
        let names: Vec<String> = manifest.stages.iter().map(|s| s.name.clone()).collect();
        let hint =
            crate::manifest::nearest(only, &names).map(|n| format!("\nhint: did you mean `{n}`?")).unwrap_or_default();
        return Err(Error::Manifest(format!(
            "error: --only {only}: no such stage   (known: {}){hint}",
            names.join(", ")
        )));
    }
    let mut wanted = BTreeSet::from([only.to_string()]);
    for stage in manifest.stages.iter().rev() {
        if wanted.contains(&stage.name) {
            wanted.extend(stage.needs().cloned());
        }
    }
    Ok(wanted)
}

/// Writes the revision, if it differs from the last one.
fn record(manifest: &Manifest, run: &Path, done: &BTreeMap<String, Dataset>) -> Result<()> {
    let stages = manifest.stages.iter().filter_map(|s| done.get(&s.name).map(|d| (s, d)));
    let revision = Revision {
        manifest: manifest.text.clone(),
        stages: stages
            .map(|(s, d)| RevisionStage {
                name: s.name.clone(),
                kind: s.kind.to_string(),
                fingerprint: d.receipt.fingerprint.clone(),
                digest: d.receipt.output_digest.clone(),
                inputs: s.inputs.clone(),
                references: s.references.clone(),
            })
            .collect(),
    };
    let history = run.join("history");
    durable::create_dir_all(&history)?;
    let (last, number) = last_revision(run)?.map_or((None, 0), |(r, n)| (Some(r), n));
    if last.as_ref() != Some(&revision) {
        durable::commit_json(&history, &format!("{:05}.json", number + 1), &json!(revision))?;
    }
    Ok(())
}

/// The newest revision of a run and its number.
pub fn last_revision(run: &Path) -> Result<Option<(Revision, u64)>> {
    let Ok(entries) = std::fs::read_dir(run.join("history")) else { return Ok(None) };
    let numbers = entries.flatten().filter_map(|e| e.file_name().to_str()?.strip_suffix(".json")?.parse::<u64>().ok());
    let Some(number) = numbers.max() else { return Ok(None) };
    let path = run.join("history").join(format!("{number:05}.json"));
    let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let revision = serde_json::from_slice(&text).map_err(|e| {
        Error::Integrity(format!("{} is no revision: {e}\nhint: remove it and run again", path.display()))
    })?;
    Ok(Some((revision, number)))
}

/// Stages of the newest revision that a run has made anew since, because it did not come to its end: nobody shows them yet. A run that
/// ends leaves the links of all stages that it records at what it records, so another target is a later one.
pub fn newer_than_revision(run: &Path) -> Result<Vec<String>> {
    let Some((revision, _)) = last_revision(run)? else { return Ok(Vec::new()) };
    let moved = |stage: &RevisionStage| {
        std::fs::read_link(run.join(&stage.name)).is_ok_and(|target| target != link_to(&stage.fingerprint))
    };
    Ok(revision.stages.into_iter().filter(moved).map(|stage| stage.name).collect())
}

/// Where the link of a stage in its run's folder leads.
fn link_to(fingerprint: &str) -> PathBuf {
    PathBuf::from(".store").join(fingerprint)
}

/// The finished stages of a run, in plan order, as its newest revision names them (or its links, while there is none).
pub fn datasets(run: &Path) -> Result<Vec<(RevisionStage, Dataset)>> {
    let Some((revision, _)) = last_revision(run)? else { return linked(run) };
    let open = |s: RevisionStage| Dataset::open(&s.name, plan::store_path(run, &s.fingerprint)).map(|d| (s, d));
    revision.stages.into_iter().map(open).collect()
}

/// Finished stages by the links of a run that has not come to its end yet.
fn linked(run: &Path) -> Result<Vec<(RevisionStage, Dataset)>> {
    let entries = std::fs::read_dir(run).map_err(|_| {
        Error::Manifest(format!(
            "error: there is no run at {}\nhint: give the folder that `gristmill run` printed, e.g. runs/quickstart",
            run.display()
        ))
    })?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|e| e.path().is_symlink())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.retain(|n| !n.starts_with('.'));
    let order: Vec<String> =
        std::fs::read(run.join(ORDER)).ok().and_then(|t| serde_json::from_slice(&t).ok()).unwrap_or_default();
    names.sort_by_key(|n| (order.iter().position(|o| o == n).unwrap_or(order.len()), n.clone()));
    let mut found = Vec::new();
    for name in names {
        let path = std::fs::canonicalize(run.join(&name)).map_err(Error::io("follow", run.join(&name)))?;
        let Some(receipt) = Receipt::read(&path)? else { continue };
        let key: Option<Key> = std::fs::read(path.join(plan::KEY)).ok().and_then(|t| serde_json::from_slice(&t).ok());
        let mut stage = RevisionStage {
            name: name.clone(),
            kind: receipt.kind.clone(),
            fingerprint: receipt.fingerprint.clone(),
            digest: receipt.output_digest.clone(),
            inputs: Vec::new(),
            references: BTreeMap::new(),
        };
        for input in key.iter().flat_map(|k| &k.inputs) {
            let (role, name) =
                (input["role"].as_str().unwrap_or(""), input["stage"].as_str().unwrap_or("").to_string());
            if role == "input" {
                stage.inputs.push(name)
            } else {
                stage.references.entry(role.into()).or_default().push(name)
            }
        }
        found.push((stage, Dataset { name, path, receipt }));
    }
    Ok(found)
}
