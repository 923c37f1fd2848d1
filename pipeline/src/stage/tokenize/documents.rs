//! The table of documents in token shards, `docs.parquet`: where each came from, what was measured, where its tokens are.
//!
//! Rows are in the order of the shards' receipt and, inside a shard, of its documents: a document's row number is a sum. Columns:
//! `id`, `stage` (the input it came by), `split`, `shard`, `document` (its ordinal there), `token_start`, `token_count` (end-of-text
//! included), `byte_count`, `text_hash`; then what the inputs have of origin and measures ([`carried`]), null where one lacks it.

use crate::dataset::{Dataset, column};
use crate::error::Result;
use datafusion::arrow::array::{
    ArrayRef, RecordBatch, StringArray, StringBuilder, UInt32Array, UInt64Array, new_null_array,
};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::ops::Range;
use std::sync::Arc;

const OWN: [(&str, DataType); 9] = [
    ("id", DataType::Utf8),
    ("stage", DataType::Utf8),
    ("split", DataType::Utf8),
    ("shard", DataType::UInt32),
    ("document", DataType::UInt32),
    ("token_start", DataType::UInt64),
    ("token_count", DataType::UInt64),
    ("byte_count", DataType::UInt64),
    ("text_hash", DataType::Utf8),
];
/// Columns about a document's origin, in this order.
const ORIGIN: [&str; 7] = ["parent_id", "url", "source", "source_id", "date", "language", "mix_source"];

/// Columns of the inputs that the table keeps: those of origin, then all numbers and truth values. One that has another type in
/// another input is left out.
pub(super) fn carried(inputs: &[Dataset]) -> Result<Vec<Field>> {
    let mut fields: Vec<(Field, bool)> = Vec::new(); // and whether all inputs agree on its type
    for input in inputs {
        for field in input.schema()?.fields() {
            let (name, kind) = (field.name().as_str(), field.data_type());
            let measure = kind.is_numeric() || *kind == DataType::Boolean;
            if OWN.iter().any(|(own, _)| *own == name) || !(measure || ORIGIN.contains(&name)) {
                continue;
            }
            match fields.iter_mut().find(|(known, _)| known.name() == name) {
                Some((known, agreed)) => *agreed &= known.data_type() == kind,
                None => fields.push((Field::new(name, kind.clone(), true), true)),
            }
        }
    }
    let rank = |f: &Field| ORIGIN.iter().position(|name| name == f.name()).unwrap_or(ORIGIN.len());
    let mut kept: Vec<Field> = fields.into_iter().filter_map(|(f, agreed)| agreed.then_some(f)).collect();
    kept.sort_by_key(rank);
    Ok(kept)
}

/// The table's columns.
pub(super) fn schema(carried: &[Field]) -> SchemaRef {
    let own = OWN.map(|(name, kind)| Field::new(name, kind, false));
    Arc::new(Schema::new(own.into_iter().chain(carried.iter().cloned()).collect::<Vec<_>>()))
}

/// Rows of one batch's documents that went to one shard.
pub(super) struct Rows {
    stage: String,
    split: &'static str,
    shard: u32,
    /// Their rows in the batch.
    rows: Vec<u32>,
    ids: StringBuilder,
    hashes: StringBuilder,
    ordinals: Vec<u32>,
    starts: Vec<u64>,
    counts: Vec<u64>,
    byte_counts: Vec<u64>,
    /// Tokens of all.
    pub(super) tokens: u64,
    /// Bytes of text of all.
    pub(super) bytes: u64,
}

impl Rows {
    pub(super) fn new(stage: &str, split: &'static str, shard: usize) -> Self {
        Self {
            stage: stage.to_string(),
            split,
            shard: shard as u32,
            rows: Vec::new(),
            ids: StringBuilder::new(),
            hashes: StringBuilder::new(),
            ordinals: Vec::new(),
            starts: Vec::new(),
            counts: Vec::new(),
            byte_counts: Vec::new(),
            tokens: 0,
            bytes: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Adds the document of a row of the batch.
    pub(super) fn push(&mut self, row: usize, id: &str, hash: &str, ordinal: usize, tokens: Range<u64>, bytes: u64) {
        self.rows.push(row as u32);
        self.ids.append_value(id);
        self.hashes.append_value(hash);
        self.ordinals.push(ordinal as u32);
        self.starts.push(tokens.start);
        self.counts.push(tokens.end - tokens.start);
        self.byte_counts.push(bytes);
        self.tokens += tokens.end - tokens.start;
        self.bytes += bytes;
    }

    /// The rows, with the carried columns of their batch.
    pub(super) fn finish(mut self, batch: &RecordBatch, carried: &[Field]) -> Result<RecordBatch> {
        let n = self.rows.len();
        let same = |text: &str| Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, n))) as ArrayRef;
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.ids.finish()),
            same(&self.stage),
            same(self.split),
            Arc::new(UInt32Array::from(vec![self.shard; n])),
            Arc::new(UInt32Array::from(self.ordinals)),
            Arc::new(UInt64Array::from(self.starts)),
            Arc::new(UInt64Array::from(self.counts)),
            Arc::new(UInt64Array::from(self.byte_counts)),
            Arc::new(self.hashes.finish()),
        ];
        let rows = UInt32Array::from(self.rows);
        for field in carried {
            columns.push(match column(batch, field.name()) {
                Ok(values) => take(values, &rows, None)?,
                Err(_) => new_null_array(field.data_type(), n),
            });
        }
        Ok(RecordBatch::try_new(schema(carried), columns)?)
    }
}
