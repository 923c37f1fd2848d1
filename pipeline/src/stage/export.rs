//! `export`: a model as a folder that `AutoModelForCausalLM` and `AutoTokenizer` load, token shards as files of other programs.
//!
//! Shards, by `formats`: `datasets`: `data/train-NNNNN-of-NNNNN.parquet` and `data/test-...` with columns `id` and `input_ids`
//! (list of i32, the end-of-text token included), one row per document, which `load_dataset` opens as it is. `llmc`:
//! `llmc/train_NNNNNN.bin` and `llmc/val_NNNNNN.bin`, the stream of tokens behind llm.c's header. The held-out split is `test` or `val`.

use super::model::{self, Weights, model_error};
use super::tokenize::{SPLITS, open};
use super::{Context, Output};
use crate::dataset::{Dataset, string_column};
use crate::error::{Error, Result};
use crate::manifest::Stage;
use crate::manifest::kinds::{OptionFault, Options, is_default};
use crate::sink::TableSink;
use crate::store::FragmentRecord;
use crate::store::durable::{DurableFile, FileEntry, write_file};
use datafusion::arrow::array::{ArrayRef, Int32Builder, ListBuilder, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use tokenizer::shard::{BLOCK, ShardSet, llmc};
use trainer::export::{SpecialIds, hf_files};

/// A form of token shards for other programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ShardFormat {
    /// Parquet for `datasets`: one row per document.
    Datasets,
    /// Token files with the header of llm.c.
    Llmc,
}

/// Options of an `export` stage. It names a `model`, `shards` or both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExportConfig {
    /// Forms of the `shards`: `"datasets"` and `"llmc"`.
    pub formats: Vec<ShardFormat>,
    /// Which weights of the `model`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "last"))]
    pub weights: Weights,
}

impl Default for ExportConfig {
    fn default() -> Self {
        Self { formats: vec![ShardFormat::Datasets, ShardFormat::Llmc], weights: Weights::default() }
    }
}

impl Options for ExportConfig {
    fn check(&self) -> Vec<OptionFault> {
        let repeated = self.formats.iter().enumerate().any(|(i, f)| self.formats[..i].contains(f));
        let fault = || OptionFault::new("formats", "expected \"datasets\", \"llmc\" or both, each once");
        (repeated || self.formats.is_empty()).then(fault).into_iter().collect()
    }
}

/// A stage that names nothing to export.
pub fn check_references(stage: &Stage) -> Option<OptionFault> {
    stage.references.is_empty().then(|| OptionFault {
        key: "kind".into(),
        message: format!("stage `{}` (kind export) names nothing to export", stage.name),
        hint: Some("add  model = \"...\"  or  shards = \"...\"".into()),
    })
}

/// Tokens of an llm.c file, as in its own data scripts.
const FILE_TOKENS: u64 = 100_000_000;
/// Documents of a batch of rows.
const BATCH_ROWS: usize = 256;

/// One unit of work: the files of the model, or one file of tokens.
enum Unit {
    Model,
    Rows { split: usize, shard: usize, name: String },
    Tokens { split: usize, range: Range<u64>, name: String },
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &ExportConfig) -> Result<Output> {
    let mut units: Vec<Unit> = context.reference("model").map(|_| Unit::Model).into_iter().collect();
    let sets = match context.reference("shards") {
        Some(shards) => SPLITS.iter().map(|split| open::shards(shards, split)).collect::<Result<Vec<_>>>()?,
        None => Vec::new(),
    };
    for (split, set) in sets.iter().enumerate() {
        config.formats.iter().for_each(|format| units.extend(files(*format, split, set)));
    }
    let fragments = context.fragments("", units.len(), |index| {
        let mut record = FragmentRecord::default();
        match (&units[index], context.reference("shards")) {
            (Unit::Rows { split, shard, name }, Some(shards)) => {
                record.files.push(rows(context, shards, &sets[*split], *shard, name)?);
            }
            (Unit::Tokens { split, range, name }, Some(shards)) => {
                record.files.push(tokens(context, shards, &sets[*split], range.clone(), name)?);
            }
            _ => hugging_face(context, config.weights, &mut record)?,
        }
        Ok(record)
    })?;
    let files: Vec<&FileEntry> = fragments.iter().flat_map(|f| &f.files).collect();
    let bytes: u64 = files.iter().map(|f| f.bytes).sum();
    let note = format!("{} files, {}", files.len(), crate::progress::size(bytes));
    Ok(Output { fragments, note, ..Output::default() })
}

fn hugging_face(context: &Context<'_>, weights: Weights, record: &mut FragmentRecord) -> Result<()> {
    let source = context.reference("model").expect("a unit was made for it");
    let (model, tokenizer) = model::load_weights(source, weights)?;
    let end = tokenizer.special_id("<|end|>");
    let eos = [Some(tokenizer.eot_id()), end].into_iter().flatten().collect();
    let special = SpecialIds { bos: None, eos, pad: Some(tokenizer.eot_id()) };
    let mut files = hf_files(&model, &special).map_err(model_error)?;
    files.push((super::tokenizer::TOKENIZER.to_string(), tokenizer.to_json()));
    files.extend(tokenizer.hf_config_files());
    for (name, bytes) in &files {
        record.files.push(write_file(&context.out.path, name, bytes)?);
    }
    record.add("parameters", model.n_params() as u64);
    Ok(())
}

/// The files that one split becomes.
fn files(format: ShardFormat, split: usize, set: &ShardSet) -> Vec<Unit> {
    match format {
        ShardFormat::Datasets => {
            let word = ["train", "test"][split];
            let full: Vec<usize> = (0..set.shards().len()).filter(|&i| set.shards()[i].n_docs() > 0).collect();
            let name = |i: usize| format!("data/{word}-{i:05}-of-{:05}.parquet", full.len());
            full.iter().enumerate().map(|(i, &shard)| Unit::Rows { split, shard, name: name(i) }).collect()
        }
        ShardFormat::Llmc => {
            let word = ["train", "val"][split];
            let starts = (0..set.n_tokens()).step_by(FILE_TOKENS as usize).enumerate();
            let range = |start: u64| start..set.n_tokens().min(start + FILE_TOKENS);
            let name = |i: usize| format!("llmc/{word}_{i:06}.bin");
            starts.map(|(i, start)| Unit::Tokens { split, range: range(start), name: name(i) }).collect()
        }
    }
}

fn tokens(context: &Context<'_>, shards: &Dataset, set: &ShardSet, range: Range<u64>, name: &str) -> Result<FileEntry> {
    let failed = |e| open::shard_error(&shards.path, e);
    let mut file = DurableFile::create(&context.out.path, name)?;
    let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io("write", context.out.path.join(name)));
    let width = open::receipt(shards)?.width;
    write(&llmc::header(width, (range.end - range.start) as u32))?;
    for (shard, part) in set.parts(range) {
        for start in part.clone().step_by(BLOCK) {
            let stop = part.end.min(start + BLOCK as u64);
            write(set.shards()[shard].bytes(start..stop).map_err(failed)?)?;
        }
    }
    file.finish()
}

fn rows(context: &Context<'_>, shards: &Dataset, set: &ShardSet, shard: usize, name: &str) -> Result<FileEntry> {
    let of = &set.shards()[shard];
    let documents = open::Documents::open(shards)?;
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int32, true)));
    let schema =
        Arc::new(Schema::new(vec![Field::new("id", DataType::Utf8, false), Field::new("input_ids", list, false)]));
    let mut sink = TableSink::create(&context.out.path, name, schema.clone())?;
    for first in (0..of.n_docs()).step_by(BATCH_ROWS) {
        context.check_stop()?;
        let batch = first..of.n_docs().min(first + BATCH_ROWS);
        let wanted: Vec<u64> = batch.clone().map(|document| set.row(shard, document)).collect();
        let ids = documents.rows(&wanted, &["id"])?;
        let mut input_ids = ListBuilder::new(Int32Builder::new());
        for document in batch {
            let tokens = of.tokens(of.doc_range(document)).map_err(|e| open::shard_error(&shards.path, e))?;
            input_ids.append_value(tokens.into_iter().map(|id| Some(id as i32)));
        }
        let columns: [ArrayRef; 2] = [Arc::new(string_column(&ids, "id")?.clone()), Arc::new(input_ids.finish())];
        sink.write(&RecordBatch::try_new(schema.clone(), columns.to_vec())?)?;
    }
    sink.finish()
}
