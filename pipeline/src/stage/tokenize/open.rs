//! Finished shards for those who read them: opened against their receipt and their tokenizer, and rows of their documents.

use super::{RECEIPT, TOKENIZER};
use crate::dataset::{DOCUMENTS, Dataset};
use crate::error::{Error, Result};
use datafusion::arrow::array::{RecordBatch, RecordBatchReader};
use datafusion::arrow::compute::concat_batches;
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};
use datafusion::parquet::file::metadata::PageIndexPolicy;
use std::fs::File;
use std::path::{Path, PathBuf};
use tokenizer::shard::{Receipt, ShardError, ShardSet};

/// Opens the shards of one split of a `tokenize` stage. An error if receipt or tokenizer are not those that were committed, or if
/// a shard does not fit its receipt; the tokens themselves are verified when they are first read.
pub fn shards(dataset: &Dataset, split: &str) -> Result<ShardSet> {
    ShardSet::open(&dataset.path, &receipt(dataset)?, split).map_err(|e| shard_error(&dataset.path, e))
}

/// The receipt of a `tokenize` stage's shards.
pub fn receipt(dataset: &Dataset) -> Result<Receipt> {
    let path = dataset.path.join(RECEIPT);
    let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let (found, expected) = (blake3::hash(&bytes).to_hex().to_string(), committed(dataset, RECEIPT)?);
    if found != expected {
        let what = format!("has blake3 {found}, the stage's receipt says {expected}");
        return Err(shard_error(&dataset.path, ShardError::Format { path: path.display().to_string(), what }));
    }
    let receipt = Receipt::parse(&bytes, &path.display().to_string()).map_err(|e| shard_error(&dataset.path, e))?;
    check_tokenizer(dataset, &receipt, dataset)?;
    Ok(receipt)
}

/// An error unless the tokenizer of `model`, a stage that holds one, is the one that the shards were written with.
pub fn check_tokenizer(shards: &Dataset, receipt: &Receipt, model: &Dataset) -> Result<()> {
    let blake3 = committed(model, TOKENIZER)?;
    receipt.check_tokenizer(&blake3, receipt.tokenizer.vocab_size).map_err(|e| {
        Error::InputData(format!(
            "shards of stage `{}` and tokenizer of stage `{}`: {e}\nhint: tokenize the text with the tokenizer of `{}`",
            shards.name, model.name, model.name
        ))
    })
}

/// blake3 of a file, as its stage committed it.
fn committed(dataset: &Dataset, name: &str) -> Result<String> {
    let entry = dataset.receipt.files.iter().find(|f| f.path == name);
    entry.map(|f| f.blake3.clone()).ok_or_else(|| {
        Error::Integrity(format!(
            "the receipt of stage `{}` names no {name}\nhint: run the manifest again",
            dataset.name
        ))
    })
}

/// A shard's fault as the pipeline's: bytes that are not those that were committed, with a way out. `folder` is the stage's.
pub fn shard_error(folder: &Path, e: ShardError) -> Error {
    match e {
        ShardError::Write(source) => Error::io("write", folder)(source),
        ShardError::Id { .. } | ShardError::EndInside { .. } | ShardError::TooLong { .. } => {
            Error::Model(e.to_string())
        }
        _ => {
            let run = folder.ancestors().nth(2).unwrap_or(folder).display();
            Error::Integrity(format!(
                "{e}\nhint: `gristmill verify {run}` names all that is damaged, `gristmill rm {run} STAGE` removes it; then run the manifest again"
            ))
        }
    }
}

/// A trainer's error as the pipeline's; those of shards as [`shard_error`].
pub fn loader_error(folder: &Path, e: trainer::Error) -> Error {
    match e {
        trainer::Error::Shard(e) => shard_error(folder, e),
        e => Error::Model(e.to_string()),
    }
}

/// The document table of a `tokenize` stage, opened once for many look-ups by row number.
pub struct Documents {
    path: PathBuf,
    file: File,
    metadata: ArrowReaderMetadata,
}

impl Documents {
    /// Opens it and reads where its pages are.
    pub fn open(dataset: &Dataset) -> Result<Self> {
        let path = dataset.path.join(DOCUMENTS);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load(&file, options)?;
        Ok(Self { path, file, metadata })
    }

    /// Some columns of some rows, which must rise, in their order. Reads the pages that hold them and no others.
    pub fn rows(&self, rows: &[u64], columns: &[&str]) -> Result<RecordBatch> {
        let mut selectors = Vec::new();
        let mut at = 0;
        for &row in rows {
            assert!(row >= at, "rows rise because they were sorted");
            selectors.extend([RowSelector::skip((row - at) as usize), RowSelector::select(1)]);
            at = row + 1;
        }
        let file = self.file.try_clone().map_err(Error::io("open", &self.path))?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone());
        let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
        let reader = builder.with_projection(mask).with_row_selection(RowSelection::from(selectors)).build()?;
        let schema = reader.schema();
        let batches = reader.collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(concat_batches(&schema, &batches)?)
    }
}
