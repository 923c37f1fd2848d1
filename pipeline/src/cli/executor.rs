//! `gristmill executor`

use super::{default_threads, parse_bytes};
use crate::engine::ballista::{ExecutorOptions, executor, split_address};
use crate::error::{Error, Result};
use std::path::PathBuf;

/// Start an executor of a Ballista cluster: it works on fragments of runs and on parts of their queries.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gristmill executor localhost:50050
  gristmill executor node1:50050 --bind 0.0.0.0 --host node2 --threads 32 --memory-limit 64GB --work-dir /scratch

It must see the folders of the runs and of the manifests' files under the same paths as `gristmill run` does.")]
pub struct Executor {
    /// The scheduler, HOST:PORT.
    scheduler: String,
    /// Address to listen on for those who fetch results.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    bind: String,
    /// Name under which others reach this machine.
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    host: String,
    /// Port for those who fetch results; a free one if not given.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// Fragments and parts of queries worked on at a time.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Cap on the memory of query operators in all, e.g. 8GB.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory_limit: Option<u64>,
    /// Folder for what passes between parts of a query and for what spills; one of its own in the system's place for temporary files
    /// if not given.
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
}

impl Executor {
    pub(super) fn run(&self) -> Result<()> {
        let scheduler = split_address(&self.scheduler).map_err(|e| Error::Manifest(format!("error: {e}")))?;
        let own = std::env::temp_dir().join(format!("gristmill-executor-{}", std::process::id()));
        let work_dir = self.work_dir.clone().unwrap_or_else(|| own.clone());
        std::fs::create_dir_all(&work_dir).map_err(Error::io("create folder", &work_dir))?;
        let options = ExecutorOptions {
            scheduler,
            bind: self.bind.clone(),
            host: self.host.clone(),
            port: self.port,
            threads: self.threads.unwrap_or_else(default_threads).max(1),
            memory_limit_bytes: self.memory_limit,
            work_dir,
        };
        note!("executor of {} with {} threads", self.scheduler, options.threads);
        let ended = executor(&options);
        let _ = std::fs::remove_dir_all(own);
        ended
    }
}
