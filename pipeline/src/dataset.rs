//! A finished stage's output, as later stages and queries see it.

use crate::error::{Error, Result};
use crate::receipt::Receipt;
use crate::retain;
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The table of token shards: one row per document.
pub const DOCUMENTS: &str = "docs.parquet";
/// What the files of other tables begin with.
const PARTS: &str = "part-";

/// Whether a file of a stage holds rows of its table.
pub fn is_part(path: &str) -> bool {
    path.starts_with(PARTS) || path == DOCUMENTS
}

/// Rows read at a time outside of query plans.
const READ_ROWS: usize = 1024;

/// A committed stage output.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Stage name.
    pub name: String,
    /// Its folder in the store.
    pub path: PathBuf,
    /// Its receipt.
    pub receipt: Receipt,
}

impl Dataset {
    /// Opens the output a folder holds; an error if the stage is not finished.
    pub fn open(name: &str, path: PathBuf) -> Result<Self> {
        let receipt = Receipt::read(&path)?.ok_or_else(|| {
            Error::Integrity(format!(
                "stage `{name}` has no receipt in {}\nhint: run the manifest again",
                path.display()
            ))
        })?;
        Ok(Self { name: name.to_string(), path, receipt })
    }

    /// Whether its documents were dropped; see [`retain`].
    pub fn documents_dropped(&self) -> bool {
        retain::is_dropped(&self.path)
    }

    /// Paths of the files whose name starts with `prefix`, in name order: `part-` (also the table of token shards), `verdicts-`; without
    /// those that were dropped.
    pub fn files(&self, prefix: &str) -> Vec<PathBuf> {
        let wanted = |path: &str| path.starts_with(prefix) || prefix == PARTS && is_part(path);
        let named = retain::stored(&self.path, &self.receipt).filter(|f| wanted(&f.path));
        named.map(|f| self.path.join(&f.path)).collect()
    }

    /// Paths of the table's fragments, in fragment order.
    pub fn parts(&self) -> Vec<PathBuf> {
        self.files(PARTS)
    }

    /// Columns of the table; an error if the output is no table.
    pub fn schema(&self) -> Result<SchemaRef> {
        let first = self.parts().into_iter().next().ok_or_else(|| {
            if self.documents_dropped() {
                return Error::Query(dropped(&self.name));
            }
            Error::Query(format!("stage `{}` (kind {}) has no rows to read", self.name, self.receipt.kind))
        })?;
        Ok(reader(&first)?.schema().clone())
    }

    /// Rows of one fragment with the named columns, in row order.
    pub fn read(&self, part: &Path, columns: &[&str]) -> Result<Vec<RecordBatch>> {
        self.batches(part, columns)?.collect()
    }

    fn batches(&self, part: &Path, columns: &[&str]) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
        let builder = reader(part)?;
        for column in columns {
            if builder.schema().column_with_name(column).is_none() {
                let known: Vec<&str> = builder.schema().fields().iter().map(|f| f.name().as_str()).collect();
                return Err(Error::Query(format!(
                    "stage `{}` has no column `{column}`   (known: {})",
                    self.name,
                    known.join(", ")
                )));
            }
        }
        let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
        let batches = builder.with_projection(mask).with_batch_size(READ_ROWS).build()?;
        Ok(batches.map(|b| b.map_err(Error::from)))
    }

    /// Calls `row` with the batches of one fragment, one at a time, with the named columns, in row order.
    pub fn each(&self, part: &Path, columns: &[&str], mut batch: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        self.batches(part, columns)?.try_for_each(|rows| batch(rows?))
    }

    /// One string column of the whole table, in fragment and row order; nulls as empty strings.
    pub fn strings(&self, column: &str) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for part in self.parts() {
            for batch in self.read(&part, &[column])? {
                let values = string_column(&batch, column)?;
                all.extend(
                    (0..values.len())
                        .map(|i| if values.is_null(i) { String::new() } else { values.value(i).to_string() }),
                );
            }
        }
        Ok(all)
    }
}

/// What is said to who asks for the documents of a stage that has none any more.
pub fn dropped(stage: &str) -> String {
    format!(
        "error: the documents of `{stage}` were dropped once every stage that reads them was committed (retain = \"verdicts\")\n\
         hint: ask {stage}_verdicts, or take `retain` away in the manifest and run it again"
    )
}

/// Calls `batch` with the batches of a table file, one at a time, in row order.
pub fn each_batch(path: &Path, mut batch: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
    reader(path)?.with_batch_size(READ_ROWS).build()?.try_for_each(|rows| batch(rows?))
}

fn reader(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    Ok(ParquetRecordBatchReaderBuilder::try_new(file)?)
}

/// A named column of a batch.
pub fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| {
        let known: Vec<String> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
        Error::Query(format!("no column `{name}`   (known: {})", known.join(", ")))
    })
}

/// A named column that must hold strings.
pub fn string_column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray> {
    let array = column(batch, name)?;
    array
        .as_any()
        .downcast_ref::<StringArray>()
        .ok_or_else(|| Error::Query(format!("column `{name}` holds {}, expected text", array.data_type())))
}
