//! One writer per run: a lock held by the operating system, so a killed process leaves none behind.

use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;

/// Held while the process writes to a run; released by the system however the process ends.
pub struct RunLock {
    _file: File,
}

/// Takes the lock of a run, or says at once which process holds it.
pub fn acquire(run: &Path) -> Result<RunLock> {
    let elsewhere = |e: Error| match e.to_string() {
        text if text.contains("ermission denied") || text.contains("ead-only") => {
            Error::Manifest(format!("error: {text}\nhint: choose a place where you may write with --root DIR"))
        }
        _ => e,
    };
    super::durable::create_dir_all(run).map_err(elsewhere)?;
    let path = run.join(".lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(Error::io("open", &path))
        .map_err(elsewhere)?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        return Err(Error::Interrupted(format!(
            "{} is in use by process {}\nhint: wait for it to end, or give this run another place with --root",
            run.display(),
            holder.trim()
        )));
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(Error::io("write", &path))?;
    writeln!(file, "{}", std::process::id()).map_err(Error::io("write", &path))?;
    Ok(RunLock { _file: file })
}
