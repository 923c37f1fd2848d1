//! `run` as the client of a cluster: fragments out, records back; queries out, rows back.

use super::codec::Codec;
use super::fragment::FragmentExec;
use super::{config, state};
use crate::engine::task::{Outcome, Task};
use crate::error::{Error, Result};
use crate::session::block_on_io;
use crate::store::FragmentRecord;
use ballista_core::execution_plans::execute_physical_plan;
use ballista_core::extension::SessionConfigExt;
use ballista_core::planner::BallistaQueryPlanner;
use ballista_core::serde::BallistaLogicalExtensionCodec;
use datafusion::arrow::array::AsArray;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::SessionState;
use datafusion::prelude::SessionContext;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use futures::TryStreamExt;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

/// Fragments under way at a time; those beyond the cluster's threads wait at the scheduler.
const UNDER_WAY: usize = 64;
/// How often a fragment is handed out before the cluster counts as gone.
const TRIES: usize = 3;

/// A cluster by its scheduler.
#[derive(Clone, Debug)]
pub struct Cluster {
    host: String,
    port: u16,
}

impl Cluster {
    /// The cluster whose scheduler listens on `HOST:PORT`.
    pub fn new(address: &str) -> std::result::Result<Self, String> {
        let (host, port) = split_address(address)?;
        Ok(Self { host, port })
    }

    /// Fragments to have under way at a time.
    pub fn under_way(&self) -> usize {
        UNDER_WAY
    }

    fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    /// An error if no scheduler answers.
    pub fn reach(&self) -> Result<()> {
        let lost = |why: String| {
            Error::Manifest(format!(
                "error: no scheduler answers on {}:{}: {why}\nhint: start one with  gristmill scheduler --bind {}:{}  and executors with  gristmill executor {}:{}",
                self.host, self.port, self.host, self.port, self.host, self.port
            ))
        };
        let found = (self.host.as_str(), self.port).to_socket_addrs().map_err(|e| lost(e.to_string()))?;
        let mut last = "the name has no address".to_string();
        for address in found {
            match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
                Ok(_) => return Ok(()),
                Err(e) => last = e.to_string(),
            }
        }
        Err(lost(last))
    }

    /// Has one fragment made and gives its record. What the work itself says comes back as it was; what the cluster says is tried
    /// again, since an executor may have been lost between its work and our asking for the record.
    pub fn fragment(&self, task: &Task, go_on: impl Fn() -> Result<()>) -> Result<FragmentRecord> {
        let mut last = String::new();
        for _ in 0..TRIES {
            go_on()?;
            match block_on_io(self.outcome(task.clone())) {
                Ok(outcome) => return outcome.into_result(),
                Err(e) => last = e.to_string(),
            }
        }
        Err(self.gone(&last))
    }

    async fn outcome(&self, task: Task) -> datafusion::common::Result<Outcome> {
        let (config, codec) = (config(), Codec::default());
        let settings = config.ballista_config();
        let stream = execute_physical_plan::<PhysicalPlanNode>(
            self.url(),
            &settings,
            Arc::new(FragmentExec::new(task)),
            &codec,
            "gristmill-fragments".into(),
            config,
        );
        let batches: Vec<_> = stream.await?.try_collect().await?;
        let row = batches.iter().find(|b| b.num_rows() == 1);
        let text = row.map(|b| b.column(0).as_string::<i32>().value(0));
        text.and_then(|t| serde_json::from_str(t).ok()).ok_or_else(|| {
            datafusion::common::exec_datafusion_err!(
                "the cluster gave no outcome; are all its processes the same version?"
            )
        })
    }

    fn gone(&self, last: &str) -> Error {
        Error::Interrupted(format!(
            "the cluster of {}:{} failed {TRIES} times: {last}\nhint: look at its processes and run the same command again: committed fragments are kept",
            self.host, self.port
        ))
    }

    /// A session like `local` whose plans are executed by the cluster.
    pub fn session(&self, local: &SessionState) -> Result<SessionContext> {
        let options = local.config().options();
        let mut config = config().with_target_partitions(PARTITIONS);
        for entry in options.entries() {
            let ours = ["datafusion.execution.parquet", "datafusion.sql_parser", "datafusion.execution.batch_size"];
            if let Some(value) = entry.value.as_deref().filter(|_| ours.iter().any(|o| entry.key.starts_with(o))) {
                config.options_mut().set(&entry.key, value)?;
            }
        }
        let planner = BallistaQueryPlanner::<LogicalPlanNode>::with_extension(
            self.url(),
            config.ballista_config(),
            Arc::new(BallistaLogicalExtensionCodec::default()),
        );
        let state =
            SessionStateBuilder::new_from_existing(state(config)?).with_query_planner(Arc::new(planner)).build();
        Ok(SessionContext::new_with_state(state))
    }

    /// What to say of a query that the cluster did not end.
    pub fn query_failed(&self, e: datafusion::error::DataFusionError) -> Error {
        Error::Interrupted(format!(
            "the cluster of {}:{} did not end the query: {}\nhint: look at its processes and run the same command again",
            self.host,
            self.port,
            e.strip_backtrace()
        ))
    }
}

/// Parts a query is cut into between executors.
const PARTITIONS: usize = 8;

/// `HOST:PORT` in its parts.
pub fn split_address(address: &str) -> std::result::Result<(String, u16), String> {
    let address = address.strip_prefix("http://").unwrap_or(address);
    let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    match parts {
        Some((host, port)) if !host.is_empty() && port > 0 => Ok((host.to_string(), port)),
        _ => Err(format!("expected HOST:PORT of a scheduler, e.g. localhost:50050, got \"{address}\"")),
    }
}
