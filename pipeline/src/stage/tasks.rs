//! `tasks`: seeded prompts with exact answers, some taken from crawled sentences.

use super::{Context, Output, model};
use crate::dataset::string_column;
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use crate::sink::write_table;
use crate::store::FragmentRecord;
use align::tasks::{TaskRow, TasksConfig, generate};
use datafusion::arrow::array::{Array, ArrayRef, StringBuilder, UInt32Builder};
use std::sync::Arc;

/// The generator's options are the stage's.
pub type TasksStage = TasksConfig;

impl Options for TasksConfig {
    fn check(&self) -> Vec<OptionFault> {
        TasksConfig::check(self).err().map(|e| OptionFault::new("tasks", e.to_string())).into_iter().collect()
    }
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &TasksConfig) -> Result<Output> {
    let mut documents = Vec::new();
    for input in &context.inputs {
        for part in input.parts() {
            for batch in input.read(&part, &["id", "text"])? {
                let (id, text) = (string_column(&batch, "id")?.clone(), string_column(&batch, "text")?.clone());
                documents.extend(
                    (0..id.len())
                        .filter(|i| !text.is_null(*i))
                        .map(|i| (id.value(i).to_string(), text.value(i).to_string())),
                );
            }
        }
    }
    let views: Vec<(&str, &str)> = documents.iter().map(|(i, t)| (i.as_str(), t.as_str())).collect();
    let fragments = context.fragments("", 1, |_| {
        let rows = generate(config, context.stage.seed, &views)
            .map_err(|e| Error::InputData(format!("stage `{}`: {e}", context.name())))?;
        let mut record = FragmentRecord::default();
        for row in &rows {
            record.add(&format!("{}:{}", row.split.as_str(), row.task.as_str()), 1);
        }
        record.files = vec![write_table(&context.out.path, "part-00000.parquet", &table(&rows)?)?];
        Ok(record)
    })?;
    let sum =
        |split: &str| fragments[0].counts.iter().filter(|(k, _)| k.starts_with(split)).map(|(_, n)| n).sum::<u64>();
    let note = format!(
        "{} pretraining, {} SFT, {} training and {} held-out prompts",
        sum("pretrain:"),
        sum("sft:"),
        sum("train:"),
        sum("test:")
    );
    Ok(Output { fragments, note, ..Output::default() })
}

/// Columns id, parent_id, task, split, verifier, prompt, answer, completion (of demonstrations), span_start, span_end.
pub fn table(rows: &[TaskRow]) -> Result<datafusion::arrow::array::RecordBatch> {
    let mut strings: [StringBuilder; 8] = Default::default();
    let mut spans = [UInt32Builder::new(), UInt32Builder::new()];
    for row in rows {
        let values = [
            Some(row.id.as_str()),
            row.parent_id.as_deref(),
            Some(row.task.as_str()),
            Some(row.split.as_str()),
            Some(row.verifier.as_str()),
            Some(row.prompt.as_str()),
            Some(row.answer.as_str()),
            row.completion.as_deref(),
        ];
        for (builder, value) in strings.iter_mut().zip(values) {
            builder.append_option(value);
        }
        spans[0].append_option(row.span.map(|s| s.0));
        spans[1].append_option(row.span.map(|s| s.1));
    }
    let names = ["id", "parent_id", "task", "split", "verifier", "prompt", "answer", "completion"];
    let mut columns: Vec<(String, ArrayRef)> =
        names.iter().zip(&mut strings).map(|(n, b)| (n.to_string(), Arc::new(b.finish()) as ArrayRef)).collect();
    let [mut start, mut end] = spans;
    columns.push(("span_start".into(), Arc::new(start.finish())));
    columns.push(("span_end".into(), Arc::new(end.finish())));
    model::named(columns)
}
