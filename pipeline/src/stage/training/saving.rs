//! Checkpoints of a training run: a folder per step under `checkpoints/`, committed as a fragment; the two newest are kept.
//!
//! They are encoded and written by a thread while the next steps run: a state is a value (steps make new tensors), so the thread
//! keeps the old one, which takes the memory of weights and optimizer once more until it is written. Files, their order and
//! what makes them count are those of a write in between steps, so a kill at any instant leaves the last committed one.

use super::history::History;
use crate::error::{Error, Result};
use crate::stage::model::model_error;
use crate::store::durable::{rename, write_file};
use crate::store::{FragmentRecord, OutputDir, remove_folder};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use trainer::trainer::Trainer;

const PHASE: &str = "checkpoints";
const HISTORY: &str = "history.json";

/// The name of a step's folder.
pub fn folder_name(step: u64) -> String {
    format!("step-{step:06}")
}

/// Writes checkpoints beside the steps, at most one at a time; whoever lets go of it waits for the last.
pub struct Saver {
    out: OutputDir,
    under_way: Option<JoinHandle<Result<()>>>,
    /// What the steps have waited for it.
    pub stalled: Duration,
}

impl Saver {
    /// Nothing is under way.
    pub fn new(out: &OutputDir) -> Self {
        Self { out: out.clone(), under_way: None, stalled: Duration::ZERO }
    }

    /// Starts to write a state, after the one before is written; gives the error of that one.
    pub fn start(&mut self, trainer: Trainer, history: &History) -> Result<()> {
        self.wait()?;
        let began = Instant::now();
        let (out, history) = (self.out.clone(), history.clone());
        self.under_way = Some(std::thread::spawn(move || save(&out, &trainer, &history)));
        self.stalled += began.elapsed();
        Ok(())
    }

    /// The error of a write that has ended.
    pub fn look(&mut self) -> Result<()> {
        if self.under_way.as_ref().is_some_and(JoinHandle::is_finished) { self.wait() } else { Ok(()) }
    }

    /// Returns when nothing is under way.
    pub fn wait(&mut self) -> Result<()> {
        let began = Instant::now();
        let written = self.under_way.take().map(JoinHandle::join);
        self.stalled += began.elapsed();
        written.unwrap_or(Ok(Ok(()))).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        // Without a reader the error is that of a run that fails anyway.
        let _ = self.under_way.take().map(JoinHandle::join);
    }
}

/// Commits a checkpoint, then drops all but the two newest.
fn save(out: &OutputDir, trainer: &Trainer, history: &History) -> Result<()> {
    let folder = out.path.join(PHASE);
    let name = folder_name(trainer.step);
    let (temporary, target) = (folder.join(format!(".{name}.tmp")), folder.join(&name));
    remove_folder(&temporary)?;
    remove_folder(&target)?;
    let mut files = Vec::new();
    let mut all = trainer::checkpoint::encode(trainer).map_err(model_error)?;
    all.push((HISTORY.into(), serde_json::to_vec(history).expect("plain data because it derives Serialize")));
    for (file, bytes) in all {
        let mut entry = write_file(&temporary, &file, &bytes)?;
        entry.path = format!("{PHASE}/{name}/{file}");
        files.push(entry);
    }
    rename(&temporary, &target)?;
    out.commit_fragment(PHASE, &FragmentRecord { index: trainer.step as usize, files, ..FragmentRecord::default() })?;
    let mut steps = committed(out);
    steps.sort_unstable();
    for old in steps.iter().rev().skip(2) {
        remove_folder(&folder.join(folder_name(*old)))?;
    }
    Ok(())
}

fn committed(out: &OutputDir) -> Vec<u64> {
    let entries = std::fs::read_dir(out.path.join("fragments").join(PHASE));
    let names = entries.into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter_map(|n| n.strip_suffix(".json").and_then(|s| s.parse().ok())).collect()
}

/// Step of the newest checkpoint whose files are all there.
pub fn last(out: &OutputDir) -> Option<u64> {
    let mut steps = committed(out);
    steps.sort_unstable();
    steps.into_iter().rev().find(|step| out.fragment(PHASE, *step as usize).is_some())
}

/// The state after a step.
pub fn load(out: &OutputDir, step: u64) -> Result<(Trainer, History)> {
    let folder = out.path.join(PHASE).join(folder_name(step));
    let trainer = trainer::checkpoint::decode(&folder).map_err(model_error)?;
    let path = folder.join(HISTORY);
    let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let history =
        serde_json::from_slice(&text).map_err(|e| Error::Integrity(format!("{} is damaged: {e}", path.display())))?;
    Ok((trainer, history))
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainer::optim::OptimConfig;
    use trainer::{Model, ModelConfig};

    fn trainer(step: u64) -> Trainer {
        let sizes = ModelConfig { vocab_size: 9, n_layer: 1, n_embd: 16, n_ffn: 8, ..ModelConfig::default() };
        let mut trainer = Trainer::new(Model::init(sizes, step).unwrap(), &OptimConfig::default()).unwrap();
        trainer.step = step;
        trainer
    }

    #[test]
    fn what_was_started_is_committed_and_the_two_newest_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let out = OutputDir::open(folder.path().to_path_buf()).unwrap();
        let mut saver = Saver::new(&out);
        for step in [2, 4, 6] {
            saver.start(trainer(step), &History::default()).unwrap();
        }
        drop(saver);
        assert_eq!(last(&out), Some(6));
        let files = |state: &Trainer| trainer::checkpoint::encode(state).unwrap();
        for step in [4, 6] {
            assert_eq!(files(&load(&out, step).unwrap().0), files(&trainer(step)));
        }
        assert!(load(&out, 2).is_err());
    }

    #[test]
    fn a_write_that_fails_is_told_once_and_the_one_before_stays() {
        let folder = tempfile::tempdir().unwrap();
        let out = OutputDir::open(folder.path().to_path_buf()).unwrap();
        let mut saver = Saver::new(&out);
        std::fs::write(folder.path().join(PHASE), "in the way").unwrap();
        saver.start(trainer(1), &History::default()).unwrap();
        let told = std::iter::repeat_with(|| saver.look()).find_map(Result::err).unwrap();
        assert!(told.to_string().contains(PHASE), "{told}");
        saver.look().unwrap();
        assert_eq!(last(&out), None);
        std::fs::remove_file(folder.path().join(PHASE)).unwrap();
        saver.start(trainer(2), &History::default()).unwrap();
        saver.wait().unwrap();
        assert_eq!(last(&out), Some(2));
    }
}
