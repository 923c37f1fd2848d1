//! Checkpoints of a training run: a folder per step under `checkpoints/`, committed as a fragment; the two newest are kept.

use super::history::History;
use crate::error::{Error, Result};
use crate::stage::model::model_error;
use crate::store::durable::{rename, write_file};
use crate::store::{FragmentRecord, OutputDir, remove_folder};
use trainer::trainer::Trainer;

const PHASE: &str = "checkpoints";
const HISTORY: &str = "history.json";

/// The name of a step's folder.
pub fn folder_name(step: u64) -> String {
    format!("step-{step:06}")
}

/// Commits a checkpoint, then drops all but the two newest.
pub fn save(out: &OutputDir, trainer: &Trainer, history: &History) -> Result<()> {
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
