//! `verdict`: runs each rollout's exact verifier; pass, fail or unknown, with the reward it gives.

use super::{Context, Output, model};
use crate::dataset::string_column;
use crate::error::{Error, Result};
use crate::manifest::kinds::Options;
use crate::sink::write_table;
use crate::store::FragmentRecord;
use align::verify::Verifier;
use datafusion::arrow::array::{ArrayRef, Float64Builder, RecordBatch, StringBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Options of a `verdict` stage. Its input has `completion`, `answer` and `verifier` columns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VerdictConfig {
    /// Use this verifier for every row instead of the row's own: `exact`, `tag:NAME`, `last_number` or `one_of`.
    pub verifier: Option<String>,
}

impl Options for VerdictConfig {
    fn check(&self) -> Vec<crate::manifest::kinds::OptionFault> {
        let fault = self.verifier.as_deref().and_then(|v| Verifier::parse(v).err());
        fault.map(|e| crate::manifest::kinds::OptionFault::new("verifier", e.to_string())).into_iter().collect()
    }
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &VerdictConfig) -> Result<Output> {
    let parts = context.input().parts();
    let fragments = context.spread("", parts.len(), |index| {
        let mut strings: [StringBuilder; 6] = Default::default(); // id, parent_id, task, status, verifier, detail
        let mut reward = Float64Builder::new();
        let mut record = FragmentRecord::default();
        let names = ["id", "parent_id", "task", "completion", "answer", "verifier"];
        for batch in context.input().read(&parts[index], &names)? {
            let columns = names.map(|n| string_column(&batch, n));
            let [id, parent, task, completion, answer, verifier] = columns;
            let (id, parent, task, completion, answer, verifier) =
                (id?, parent?, task?, completion?, answer?, verifier?);
            for i in 0..batch.num_rows() {
                let spec = config.verifier.as_deref().unwrap_or(verifier.value(i));
                let verdict = align::verify::verify(spec, completion.value(i), answer.value(i))
                    .map_err(|e| Error::InputData(e.to_string()))?;
                let status = verdict.status.as_str();
                for (builder, value) in strings.iter_mut().zip([
                    id.value(i),
                    parent.value(i),
                    task.value(i),
                    status,
                    spec,
                    verdict.detail.as_ref(),
                ]) {
                    builder.append_value(value);
                }
                reward.append_option(verdict.status.passed().map(|p| f64::from(u8::from(p))));
                record.add(&format!("verdict:{status}"), 1);
            }
        }
        let rows = table(strings, reward)?;
        record.files = vec![write_table(&context.out.path, &format!("part-{index:05}.parquet"), &rows)?];
        Ok(record)
    })?;
    let sum = |name: &str| fragments.iter().filter_map(|f| f.counts.get(name)).sum::<u64>();
    let note =
        format!("{} pass, {} fail, {} unknown", sum("verdict:pass"), sum("verdict:fail"), sum("verdict:unknown"));
    Ok(Output { fragments, note, ..Output::default() })
}

/// Columns id, parent_id, task, status, verifier, detail, reward.
pub fn table(mut strings: [StringBuilder; 6], mut reward: Float64Builder) -> Result<RecordBatch> {
    let names = ["id", "parent_id", "task", "status", "verifier", "detail"];
    let mut columns: Vec<(String, ArrayRef)> =
        names.iter().zip(&mut strings).map(|(n, b)| (n.to_string(), Arc::new(b.finish()) as ArrayRef)).collect();
    columns.push(("reward".into(), Arc::new(reward.finish())));
    model::named(columns)
}
