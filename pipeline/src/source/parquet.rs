//! Parquet: rows with a `text` or `html` column; a document's place is its row index in the file, a range is a run of row
//! groups.

use super::Fields;
use super::rows::{Document, Place, Rows};
use crate::error::{Error, Result};
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::path::Path;

/// A run of row groups: their indices, and the row the first one begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Indices of the row groups.
    pub groups: std::ops::Range<usize>,
    /// Rows of the file before them.
    pub first_row: u64,
}

/// Cuts a file into runs of row groups of at least `bytes` stored bytes, the last one excepted; there is always one.
pub fn ranges(path: &Path, bytes: u64) -> Result<Vec<Groups>> {
    let metadata = open(path)?.metadata().clone();
    let (mut ranges, mut held, mut rows) = (Vec::new(), 0, 0);
    let mut next = Groups { groups: 0..0, first_row: 0 };
    for (i, group) in metadata.row_groups().iter().enumerate() {
        next.groups.end = i + 1;
        held += group.compressed_size().max(0) as u64;
        rows += group.num_rows().max(0) as u64;
        if held >= bytes {
            ranges.push(std::mem::replace(&mut next, Groups { groups: i + 1..i + 1, first_row: rows }));
            held = 0;
        }
    }
    if !next.groups.is_empty() || ranges.is_empty() {
        ranges.push(next);
    }
    Ok(ranges)
}

/// Reads a run of row groups and hands full batches to `flush`.
pub fn read(
    path: &Path,
    range: &Groups,
    fields: &Fields,
    rows: &mut Rows,
    flush: &mut dyn FnMut(&mut Rows) -> Result<()>,
) -> Result<()> {
    let builder = open(path)?.with_row_groups(range.groups.clone().collect()).with_batch_size(1024);
    let reader = builder.build().map_err(|e| damaged(path, &e))?;
    let mut row = range.first_row;
    for batch in reader {
        let batch = batch.map_err(|e| damaged(path, &e))?;
        let columns = Columns::of(&batch, fields, path)?;
        for i in 0..batch.num_rows() {
            columns.push(i, &Place { offset: row, offset_in_member: 0, length: 1 }, fields, rows);
            row += 1;
        }
        if rows.is_full() {
            flush(rows)?;
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| damaged(path, &e))
}

fn damaged(path: &Path, e: &dyn std::fmt::Display) -> Error {
    Error::InputData(format!("{} is no readable Parquet file: {e}\nhint: leave it out with `exclude`", path.display()))
}

struct Columns {
    text: Option<StringArray>,
    html: Option<StringArray>,
    id: Option<StringArray>,
    url: Option<StringArray>,
    date: Option<StringArray>,
    extra: Vec<Option<StringArray>>,
}

impl Columns {
    fn of(batch: &RecordBatch, fields: &Fields, path: &Path) -> Result<Self> {
        let text_of = |name: &str| -> Result<Option<StringArray>> {
            let Some(array) = batch.column_by_name(name) else { return Ok(None) };
            let array: ArrayRef = cast(array, &DataType::Utf8)?;
            Ok(Some(array.as_any().downcast_ref::<StringArray>().expect("it was cast to strings").clone()))
        };
        let (text, html) = (text_of(&fields.text)?, text_of(&fields.html)?);
        if text.is_none() && html.is_none() {
            let schema = batch.schema();
            let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            return Err(Error::InputData(format!(
                "{} has no `{}` or `{}` column   (known: {})\nhint: name them with  fields = {{ text = \"...\" }}",
                path.display(),
                fields.text,
                fields.html,
                names.join(", ")
            )));
        }
        Ok(Self {
            text,
            html,
            id: text_of(&fields.id)?,
            url: text_of(&fields.url)?,
            date: text_of(&fields.date)?,
            extra: fields.columns.iter().map(|n| text_of(n)).collect::<Result<_>>()?,
        })
    }

    fn push(&self, i: usize, place: &Place, fields: &Fields, rows: &mut Rows) {
        fn at(array: &Option<StringArray>, i: usize) -> Option<&str> {
            array.as_ref().filter(|a| !a.is_null(i)).map(|a| a.value(i))
        }
        let (text, html) = (at(&self.text, i), at(&self.html, i));
        if text.is_none() && html.is_none() {
            return rows.refuse(
                place,
                crate::verdict::Status::Failed,
                "no_text",
                None,
                format!("`{}` and `{}` are null", fields.text, fields.html),
            );
        }
        rows.keep(
            place,
            &Document {
                url: at(&self.url, i),
                source_id: at(&self.id, i),
                date: at(&self.date, i),
                content_type: html.map(|_| "text/html; charset=utf-8"),
                html: html.map(str::as_bytes),
                text: if html.is_some() { None } else { text },
                extra: self.extra.iter().map(|c| at(c, i).map(String::from)).collect(),
                ..Document::default()
            },
        );
    }
}
