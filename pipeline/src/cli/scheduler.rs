//! `gristmill scheduler`

use crate::engine::ballista::{SchedulerOptions, scheduler};
use crate::error::Result;
use std::net::SocketAddr;

/// Start the scheduler of a Ballista cluster; `gristmill executor` joins it, `gristmill run --scheduler` works with it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gristmill scheduler
  gristmill scheduler --bind 0.0.0.0:50050 --host node1

It keeps nothing on disk: if it is lost, start it again and repeat the run, which goes on from its committed fragments.
It has no authentication: listen only where everybody may start work.")]
pub struct Scheduler {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:50050")]
    bind: SocketAddr,
    /// Name under which executors and runs reach this machine.
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    host: String,
    /// Seconds of silence after which an executor counts as lost and others repeat its work.
    #[arg(long, value_name = "SECONDS", default_value_t = 180, value_parser = clap::value_parser!(u64).range(2..))]
    executor_timeout: u64,
}

impl Scheduler {
    pub(super) fn run(&self) -> Result<()> {
        let options =
            SchedulerOptions { bind: self.bind, host: self.host.clone(), executor_timeout: self.executor_timeout };
        scheduler(&options, |address| {
            say!("scheduler on {}:{}", self.host, address.port());
            Ok(())
        })
    }
}
