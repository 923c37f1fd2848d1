//! `gristmill executor`: Ballista's executor with our codec and functions, working on fragments and parts of queries.

use super::codec::Codec;
use super::fragment::Share;
use super::{config, runtime, state};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::stage::{Cut, Settings};
use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

/// What an executor is told.
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// Host and port of the scheduler.
    pub scheduler: (String, u16),
    /// Address to listen on for those who fetch results.
    pub bind: String,
    /// Name under which others reach this machine.
    pub host: String,
    /// Port for those who fetch results; 0 takes a free one.
    pub port: u16,
    /// Fragments and parts of queries worked on at a time.
    pub threads: usize,
    /// Cap on the memory of query operators in all, in bytes; None: no cap.
    pub memory_limit_bytes: Option<u64>,
    /// Folder for what passes between parts of a query and for what spills.
    pub work_dir: PathBuf,
}

/// Seconds to wait for the scheduler at the start.
const PATIENCE: u16 = 60;

/// Runs until the process is told to stop.
pub fn executor(options: &ExecutorOptions) -> Result<()> {
    let free = || {
        let listener = TcpListener::bind((options.bind.as_str(), 0)).and_then(|l| l.local_addr());
        listener.map(|a| a.port()).map_err(|e| {
            Error::Manifest(format!(
                "error: cannot listen on {}: {e}\nhint: give another address with --bind",
                options.bind
            ))
        })
    };
    let port = if options.port == 0 { free()? } else { options.port };
    let share = Share(Settings {
        threads: 1,
        memory_limit_bytes: options.memory_limit_bytes.map(|b| b / options.threads.max(1) as u64),
        engine: Engine::Local,
        scratch: Some(options.work_dir.clone()),
        cut: Cut::default(),
        ranks: None,
    });
    let functions = state(config()).map(|s| BallistaFunctionRegistry::from(&s))?;
    let settings = ExecutorProcessConfig {
        bind_host: options.bind.clone(),
        external_host: Some(options.host.clone()),
        port,
        grpc_port: free()?,
        scheduler_host: options.scheduler.0.clone(),
        scheduler_port: options.scheduler.1,
        scheduler_connect_timeout_seconds: PATIENCE,
        vcores: options.threads,
        task_scheduling_policy: TaskSchedulingPolicy::PullStaged,
        work_dir: Some(options.work_dir.to_string_lossy().into_owned()),
        memory_pool_size: Some(options.memory_limit_bytes.unwrap_or(0)),
        override_function_registry: Some(Arc::new(functions)),
        override_config_producer: Some(Arc::new(move || config().with_extension(Arc::new(share.clone())))),
        override_physical_codec: Some(Arc::new(Codec::default())),
        ..ExecutorProcessConfig::default()
    };
    runtime().block_on(start_executor_process(Arc::new(settings))).map_err(|e| {
        let (host, port) = &options.scheduler;
        Error::Query(format!("the executor stopped: {e}\nhint: is a `gristmill scheduler` listening on {host}:{port}?"))
    })
}
