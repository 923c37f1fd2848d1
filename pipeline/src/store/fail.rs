//! Fail points: a way to die at a chosen durable operation, so that every kill can be tried (DESIGN §6).
//!
//! `GRISTMILL_FAIL=rename:17` ends the process with SIGKILL right before the 17th rename. The four places are the
//! only ones where bytes become durable: `write`, `fsync`, `rename`, `commit`. Always compiled; unarmed, a point is
//! one atomic increment.

use std::sync::atomic::{AtomicU64, Ordering};

/// The durable operations a fail point can precede.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A data file is about to be created.
    Write,
    /// A file or folder is about to be synced.
    Fsync,
    /// A file or link is about to be renamed into place.
    Rename,
    /// A fragment record or receipt is about to be committed.
    Commit,
}

const NAMES: [&str; 4] = ["write", "fsync", "rename", "commit"];
static SEEN: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static ARMED: [AtomicU64; 4] = [const { AtomicU64::new(u64::MAX) }; 4];

/// Arms one point from a specification such as `rename:17` (ordinals count from 1 per process).
pub fn arm(specification: &str) -> Result<(), String> {
    let wrong =
        || format!("GRISTMILL_FAIL={specification}: expected one of {NAMES:?}, a colon and a number, as in rename:17");
    let (name, ordinal) = specification.split_once(':').ok_or_else(wrong)?;
    let point = NAMES.iter().position(|n| *n == name).ok_or_else(wrong)?;
    ARMED[point].store(ordinal.parse().map_err(|_| wrong())?, Ordering::SeqCst);
    Ok(())
}

/// How often each point was passed in this process, in the order write, fsync, rename, commit.
pub fn seen() -> [(&'static str, u64); 4] {
    std::array::from_fn(|i| (NAMES[i], SEEN[i].load(Ordering::SeqCst)))
}

/// Passes a point; when it is the armed ordinal the process is gone, with no chance to clean up.
pub fn pass(point: Point) {
    let ordinal = SEEN[point as usize].fetch_add(1, Ordering::SeqCst) + 1;
    if ordinal == ARMED[point as usize].load(Ordering::SeqCst) {
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::KILL).expect("a process may kill itself");
        loop {
            std::thread::park();
        }
    }
}
