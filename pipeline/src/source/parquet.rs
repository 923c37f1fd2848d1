//! Parquet: rows with a `text` or `html` column; a document's place is its row index in the file.

use super::rows::{Document, Place, Rows};
use crate::error::{Error, Result};
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::path::Path;

/// Reads a whole file and hands full batches to `flush`.
pub fn read(
    path: &Path,
    extra: &[String],
    rows: &mut Rows,
    flush: &mut dyn FnMut(&mut Rows) -> Result<()>,
) -> Result<()> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let damaged = |e: &dyn std::fmt::Display| {
        Error::InputData(format!(
            "{} is no readable Parquet file: {e}\nhint: leave it out with `exclude`",
            path.display()
        ))
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|b| b.with_batch_size(1024).build())
        .map_err(|e| damaged(&e))?;
    let mut row = 0;
    for batch in reader {
        let batch = batch.map_err(|e| damaged(&e))?;
        let columns = Columns::of(&batch, extra, path)?;
        for i in 0..batch.num_rows() {
            columns.push(i, &Place { offset: row, offset_in_member: 0, length: 1 }, rows);
            row += 1;
        }
        if rows.is_full() {
            flush(rows)?;
        }
    }
    Ok(())
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
    fn of(batch: &RecordBatch, extra: &[String], path: &Path) -> Result<Self> {
        let text_of = |name: &str| -> Result<Option<StringArray>> {
            let Some(array) = batch.column_by_name(name) else { return Ok(None) };
            let array: ArrayRef = cast(array, &DataType::Utf8)?;
            Ok(Some(array.as_any().downcast_ref::<StringArray>().expect("it was cast to strings").clone()))
        };
        let (text, html) = (text_of("text")?, text_of("html")?);
        if text.is_none() && html.is_none() {
            let schema = batch.schema();
            let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            return Err(Error::InputData(format!(
                "{} has no `text` or `html` column   (known: {})",
                path.display(),
                names.join(", ")
            )));
        }
        Ok(Self {
            text,
            html,
            id: text_of("id")?,
            url: text_of("url")?,
            date: text_of("date")?,
            extra: extra.iter().map(|n| text_of(n)).collect::<Result<_>>()?,
        })
    }

    fn push(&self, i: usize, place: &Place, rows: &mut Rows) {
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
                "`text` and `html` are null".into(),
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
