//! Several processes train one model: the bits of one process, also when a rank is killed or stopped in the middle.

use crate::family::stages;
use crate::support::{arg, gristmill, manifest, stdout, text};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MICRO: &str = "tests/micro.toml";

/// A run by so many processes.
fn launch(n: usize, manifest: &str, root: &Path, more: &[&str]) -> Command {
    let n = n.to_string();
    let mut command = gristmill(&["launch", "-n", &n, "--", "run", manifest, "--root", arg(root), "--threads", "1"]);
    command.args(more);
    for name in ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"] {
        command.env_remove(name);
    }
    command
}

fn succeeds(mut command: Command) {
    let said = command.output().unwrap();
    assert!(said.status.success(), "{}", text(&said.stderr));
}

#[test]
fn two_three_and_four_processes_end_in_the_bytes_of_one() {
    let alone = tempfile::tempdir().unwrap();
    stdout(&["run", MICRO, "--root", arg(alone.path()), "--threads", "1"]);
    let expected = stdout(&["verify", arg(&alone.path().join("micro"))]);
    for (n, more) in [(2, &["--set", "base.zero=1", "--set", "grpo.zero=1"][..]), (3, &[]), (4, &[])] {
        let together = tempfile::tempdir().unwrap();
        succeeds(launch(n, MICRO, together.path(), more));
        assert_eq!(stdout(&["verify", arg(&together.path().join("micro"))]), expected, "{n} processes");
    }
}

/// A training run of some seconds, of four micro-batches a step.
fn long(folder: &Path) -> PathBuf {
    let base = "dropout = 0.1, optimizer = \"muon\", zero = 1";
    let text = stages(base).replace("budget_tokens = 1024", "budget_tokens = 25600");
    manifest(folder, &text.replace("micro_batch_tokens = 128", "micro_batch_tokens = 64"))
}

fn alone(manifest: &Path) -> String {
    let root = tempfile::tempdir().unwrap();
    stdout(&["run", arg(manifest), "--root", arg(root.path())]);
    stdout(&["verify", arg(&root.path().join("family"))])
}

/// The processes of the ranks, as `launch` names them.
fn processes(child: &mut Child, n: usize) -> (Vec<Pid>, BufReader<std::process::ChildStderr>) {
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut found = Vec::new();
    while found.len() < n {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the launcher ended early");
        if let Some((_, pid)) = line.trim().split_once(" is process ") {
            found.push(Pid::from_raw(pid.parse().unwrap()).unwrap());
        }
    }
    (found, lines)
}

/// Step of the newest committed checkpoint of the run; 0 if there is none.
fn newest(root: &Path) -> u64 {
    let Ok(store) = std::fs::read_dir(root.join("family/.store")) else { return 0 };
    let records = store.flatten().flat_map(|e| std::fs::read_dir(e.path().join("fragments/checkpoints")));
    let steps = records.flat_map(|entries| entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()));
    steps.filter_map(|name| name.strip_suffix(".json")?.parse().ok()).max().unwrap_or(0)
}

/// Starts `n` ranks and does `harm` to one of them in the middle of training; what was said, after all have ended with a lost peer.
fn harmed(n: usize, manifest: &Path, root: &Path, timeout: &str, rank: usize, harm: Signal) -> String {
    let mut child =
        launch(n, arg(manifest), root, &["--peer-timeout", timeout]).stderr(Stdio::piped()).spawn().unwrap();
    let (ranks, mut lines) = processes(&mut child, n);
    let (began, before) = (Instant::now(), newest(root));
    while newest(root) <= before {
        assert!(began.elapsed() < Duration::from_secs(60), "no checkpoint was made");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before a rank could be harmed");
        std::thread::sleep(Duration::from_millis(2));
    }
    kill_process(ranks[rank], harm).unwrap();
    let mut said = String::new();
    lines.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7), "{said}");
    said
}

#[test]
fn a_killed_rank_ends_all_and_any_number_of_ranks_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = long(folder.path());
    let expected = alone(&path);
    let root = tempfile::tempdir().unwrap();
    let said = harmed(3, &path, root.path(), "60", 2, Signal::KILL);
    assert!(said.contains("rank 2 was ended by signal 9") && said.contains("rank 1: error: rank 2"), "{said}");
    let said = harmed(2, &path, root.path(), "60", 0, Signal::KILL);
    assert!(said.contains("rank 0 was ended by signal 9"), "{said}");
    succeeds(launch(4, arg(&path), root.path(), &[]));
    assert_eq!(stdout(&["verify", arg(&root.path().join("family"))]), expected);
}

#[test]
fn a_stopped_rank_ends_all_within_the_deadline_and_one_process_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = long(folder.path());
    let root = tempfile::tempdir().unwrap();
    let said = harmed(3, &path, root.path(), "1.5", 1, Signal::STOP);
    assert!(said.contains("rank 1 sent nothing") && said.contains("rank 1 did not end by itself"), "{said}");
    stdout(&["run", arg(&path), "--root", arg(root.path())]);
    assert_eq!(stdout(&["verify", arg(&root.path().join("family"))]), alone(&path));
}

#[test]
fn ranks_end_with_the_code_of_the_first_and_refuse_what_is_not_one_run() {
    let folder = tempfile::tempdir().unwrap();
    // A stage fails on rank 0; rank 1 waits for orders until then.
    let query =
        "q = { kind = \"sql\", inputs = [\"page\"], query = \"SELECT id, CAST(text AS INT) AS n FROM page\" }\n";
    let path = manifest(folder.path(), &format!("{}{query}", stages("tied = true")));
    let said = launch(2, arg(&path), folder.path(), &[]).output().unwrap();
    let told = text(&said.stderr);
    let code = said.status.code().unwrap();
    assert!(code != 0 && code != 7, "{code}: {told}");
    assert!(told.contains(&format!("rank 1: error: rank 0 ended with exit code {code}")), "{told}");

    let said = gristmill(&["launch", "-n", "2", "--", "sql", "runs/x"]).output().unwrap();
    assert_eq!(said.status.code(), Some(2));
    assert!(text(&said.stderr).contains("launch starts the command `run` alone"), "{}", text(&said.stderr));

    let said = gristmill(&["run", MICRO, "--root", arg(folder.path())]).env("RANK", "0").output().unwrap();
    assert_eq!(said.status.code(), Some(2));
    assert!(text(&said.stderr).contains("WORLD_SIZE is not"), "{}", text(&said.stderr));
}
