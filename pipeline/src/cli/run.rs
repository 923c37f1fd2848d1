//! `gristmill run`

use super::progress::Terminal;
use super::{Place, default_threads, parse_bytes};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::execute::{self, Summary};
use crate::manifest::Manifest;
use crate::ranks::Ranks;
use crate::stage::{Cut, Settings};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use trainer::parallel::Launch;

/// Run a manifest; running again goes on where it stopped and skips what is done.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gristmill run manifests/quickstart.toml
  gristmill run manifests/quickstart.toml --only unique --threads 1
  gristmill run manifests/quickstart.toml --set lang.min_score=0.8
  gristmill launch -n 2 -- run manifests/quickstart.toml")]
pub struct Run {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    limits: Limits,
    /// Run this stage and what it needs, nothing else.
    #[arg(long, value_name = "STAGE")]
    only: Option<String>,
    /// With processes that train together (`gristmill launch`, torchrun, srun, mpirun): longest silence of one, in seconds, before all end
    /// with exit code 7.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = parse_secs)]
    peer_timeout: Duration,
    /// Print what would run and why, and stop (the same as `gristmill plan`).
    #[arg(long)]
    dry_run: bool,
}

impl Run {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        if self.dry_run {
            return super::plan::show(&self.place, json);
        }
        let launch =
            Launch::from_vars(|name| std::env::var(name).ok()).map_err(|e| Error::Manifest(format!("error: {e}")))?;
        if let Some(launch) = launch.as_ref().filter(|launch| launch.rank > 0) {
            super::follows(launch.rank);
        }
        let (manifest, run) = self.place.load()?;
        let identity = format!("gristmill {} on {}", env!("CARGO_PKG_VERSION"), self.identity(&manifest));
        let meet = |launch: &Launch| Ranks::meet(launch, identity, self.peer_timeout).transpose();
        let ranks = launch.as_ref().and_then(meet).transpose()?.map(Arc::new);
        let follows = ranks.as_ref().is_some_and(|ranks| !ranks.leads());
        let done = self.limits.work(&manifest, &run, self.only.as_deref(), ranks, json)?;
        if !follows {
            say_done(&run, &done, json)?;
        }
        Ok(())
    }

    /// What must be equal on all ranks: the manifest with its overrides and the part of it that runs.
    fn identity(&self, manifest: &Manifest) -> String {
        let mut hasher = blake3::Hasher::new();
        for part in [&manifest.text, self.only.as_deref().unwrap_or_default()]
            .into_iter()
            .chain(self.place.sets.iter().map(String::as_str))
        {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        format!("{} {}", manifest.name, &hasher.finalize().to_hex()[..16])
    }
}

fn say_done(run: &Path, done: &Summary, json: bool) -> Result<()> {
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

/// Seconds above 0, as a duration.
fn parse_secs(text: &str) -> std::result::Result<Duration, String> {
    let secs = text.parse().ok().and_then(|secs: f64| Duration::try_from_secs_f64(secs).ok());
    let whole = secs.filter(|d| *d >= Duration::from_millis(100) && *d <= Duration::from_secs(1 << 20));
    whole.ok_or_else(|| format!("expected seconds, from 0.1 to a million, got `{text}`"))
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

    /// Runs a manifest to its end, with progress on stderr and signals heeded.
    pub(super) fn work(
        &self,
        manifest: &Manifest,
        run: &Path,
        only: Option<&str>,
        ranks: Option<Arc<Ranks>>,
        json: bool,
    ) -> Result<Summary> {
        let threads = self.threads.unwrap_or_else(default_threads).max(1);
        // Ranks of one machine train at the same time; the data half of rank 0 has it for itself.
        let neighbours = ranks.as_ref().and_then(|_| std::env::var("LOCAL_WORLD_SIZE").ok()?.parse().ok());
        let share = self.threads.unwrap_or(threads / neighbours.unwrap_or(1).max(1)).max(1);
        // The trainer's pool; its size never changes a result.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(share).build_global();
        let settings = Settings {
            threads,
            memory_limit_bytes: self.memory_limit,
            engine: self.engine(manifest)?,
            scratch: None,
            cut: Cut::default(),
            ranks,
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
