//! The engine on a Ballista cluster: `gristmill scheduler`, `gristmill executor`, and `run` as their client.
//!
//! A fragment is one plan of one operator ([`fragment::FragmentExec`]) that carries its task; a `sql` stage is planned by the scheduler,
//! spread over the executors and read back in the order its ORDER BY fixes. The codec wraps Ballista's, the functions are ours on all
//! three sides. Losing an executor repeats its fragments elsewhere; losing the scheduler ends the run, and running again goes on
//! from what was committed.

mod client;
mod codec;
mod executor;
mod fragment;
mod scheduler;
#[cfg(test)]
mod tests;

pub use client::{Cluster, split_address};
pub use executor::{ExecutorOptions, executor};
pub use scheduler::{SchedulerOptions, scheduler};

use ballista_core::extension::SessionConfigExt;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};

/// A runtime with all it takes to talk to other processes.
fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime starts because the system gives it threads and a poll handle")
}

/// Settings every side starts from; what a query needs beyond them travels with it.
fn config() -> SessionConfig {
    SessionConfig::new_with_ballista().with_information_schema(true)
}

/// A session state with Ballista's rules and our functions beside the engine's.
fn state(config: SessionConfig) -> datafusion::common::Result<SessionState> {
    let state = ballista_core::utils::default_session_builder(config)?;
    let session = SessionContext::new_with_state(state);
    crate::udf::register(&session);
    Ok(SessionStateBuilder::new_from_existing(session.state()).build())
}
