//! Parquet: rows with a `text` or `html` column; a document's place is its row index in the file, a range is a run of row
//! groups. A file without a readable footer is one failed record, and so is a row group that cannot be decoded.

use super::Fields;
use super::rows::{Document, Place, Rows};
use crate::error::{Error, Result};
use crate::report::value;
use crate::verdict::Status;
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::compute::{can_cast_types, cast};
use datafusion::arrow::datatypes::DataType;
use datafusion::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
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

/// Cuts a file into runs of row groups of at least `bytes` stored bytes, the last one excepted; there is always one. In place of them
/// why the file is none that can be read.
pub fn ranges(path: &Path, bytes: u64) -> Result<std::result::Result<Vec<Groups>, String>> {
    let (_, metadata) = match open(path)? {
        Ok(opened) => opened,
        Err(why) => return Ok(Err(why)),
    };
    let (mut ranges, mut held, mut rows) = (Vec::new(), 0, 0);
    let mut next = Groups { groups: 0..0, first_row: 0 };
    for (i, group) in metadata.metadata().row_groups().iter().enumerate() {
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
    Ok(Ok(ranges))
}

/// Reads a run of row groups and hands full batches to `flush`.
pub fn read(
    path: &Path,
    range: &Groups,
    fields: &Fields,
    rows: &mut Rows,
    flush: &mut dyn FnMut(&mut Rows) -> Result<()>,
) -> Result<()> {
    let (file, metadata) = match open(path)? {
        Ok(opened) => opened,
        Err(why) => {
            unreadable(&why, rows);
            return Ok(());
        }
    };
    let mut first = range.first_row;
    for index in range.groups.clone() {
        let count = metadata.metadata().row_group(index).num_rows().max(0) as u64;
        let file = file.try_clone().map_err(Error::io("open", path))?;
        let mut row = first;
        let broken = group(file, &metadata, index, |batch| {
            let columns = Columns::of(&batch, fields, path)?;
            let schema = batch.schema();
            let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
            rows.found_columns(fields.columns.iter().map(|name| names.contains(name)), || names.iter());
            for i in 0..batch.num_rows() {
                columns.push(i, &Place { offset: row, offset_in_member: 0, length: 1 }, fields, rows);
                row += 1;
            }
            if rows.is_full() { flush(rows) } else { Ok(()) }
        })?;
        if let Some(why) = broken {
            let lost = (first + count).saturating_sub(row);
            let place = Place { offset: row, offset_in_member: 0, length: lost };
            let reason = format!("row group {index} breaks at row {row}, {lost} rows are lost: {why}");
            rows.refuse(&place, Status::Failed, "bad_parquet", Some(lost as f64), reason);
        }
        first += count;
    }
    Ok(())
}

/// Reports a file that cannot be opened as Parquet.
pub fn unreadable(why: &str, rows: &mut Rows) {
    rows.refuse(&Place::default(), Status::Failed, "bad_parquet", None, format!("no readable Parquet file: {why}"));
}

/// Hands the batches of one row group to `each`; why it broke if it did.
fn group(
    file: File,
    metadata: &ArrowReaderMetadata,
    index: usize,
    mut each: impl FnMut(RecordBatch) -> Result<()>,
) -> Result<Option<String>> {
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone());
    let mut reader = match builder.with_row_groups(vec![index]).with_batch_size(1024).build() {
        Ok(reader) => reader,
        Err(e) => return Ok(Some(e.to_string())),
    };
    loop {
        match reader.next() {
            None => return Ok(None),
            Some(Ok(batch)) => each(batch)?,
            Some(Err(e)) => return Ok(Some(e.to_string())),
        }
    }
}

fn open(path: &Path) -> Result<std::result::Result<(File, ArrowReaderMetadata), String>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let metadata = ArrowReaderMetadata::load(&file, Default::default());
    Ok(metadata.map(|metadata| (file, metadata)).map_err(|e| e.to_string()))
}

/// A column of strings, and which type it has in the file if that is none of text.
struct Text {
    raw: ArrayRef,
    strings: StringArray,
    other: Option<DataType>,
}

struct Columns {
    text: Option<Text>,
    html: Option<Text>,
    id: Option<StringArray>,
    url: Option<StringArray>,
    date: Option<StringArray>,
    extra: Vec<Option<StringArray>>,
}

impl Columns {
    fn of(batch: &RecordBatch, fields: &Fields, path: &Path) -> Result<Self> {
        let strings = |name: &str| batch.column_by_name(name).map(strings).transpose();
        let text_of = |name: &str| -> Result<Option<Text>> {
            let Some(array) = batch.column_by_name(name) else { return Ok(None) };
            let other = (!is_text(array.data_type())).then(|| array.data_type().clone());
            Ok(strings(name)?.map(|strings| Text { raw: array.clone(), strings, other }))
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
            id: strings(&fields.id)?,
            url: strings(&fields.url)?,
            date: strings(&fields.date)?,
            extra: fields.columns.iter().map(|n| strings(n)).collect::<Result<_>>()?,
        })
    }

    fn push(&self, i: usize, place: &Place, fields: &Fields, rows: &mut Rows) {
        fn at(array: &Option<StringArray>, i: usize) -> Option<&str> {
            array.as_ref().filter(|a| !a.is_null(i)).map(|a| a.value(i))
        }
        fn string(text: &Option<Text>, i: usize) -> Option<&str> {
            text.as_ref().filter(|t| t.other.is_none() && !t.strings.is_null(i)).map(|t| t.strings.value(i))
        }
        let (text, html) = (string(&self.text, i), string(&self.html, i));
        if text.is_none() && html.is_none() {
            let both = [(&fields.text, &self.text), (&fields.html, &self.html)];
            let held = both.into_iter().find_map(|(n, t)| Some((n, t.as_ref().filter(|t| !t.raw.is_null(i))?)));
            let (rule, reason) = match held {
                Some((name, Text { other: Some(kind), .. })) => {
                    ("bad_text", format!("`{name}` is of type {kind}, expected a string"))
                }
                Some((name, _)) => ("bad_utf8", format!("`{name}` is not UTF-8")),
                None => ("no_text", format!("`{}` and `{}` are null", fields.text, fields.html)),
            };
            return rows.refuse(place, Status::Failed, rule, None, reason);
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

/// Strings, and bytes that may hold some.
fn is_text(data_type: &DataType) -> bool {
    use DataType::{Binary, BinaryView, Dictionary, FixedSizeBinary, LargeBinary, LargeUtf8, Null, Utf8, Utf8View};
    match data_type {
        Dictionary(_, values) => is_text(values),
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView | FixedSizeBinary(_) | Null => true,
        _ => false,
    }
}

/// A column as strings; what the engine has no text form for, as JSON.
fn strings(array: &ArrayRef) -> Result<StringArray> {
    if !can_cast_types(array.data_type(), &DataType::Utf8) {
        return Ok((0..array.len()).map(|i| (!array.is_null(i)).then(|| value(array, i).to_string())).collect());
    }
    let array: ArrayRef = cast(array, &DataType::Utf8)?;
    Ok(array.as_any().downcast_ref::<StringArray>().expect("it was cast to strings").clone())
}
