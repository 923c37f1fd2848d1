//! DataFusion sessions as stages use them: one target partition, fixed batch size, a memory cap, our functions.

use crate::error::{Error, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool, UnboundedMemoryPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows per batch inside plans.
pub const BATCH_ROWS: usize = 1024;

/// A session over `memory_limit_bytes` (None: no cap) that spills into `spill`.
pub fn session(memory_limit_bytes: Option<u64>, spill: Option<&Path>) -> Result<SessionContext> {
    session_of(memory_limit_bytes, spill, 1, BATCH_ROWS)
}

/// The same with another number of partitions and rows per batch, neither of which may change a result.
pub fn session_of(
    memory_limit_bytes: Option<u64>,
    spill: Option<&Path>,
    partitions: usize,
    batch_rows: usize,
) -> Result<SessionContext> {
    let mut runtime = RuntimeEnvBuilder::new();
    let top = NonZeroUsize::new(3).expect("three is not zero because it is three");
    runtime = match memory_limit_bytes {
        Some(cap) => runtime.with_memory_pool(Arc::new(TrackConsumersPool::new(FairSpillPool::new(cap as usize), top))),
        None => runtime.with_memory_pool(Arc::new(UnboundedMemoryPool::default())),
    };
    if let Some(folder) = spill {
        runtime = runtime.with_temp_file_path(folder);
    }
    let mut config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_batch_size(batch_rows)
        .with_information_schema(true)
        .with_collect_statistics(false);
    if let Some(cap) = memory_limit_bytes {
        // Held for the merge of each sort, of which a plan has one a partition.
        config = config.with_sort_spill_reservation_bytes((cap as usize / 4 / partitions).max(1 << 20));
    }
    let options = config.options_mut();
    options.execution.parquet.schema_force_view_types = false;
    options.execution.parquet.skip_metadata = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.optimizer.prefer_hash_join = memory_limit_bytes.is_none();
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime.build_arc()?)
        .with_default_features()
        .build();
    let context = SessionContext::new_with_state(state);
    crate::udf::register(&context);
    Ok(context)
}

/// Registers Parquet files as a table.
pub async fn register(context: &SessionContext, table: &str, paths: &[PathBuf]) -> Result<()> {
    // Absolute: the plan may be executed in another process.
    let absolute = |p: &PathBuf| std::fs::canonicalize(p).map_err(Error::io("find", p));
    let paths = paths.iter().map(absolute).collect::<Result<Vec<_>>>()?;
    let paths: Vec<String> = paths.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    let frame = context.read_parquet(paths, ParquetReadOptions::default()).await?;
    context.register_table(datafusion::common::TableReference::bare(table), frame.into_view())?;
    Ok(())
}

/// Runs a future to its end on this thread; every fragment's plan has a thread and a runtime of its own.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(2).build();
    runtime.expect("a runtime on one thread starts because it needs no driver").block_on(future)
}

/// Runs a future that talks to the network to its end on this thread.
pub fn block_on_io<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime on one thread starts because the system gives it a poll handle").block_on(future)
}
