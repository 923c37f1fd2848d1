//! Killed before a durable operation and run again: the same bytes as a run that was never killed.

use crate::support::{arg, gristmill, stdout, text};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

const MICRO: &str = "tests/micro.toml";

/// Runs to the end, however often it takes; gives the digests.
fn finish(root: &Path) -> String {
    let said = gristmill(&["run", MICRO, "--root", arg(root), "--threads", "1"]).output().unwrap();
    assert!(said.status.success(), "{}", text(&said.stderr));
    stdout(&["verify", arg(&root.join("micro"))])
}

/// Whether a run with this fail point armed was killed by it.
fn killed(root: &Path, point: &str) -> bool {
    let said = gristmill(&["run", MICRO, "--root", arg(root), "--threads", "1"])
        .env("GRISTMILL_FAIL", point)
        .output()
        .unwrap();
    assert!(!text(&said.stderr).contains("panicked"), "{}", text(&said.stderr));
    match said.status.signal() {
        Some(signal) => {
            assert_eq!(signal, 9);
            true
        }
        None => {
            assert!(said.status.success(), "{}", text(&said.stderr));
            false
        }
    }
}

/// Every tenth ordinal by default; `GRISTMILL_KILL_STRIDE=1` tries all (`tests/long.sh`).
pub fn stride() -> u64 {
    std::env::var("GRISTMILL_KILL_STRIDE").ok().and_then(|s| s.parse().ok()).unwrap_or(10)
}

/// One run that is killed again and again at ordinals of one point, each time going on from what the last one left,
/// then a fresh folder for each of the next ordinals: both must end in the digests of an undisturbed run.
fn kill_at_every(point: &str, first: u64) {
    let whole = tempfile::tempdir().unwrap();
    let expected = finish(whole.path());
    let mut ordinal = first;
    loop {
        let folder = tempfile::tempdir().unwrap();
        if !killed(folder.path(), &format!("{point}:{ordinal}")) {
            break;
        }
        // Killed once more while it recovers.
        killed(folder.path(), &format!("{point}:{}", 1 + ordinal % 7));
        assert_eq!(finish(folder.path()), expected, "killed before {point} number {ordinal}");
        ordinal += stride();
    }
    assert!(ordinal > first, "no {point} was reached");
}

#[test]
fn killed_before_a_write_and_run_again_it_ends_in_the_same_bytes() {
    kill_at_every("write", 3);
}

#[test]
fn killed_before_an_fsync_and_run_again_it_ends_in_the_same_bytes() {
    kill_at_every("fsync", 7);
}

#[test]
fn killed_before_a_rename_and_run_again_it_ends_in_the_same_bytes() {
    kill_at_every("rename", 5);
}

#[test]
fn killed_before_a_commit_and_run_again_it_ends_in_the_same_bytes() {
    kill_at_every("commit", 2);
}
