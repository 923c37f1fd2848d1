//! Verdict rows: one per input row of every stage that can lose one, so that nothing is lost without a reason.

use crate::error::Result;
use crate::schema;
use crate::store::FragmentRecord;
use datafusion::arrow::array::{ArrayRef, Float64Builder, ListBuilder, RecordBatch, StringBuilder};
use datafusion::arrow::datatypes::Field;
use std::sync::Arc;

/// What became of one input row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is in the output.
    Kept,
    /// A rule removed it.
    Dropped,
    /// It was too damaged to decide.
    Failed,
}

impl Status {
    /// The name in the `status` column.
    pub fn name(self) -> &'static str {
        match self {
            Status::Kept => "kept",
            Status::Dropped => "dropped",
            Status::Failed => "failed",
        }
    }
}

/// The rule that decided, with the measured value and the threshold it missed.
#[derive(Clone, Debug, Default)]
pub struct Finding {
    /// Name of the rule.
    pub rule: String,
    /// Measured value, where there is a number.
    pub value: Option<f64>,
    /// The threshold, where there is a number.
    pub threshold: Option<f64>,
    /// The same in words.
    pub reason: Option<String>,
}

/// Collects verdict rows in input order.
#[derive(Default)]
pub struct Verdicts {
    id: StringBuilder,
    status: StringBuilder,
    rule: StringBuilder,
    value: Float64Builder,
    threshold: Float64Builder,
    failed: Option<ListBuilder<StringBuilder>>,
    reason: StringBuilder,
    /// Counts `in`, `kept`, `dropped`, `failed` and `dropped:<rule>`.
    pub counts: FragmentRecord,
}

impl Verdicts {
    /// Adds a kept row.
    pub fn keep(&mut self, id: &str) {
        self.push(id, Status::Kept, &[]);
    }

    /// Adds a row with its findings; the first decides, all are listed.
    pub fn push(&mut self, id: &str, status: Status, findings: &[Finding]) {
        self.id.append_value(id);
        self.status.append_value(status.name());
        let first = findings.first();
        self.rule.append_option(first.map(|f| f.rule.as_str()));
        self.value.append_option(first.and_then(|f| f.value));
        self.threshold.append_option(first.and_then(|f| f.threshold));
        self.reason.append_option(first.and_then(|f| f.reason.as_deref()));
        let failed = self.failed.get_or_insert_with(|| ListBuilder::new(StringBuilder::new()));
        for finding in findings {
            failed.values().append_value(&finding.rule);
        }
        failed.append(true);
        self.counts.add("in", 1);
        self.counts.add(status.name(), 1);
        if let (Some(first), true) = (first, status != Status::Kept) {
            self.counts.add(&format!("{}:{}", status.name(), first.rule), 1);
        }
    }

    /// The rows as a table, with further columns of the same length.
    pub fn finish(&mut self, more: Vec<(Field, ArrayRef)>) -> Result<RecordBatch> {
        let mut failed = self.failed.take().unwrap_or_else(|| ListBuilder::new(StringBuilder::new()));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.id.finish()),
            Arc::new(self.status.finish()),
            Arc::new(self.rule.finish()),
            Arc::new(self.value.finish()),
            Arc::new(self.threshold.finish()),
            Arc::new(failed.finish()),
            Arc::new(self.reason.finish()),
        ];
        let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = more.into_iter().unzip();
        columns.extend(arrays);
        Ok(RecordBatch::try_new(schema::verdicts(fields), columns)?)
    }
}
