//! `gristmill scheduler`: Ballista's scheduler with our codec and functions.

use super::codec::Codec;
use super::{config, runtime, state};
use crate::error::{Error, Result};
use ballista_core::config::TaskSchedulingPolicy;
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service_with_listener};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use std::net::SocketAddr;
use std::sync::Arc;

/// What a scheduler is told.
#[derive(Clone, Debug)]
pub struct SchedulerOptions {
    /// Address to listen on; port 0 takes a free one.
    pub bind: SocketAddr,
    /// Name under which others reach this machine.
    pub host: String,
    /// Seconds without a word after which an executor counts as lost and its work is given to others.
    pub executor_timeout: u64,
}

/// Runs until the process ends. `ready` hears the address once it listens.
pub fn scheduler(options: &SchedulerOptions, ready: impl FnOnce(SocketAddr) -> Result<()>) -> Result<()> {
    runtime().block_on(async {
        let cannot = |e: std::io::Error| {
            Error::Manifest(format!(
                "error: cannot listen on {}: {e}\nhint: give another address with --bind",
                options.bind
            ))
        };
        let listener = tokio::net::TcpListener::bind(options.bind).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let config = SchedulerConfig {
            bind_host: address.ip().to_string(),
            bind_port: address.port(),
            external_host: options.host.clone(),
            // Executors ask for work: they need to reach the scheduler, not it them.
            scheduling_policy: TaskSchedulingPolicy::PullStaged,
            executor_timeout_seconds: options.executor_timeout,
            expire_dead_executor_interval_seconds: (options.executor_timeout / 4).max(1),
            no_executors_grace_period_seconds: options.executor_timeout.max(60),
            override_config_producer: Some(Arc::new(config)),
            override_session_builder: Some(Arc::new(state)),
            override_physical_codec: Some(Arc::new(Codec::default())),
            ..SchedulerConfig::default()
        };
        let failed = |e| Error::Query(format!("the scheduler stopped: {e}"));
        let cluster = BallistaCluster::new_from_config(&config).await.map_err(failed)?;
        let server = create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, Arc::new(config));
        let server = server.await.map_err(failed)?;
        ready(address)?;
        start_grpc_service_with_listener(listener, server).await.map_err(failed)
    })
}
