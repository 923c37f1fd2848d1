//! `gristmill run`

use super::progress::Terminal;
use super::{Place, default_threads, parse_bytes};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::execute::{self, Summary};
use crate::manifest::Manifest;
use crate::stage::{Cut, Settings};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Run a manifest; running again goes on where it stopped and skips what is done.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gristmill run manifests/quickstart.toml
  gristmill run manifests/quickstart.toml --only unique --threads 1
  gristmill run manifests/quickstart.toml --set lang.min_score=0.8")]
pub struct Run {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    limits: Limits,
    /// Run this stage and what it needs, nothing else.
    #[arg(long, value_name = "STAGE")]
    only: Option<String>,
    /// Print what would run and why, and stop (the same as `gristmill plan`).
    #[arg(long)]
    dry_run: bool,
}

impl Run {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        if self.dry_run {
            return super::plan::show(&self.place, json);
        }
        let (manifest, run) = self.place.load()?;
        self.limits.execute(&manifest, &run, self.only.as_deref(), json)
    }
}

/// What a run may use of the machine.
#[derive(clap::Args)]
pub struct Limits {
    /// Fragments worked on at a time and threads of the trainer; never changes a byte of the output.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    threads: Option<usize>,
    /// Cap on the memory of query operators, e.g. 512MB.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory_limit: Option<u64>,
    /// Scheduler of a Ballista cluster, HOST:PORT: its executors work on the fragments. All processes must see the run's folder and
    /// the manifest's files under the same paths.
    #[cfg(feature = "ballista")]
    #[arg(long, value_name = "HOST:PORT")]
    scheduler: Option<String>,
}

impl Limits {
    /// Runs a manifest to its end, with progress on stderr and signals heeded.
    pub(super) fn execute(&self, manifest: &Manifest, run: &Path, only: Option<&str>, json: bool) -> Result<()> {
        let done = self.work(manifest, run, only, json)?;
        if json {
            say!(
                "{}",
                serde_json::json!({ "run": run, "ran": done.ran, "cached": done.cached, "elapsed_secs": done.elapsed_secs })
            );
        } else {
            note!("{}: {} stages run, {} cached, {:.1} s", run.display(), done.ran, done.cached, done.elapsed_secs);
        }
        Ok(())
    }

    /// Who works: the scheduler of the arguments, else what the manifest says.
    fn engine(&self, manifest: &Manifest) -> Result<Engine> {
        #[cfg(feature = "ballista")]
        if let Some(address) = &self.scheduler {
            return Engine::of("ballista", Some(address))
                .map_err(|e| Error::Manifest(format!("error: --scheduler: {e}")));
        }
        let name = manifest.engine.as_deref().unwrap_or("local");
        Engine::of(name, manifest.scheduler.as_deref()).map_err(|e| Error::Manifest(format!("error: {e}")))
    }

    /// The same, with nothing said at the end.
    pub(super) fn work(&self, manifest: &Manifest, run: &Path, only: Option<&str>, json: bool) -> Result<Summary> {
        let threads = self.threads.unwrap_or_else(default_threads).max(1);
        // The trainer's pool; its size never changes a result.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        let settings = Settings {
            threads,
            memory_limit_bytes: self.memory_limit,
            engine: self.engine(manifest)?,
            scratch: None,
            cut: Cut::default(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            // The first signal asks, the second ends at once; both are safe at any instant.
            signal_hook::flag::register_conditional_shutdown(signal, 5, stop.clone())
                .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
                .map_err(Error::io("listen for signals in", run))?;
        }
        let progress = Terminal::new(json, manifest);
        execute::run(manifest, run, only, &settings, &progress, &stop)
    }
}
