//! What a training run remembers of its steps: metrics and a trace, as tables and inside checkpoints.

use crate::error::Result;
use crate::stage::model::named;
use datafusion::arrow::array::{ArrayRef, Float64Builder, RecordBatch, StringBuilder, UInt64Builder};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Numbers of one step, by name.
pub type Metrics = BTreeMap<String, f64>;

/// One line of a trace: which row or which window made a step. Unused parts stay empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TraceRow {
    /// Id of the row, for stages that train on tables.
    pub id: Option<String>,
    /// Its parent.
    pub parent_id: Option<String>,
    /// Number of the window in its step, for pretraining.
    pub window: Option<u64>,
    /// Shard of the window.
    pub shard: Option<u64>,
    /// First token of the window in its shard.
    pub token_start: Option<u64>,
    /// Tokens of the window in that shard.
    pub token_count: Option<u64>,
}

/// Everything a checkpoint adds to the trainer's own files. Values are kept as bits, so nothing is rounded.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct History {
    metrics: Vec<(u64, BTreeMap<String, u64>)>,
    trace: Vec<(u64, TraceRow)>,
}

impl History {
    /// Adds step `step`, counted from 1.
    pub fn add(&mut self, step: u64, metrics: Metrics, trace: Vec<TraceRow>) {
        self.metrics.push((step, metrics.into_iter().map(|(k, v)| (k, v.to_bits())).collect()));
        self.trace.extend(trace.into_iter().map(|t| (step, t)));
    }

    /// A metric of each step that has it, in order.
    pub fn values(&self, name: &str) -> impl Iterator<Item = f64> {
        self.metrics.iter().filter_map(move |(_, m)| m.get(name).map(|b| f64::from_bits(*b)))
    }

    /// Table `x_metrics`: `step`, then one column per metric in name order.
    pub fn metrics_table(&self) -> Result<RecordBatch> {
        let mut names: Vec<&String> = self.metrics.iter().flat_map(|(_, m)| m.keys()).collect();
        names.sort();
        names.dedup();
        let mut steps = UInt64Builder::new();
        self.metrics.iter().for_each(|(s, _)| steps.append_value(*s));
        let mut columns: Vec<(String, ArrayRef)> = vec![("step".into(), Arc::new(steps.finish()))];
        for name in names {
            let mut values = Float64Builder::new();
            self.metrics.iter().for_each(|(_, m)| values.append_option(m.get(name).map(|b| f64::from_bits(*b))));
            columns.push((name.clone(), Arc::new(values.finish())));
        }
        named(columns)
    }

    /// Table `x_trace`: a row per row or window of a step.
    pub fn trace_table(&self) -> Result<RecordBatch> {
        let mut steps = UInt64Builder::new();
        let mut ids = [StringBuilder::new(), StringBuilder::new()];
        let mut numbers: [UInt64Builder; 4] = Default::default();
        for (step, row) in &self.trace {
            steps.append_value(*step);
            for (builder, value) in ids.iter_mut().zip([&row.id, &row.parent_id]) {
                builder.append_option(value.as_deref());
            }
            for (builder, value) in numbers.iter_mut().zip([row.window, row.shard, row.token_start, row.token_count]) {
                builder.append_option(value);
            }
        }
        let mut columns: Vec<(String, ArrayRef)> = vec![("step".into(), Arc::new(steps.finish()))];
        columns.extend(
            ["id", "parent_id"].iter().zip(&mut ids).map(|(n, b)| (n.to_string(), Arc::new(b.finish()) as ArrayRef)),
        );
        let names = ["window", "shard", "token_start", "token_count"];
        columns.extend(names.iter().zip(&mut numbers).map(|(n, b)| (n.to_string(), Arc::new(b.finish()) as ArrayRef)));
        named(columns)
    }
}
