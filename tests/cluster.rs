//! The engine `ballista`: one scheduler and executors on loopback give the bytes of the local engine, also when one of them is killed.

use crate::support::{arg, gristmill, manifest, root, run, stdout, text};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

/// A child that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A scheduler, and the address it says it listens on.
fn scheduler(bind: &str) -> (Killed, String) {
    let mut child = gristmill(&["scheduler", "--bind", bind, "--executor-timeout", "3"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program was built with the tests");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("scheduler on ").expect("it says where it listens").to_string();
    (Killed(child), address)
}

/// An executor of one thread.
fn executor(scheduler: &str, set: impl FnOnce(&mut Command)) -> Killed {
    let mut command = gristmill(&["executor", scheduler, "--threads", "1"]);
    set(&mut command);
    Killed(command.stderr(Stdio::null()).spawn().expect("the program was built with the tests"))
}

/// The quickstart from the crawl to its token shards.
fn relational(folder: &TempDir) -> PathBuf {
    let text = std::fs::read_to_string(root().join("manifests/quickstart.toml")).unwrap();
    let mut kept = String::new();
    for line in text.lines().take_while(|l| !l.starts_with("[stage.base]")) {
        kept += &line.replace("\"quickstart/", &format!("\"{}/manifests/quickstart/", root().display()));
        kept.push('\n');
    }
    manifest(folder.path(), &kept)
}

/// Runs a manifest on a cluster.
fn run_on(scheduler: &str, manifest: &Path, root: &Path) -> Command {
    gristmill(&["run", arg(manifest), "--root", arg(root), "--scheduler", scheduler])
}

/// The digests of a run's stages.
fn digests(root: &Path) -> String {
    let mut runs = std::fs::read_dir(root).unwrap();
    stdout(&["verify", arg(&runs.next().unwrap().unwrap().path())])
}

/// The digests the local engine comes to.
fn local(manifest: &Path) -> String {
    let folder = tempfile::tempdir().unwrap();
    stdout(&["run", arg(manifest), "--root", arg(folder.path())]);
    digests(folder.path())
}

#[test]
fn two_executors_give_the_bytes_of_the_local_engine_also_when_one_dies_in_the_middle() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = relational(&folder);
    let expected = local(&manifest);
    assert!(expected.lines().count() >= 11, "{expected}");

    let (_scheduler, address) = scheduler("127.0.0.1:0");
    let steady = executor(&address, |_| {});
    let second = executor(&address, |_| {});
    let runs = tempfile::tempdir().unwrap();
    let said = run_on(&address, &manifest, runs.path()).output().unwrap();
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert_eq!(digests(runs.path()), expected);
    drop(second);

    // Dies before its ninth fsync, in the middle of a fragment.
    let mut dying = executor(&address, |c| {
        c.env("GRISTMILL_FAIL", "fsync:9");
    });
    let runs = tempfile::tempdir().unwrap();
    let said = run_on(&address, &manifest, runs.path()).output().unwrap();
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert_eq!(digests(runs.path()), expected);
    assert!(dying.0.try_wait().unwrap().is_some(), "the executor was meant to die");
    drop(steady);
}

#[test]
fn a_run_whose_scheduler_dies_goes_on_from_what_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = relational(&folder);
    let expected = local(&manifest);

    let (first, address) = scheduler("127.0.0.1:0");
    let worker = executor(&address, |_| {});
    let runs = tempfile::tempdir().unwrap();
    let mut child = run_on(&address, &manifest, runs.path()).stderr(Stdio::piped()).spawn().unwrap();
    // Killed as soon as a fragment of the second stage stands.
    let began = Instant::now();
    let stands = || runs.path().join("quickstart/crawl").exists() && records(runs.path()).len() > WARCS;
    while !stands() {
        assert!(began.elapsed() < Duration::from_secs(120), "nothing was committed");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before the scheduler could be killed");
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(first);
    let said = child.wait_with_output().unwrap();
    assert_eq!(said.status.code(), Some(5), "{}", text(&said.stderr));
    assert!(text(&said.stderr).contains("committed fragments are kept"), "{}", text(&said.stderr));
    let kept = records(runs.path());

    // The executor waits for a scheduler at the same place, and so does a run for nothing else.
    let (_second, address) = scheduler(&address.replace("localhost", "127.0.0.1"));
    let said = run_on(&address, &manifest, runs.path()).output().unwrap();
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert!(text(&said.stderr).contains("11 stages run, 1 cached"), "{}", text(&said.stderr));
    let after = records(runs.path());
    assert!(after.len() > kept.len());
    for (path, written) in kept {
        assert_eq!(after.get(&path), Some(&written), "{} was made again", path.display());
    }
    assert_eq!(digests(runs.path()), expected);
    drop(worker);
}

/// Files of the quickstart's crawl, each a fragment.
const WARCS: usize = 10;

/// Records of fragments in a run's store, and when each was written.
fn records(runs: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut found = BTreeMap::new();
    let Ok(stages) = std::fs::read_dir(runs.join("quickstart/.store")) else { return found };
    for stage in stages.flatten() {
        let Ok(entries) = std::fs::read_dir(stage.path().join("fragments")) else { continue };
        for entry in entries.flatten().filter(|e| e.path().extension().is_some_and(|e| e == "json")) {
            let Ok(written) = entry.metadata().and_then(|m| m.modified()) else { continue };
            if !entry.file_name().to_string_lossy().starts_with('.') {
                found.insert(entry.path(), written);
            }
        }
    }
    found
}

#[test]
fn a_run_without_a_scheduler_says_how_to_start_one() {
    let runs = tempfile::tempdir().unwrap();
    let said = run(&["run", "tests/micro.toml", "--root", arg(runs.path()), "--scheduler", "127.0.0.1:1"]);
    assert_eq!(said.status.code(), Some(2));
    let said = text(&said.stderr);
    assert!(said.contains("no scheduler answers on 127.0.0.1:1") && said.contains("gristmill scheduler"), "{said}");
    let said = run(&["run", "tests/micro.toml", "--scheduler", "nowhere"]);
    assert_eq!(said.status.code(), Some(2));
    assert!(text(&said.stderr).contains("expected HOST:PORT"), "{}", text(&said.stderr));
}
