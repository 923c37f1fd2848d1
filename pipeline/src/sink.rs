//! Tables to disk: one Parquet file per fragment whose bytes depend on its rows alone.
//!
//! Batches are cut anew to a fixed row count before the encoder sees them and row groups end by rows or summed value
//! lengths, so neither the engine's batch sizes nor an encoder's estimates reach the file.

use crate::error::{Error, Result};
use crate::store::durable::{DurableFile, FileEntry};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use std::path::Path;

/// Rows handed to the encoder at a time.
const BATCH_ROWS: usize = 1024;
/// A row group ends at this many rows …
const GROUP_ROWS: usize = 64 * 1024;
/// … or once its values sum to this many bytes.
const GROUP_BYTES: usize = 64 << 20;

/// Rows of a page in tables that are read a few rows at a time.
const LOOK_UP_ROWS: usize = 256;

/// Writes one table file durably.
pub struct TableSink {
    writer: ArrowWriter<DurableFile>,
    schema: SchemaRef,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    group_bytes: usize,
    group_rows: usize,
    rows: u64,
}

impl TableSink {
    /// Starts the file `name` in `folder`.
    pub fn create(folder: &Path, name: &str, schema: SchemaRef) -> Result<Self> {
        Self::with_properties(folder, name, schema, WriterProperties::builder().set_write_batch_size(BATCH_ROWS))
    }

    /// Starts a file that is read a few rows at a time: small pages, each readable without a dictionary.
    pub fn for_look_ups(folder: &Path, name: &str, schema: SchemaRef) -> Result<Self> {
        let pages = WriterProperties::builder().set_write_batch_size(LOOK_UP_ROWS);
        Self::with_properties(
            folder,
            name,
            schema,
            pages.set_data_page_row_count_limit(LOOK_UP_ROWS).set_dictionary_enabled(false),
        )
    }

    fn with_properties(
        folder: &Path,
        name: &str,
        schema: SchemaRef,
        properties: WriterPropertiesBuilder,
    ) -> Result<Self> {
        let properties = properties
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_created_by("gristmill".to_string())
            .build();
        let file = DurableFile::create(folder, name)?;
        Ok(Self {
            writer: ArrowWriter::try_new(file, schema.clone(), Some(properties))?,
            schema,
            pending: Vec::new(),
            pending_rows: 0,
            group_bytes: 0,
            group_rows: 0,
            rows: 0,
        })
    }

    /// Appends rows; column order and types must be those of the schema.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        // Field metadata and nullability may differ between a plan's output and the declared schema.
        let batch = RecordBatch::try_new(self.schema.clone(), batch.columns().to_vec())?;
        self.rows += batch.num_rows() as u64;
        self.pending_rows += batch.num_rows();
        self.pending.push(batch);
        while self.pending_rows >= BATCH_ROWS {
            self.encode(BATCH_ROWS)?;
        }
        Ok(())
    }

    fn encode(&mut self, rows: usize) -> Result<()> {
        let mut parts = Vec::new();
        let mut missing = rows;
        while missing > 0 {
            let first = self.pending.remove(0);
            if first.num_rows() > missing {
                parts.push(first.slice(0, missing));
                self.pending.insert(0, first.slice(missing, first.num_rows() - missing));
                missing = 0;
            } else {
                missing -= first.num_rows();
                parts.push(first);
            }
        }
        self.pending_rows -= rows;
        let batch = concat_batches(&self.schema, &parts)?;
        self.group_bytes += batch.columns().iter().map(value_bytes).sum::<usize>();
        self.group_rows += rows;
        self.writer.write(&batch).map_err(disk)?;
        if self.group_bytes >= GROUP_BYTES || self.group_rows >= GROUP_ROWS {
            self.writer.flush().map_err(disk)?;
            (self.group_bytes, self.group_rows) = (0, 0);
        }
        Ok(())
    }

    /// Ends the file and makes it durable.
    pub fn finish(mut self) -> Result<FileEntry> {
        while self.pending_rows > 0 {
            self.encode(self.pending_rows.min(BATCH_ROWS))?;
        }
        let rows = self.rows;
        let file = self.writer.into_inner().map_err(disk)?;
        let mut entry = file.finish()?;
        entry.rows = Some(rows);
        Ok(entry)
    }
}

/// Writes a whole table in one call.
pub fn write_table(folder: &Path, name: &str, batch: &RecordBatch) -> Result<FileEntry> {
    let mut sink = TableSink::create(folder, name, batch.schema())?;
    sink.write(batch)?;
    sink.finish()
}

fn disk(e: datafusion::parquet::errors::ParquetError) -> Error {
    use datafusion::parquet::errors::ParquetError;
    let ParquetError::External(inner) = e else { return e.into() };
    match inner.downcast::<std::io::Error>() {
        Ok(io) => Error::io("write", Path::new("a Parquet file"))(*io),
        Err(other) => Error::Integrity(format!("cannot write Parquet: {other}")),
    }
}

/// Bytes of the values of an array, independent of buffers' capacities and slices.
fn value_bytes(array: &ArrayRef) -> usize {
    match array.data_type() {
        DataType::Utf8 => {
            let offsets = array.as_string::<i32>().value_offsets();
            (offsets[offsets.len() - 1] - offsets[0]) as usize
        }
        DataType::Binary => {
            let offsets = array.as_binary::<i32>().value_offsets();
            (offsets[offsets.len() - 1] - offsets[0]) as usize
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (from, to) = (list.value_offsets()[0] as usize, list.value_offsets()[list.len()] as usize);
            value_bytes(&list.values().slice(from, to - from))
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(value_bytes).sum(),
        other => other.primitive_width().unwrap_or(1) * array.len(),
    }
}
