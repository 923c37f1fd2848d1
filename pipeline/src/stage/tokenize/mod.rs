//! `tokenize`: documents to token shards, with one row per document that says where it came from and where its tokens are.
//!
//! In: tables of texts or conversations. Out: for every input fragment a shard per split (`train-NNNNN.bin`, `.idx`, `.keys`,
//! see `tokenizer::shard`), `docs.parquet`, `shards.json` (tokenizer, width, checksums of every byte) and `tokenizer.json`.

mod documents;
pub mod open;

use super::tokenizer::TOKENIZER;
use super::{Context, Output, model};
use crate::dataset::{self, DOCUMENTS, Dataset, string_column};
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use crate::progress::Event;
use crate::sink::TableSink;
use crate::store::durable::{DurableFile, write_file};
use crate::store::{FragmentRecord, OutputDir};
use crate::udf::hash_text;
use datafusion::arrow::array::Array;
use datafusion::arrow::datatypes::Field;
use documents::Rows;
use open::shard_error;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tokenizer::Tokenizer;
use tokenizer::shard::receipt::Seal;
use tokenizer::shard::{Receipt, ShardEntry, ShardWriter, key_of};

/// Options of a `tokenize` stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizeConfig {
    /// Share of documents kept apart for evaluation, 0..1, chosen by a hash of the id. Rows with a `split` column equal
    /// to `"test"` are always held out.
    pub holdout_share: f64,
}

impl Default for TokenizeConfig {
    fn default() -> Self {
        Self { holdout_share: 0.02 }
    }
}

impl Options for TokenizeConfig {
    fn check(&self) -> Vec<OptionFault> {
        let ok = (0.0..1.0).contains(&self.holdout_share);
        if ok {
            Vec::new()
        } else {
            vec![OptionFault::new("holdout_share", format!("expected 0 up to 1, got {}", self.holdout_share))]
        }
    }
}

/// The two kinds of shards.
pub const SPLITS: [&str; 2] = ["train", "holdout"];
/// File name of the shards' receipt.
pub const RECEIPT: &str = "shards.json";
const PHASE: &str = "encode";

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &TokenizeConfig) -> Result<Output> {
    let source = context.reference("tokenizer").expect("the manifest check asks for it");
    let tokenizer = load_tokenizer(&source.path)?;
    let parts: Vec<(usize, PathBuf)> =
        context.inputs.iter().enumerate().flat_map(|(i, d)| d.parts().into_iter().map(move |p| (i, p))).collect();
    let carried = documents::carried(&context.inputs)?;
    let mut fragments = context.spread(PHASE, parts.len(), |index| {
        let (input, part) = &parts[index];
        fragment(context, config, &tokenizer, &context.inputs[*input], part, index, &carried)
    })?;
    let sum = |name: &str| fragments.iter().filter_map(|f| f.counts.get(name)).sum::<u64>();
    let (train, holdout, documents) = (sum("tokens:train"), sum("tokens:holdout"), sum("documents"));
    if documents > 0 && holdout == 0 && config.holdout_share > 0.0 {
        context.progress.event(Event::Warning(&format!(
            "`{}` held no document out of {documents}: nothing is left to evaluate on; raise holdout_share",
            context.name()
        )));
    }
    fragments.push(joined(context, &tokenizer, &source.path, parts.len(), &carried)?);
    let side = OutputDir::side_name(PHASE, "");
    fragments.iter_mut().for_each(|f| f.files.retain(|file| !file.path.starts_with(&side)));
    Ok(Output {
        fragments,
        note: format!("{train} training and {holdout} held-out tokens of {documents} documents"),
        ..Output::default()
    })
}

/// What all shards share: the tokenizer, the receipt, and the table of documents in the order of the receipt.
fn joined(
    context: &Context<'_>,
    tokenizer: &Tokenizer,
    source: &Path,
    parts: usize,
    carried: &[Field],
) -> Result<FragmentRecord> {
    let folder = &context.out.path;
    let path = source.join(TOKENIZER);
    let json = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let mut record = FragmentRecord { index: parts, ..FragmentRecord::default() };
    record.files.push(write_file(folder, TOKENIZER, &json)?);
    let mut shards: Vec<ShardEntry> = Vec::new();
    let mut table = TableSink::for_look_ups(folder, DOCUMENTS, documents::schema(carried))?;
    for index in 0..parts {
        let [entries, rows] = side_names(index).map(|name| folder.join(name));
        let text = std::fs::read(&entries).map_err(Error::io("read", &entries))?;
        shards.extend(serde_json::from_slice::<Vec<ShardEntry>>(&text).map_err(|e| {
            Error::Integrity(format!("{} is damaged: {e}\nhint: run the manifest again", entries.display()))
        })?);
        dataset::each_batch(&rows, |batch| table.write(&batch))?;
    }
    record.files.push(table.finish()?);
    let seal = Seal {
        blake3: record.files[0].blake3.clone(),
        pretokens: tokenizer.splitter().split().to_string(),
        vocab_size: tokenizer.vocab_size(),
        end_of_text: tokenizer.eot_id(),
    };
    record.files.push(write_file(folder, RECEIPT, &Receipt::new(seal, shards).to_bytes())?);
    Ok(record)
}

/// Loads the tokenizer of a stage's folder.
pub fn load_tokenizer(folder: &Path) -> Result<Tokenizer> {
    let path = folder.join(TOKENIZER);
    Tokenizer::load(&path).map_err(|e| Error::Integrity(format!("cannot load {}: {e}", path.display())))
}

/// Whether a document is held out: by its id alone, so it stays so in every run.
fn held_out(id: &str, share: f64) -> bool {
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(id.as_bytes(), 0x686f_6c64);
    (hash >> 11) as f64 / (1u64 << 53) as f64 <= share && share > 0.0
}

/// The columns a document is read from: `prompt` and `completion` make a conversation, else `text` is taken as it is.
struct Reader {
    names: Vec<String>,
    conversation: bool,
    split: bool,
}

impl Reader {
    fn of(input: &Dataset, carried: &[Field]) -> Result<Self> {
        let schema = input.schema()?;
        let has = |name: &str| schema.column_with_name(name).is_some();
        let conversation = has("prompt") && has("completion");
        let mut names = if conversation { vec!["id", "prompt", "completion"] } else { vec!["id", "text"] };
        if has("split") {
            names.push("split");
        }
        names.extend(carried.iter().map(|f| f.name().as_str()).filter(|name| has(name)));
        Ok(Self { names: names.into_iter().map(String::from).collect(), conversation, split: has("split") })
    }
}

/// Names of what a fragment leaves for the end: entries of its shards, rows of its documents.
fn side_names(index: usize) -> [String; 2] {
    ["json", "parquet"].map(|extension| OutputDir::side_name(PHASE, &format!("{index:05}.{extension}")))
}

fn fragment(
    context: &Context<'_>,
    config: &TokenizeConfig,
    tokenizer: &Tokenizer,
    input: &Dataset,
    part: &Path,
    index: usize,
    carried: &[Field],
) -> Result<FragmentRecord> {
    let folder = &context.out.path;
    let reader = Reader::of(input, carried)?;
    let names = SPLITS.map(|split| format!("{split}-{index:05}"));
    let shard = |name: &String| -> Result<ShardWriter<DurableFile>> {
        let file = DurableFile::create(folder, &format!("{name}.bin"))?;
        Ok(ShardWriter::new(file, tokenizer.vocab_size(), tokenizer.eot_id()))
    };
    let mut shards = [shard(&names[0])?, shard(&names[1])?];
    let [entries_name, rows_name] = side_names(index);
    let mut table = TableSink::create(folder, &rows_name, documents::schema(carried))?;
    let mut held_out_rows = Vec::new();
    let mut record = FragmentRecord::default();
    let mut encoder = tokenizer.encoder();
    let mut ids = Vec::new();
    let columns: Vec<&str> = reader.names.iter().map(String::as_str).collect();
    input.each(part, &columns, |batch| {
        let id = string_column(&batch, "id")?;
        let text = string_column(&batch, columns[1])?;
        let completion = if reader.conversation { Some(string_column(&batch, "completion")?) } else { None };
        let split = if reader.split { Some(string_column(&batch, "split")?) } else { None };
        let mut rows = SPLITS.map(|split| Rows::new(&input.name, split, index));
        for row in 0..batch.num_rows() {
            if text.is_null(row) || completion.is_some_and(|c| c.is_null(row)) {
                record.add("without_text", 1);
                continue;
            }
            let test = split.is_some_and(|s| !s.is_null(row) && s.value(row) == "test");
            let which = usize::from(test || held_out(id.value(row), config.holdout_share));
            ids.clear();
            let mut bytes = text.value(row).len() as u64;
            match completion {
                Some(completion) => {
                    ids.extend(model::render(tokenizer, text.value(row), completion.value(row))?.0);
                    bytes += completion.value(row).len() as u64;
                }
                None => encoder.encode_into(text.value(row), &mut ids),
            }
            let ordinal = shards[which].n_docs();
            let place = shards[which].push(key_of(id.value(row)), &ids).map_err(|e| shard_error(folder, e))?;
            rows[which].push(row, id.value(row), &hash_text(text.value(row)), ordinal, place, bytes);
        }
        for (split, rows) in SPLITS.iter().zip(&rows) {
            record.add(&format!("tokens:{split}"), rows.tokens);
            record.add(&format!("bytes:{split}"), rows.bytes);
            record.add("documents", rows.len() as u64);
        }
        let [train, held_out] = rows;
        table.write(&train.finish(&batch, carried)?)?;
        held_out_rows.push(held_out.finish(&batch, carried)?);
        Ok(())
    })?;
    held_out_rows.iter().try_for_each(|rows| table.write(rows))?;
    let mut entries = Vec::new();
    for ((split, name), shard) in SPLITS.iter().zip(names).zip(shards) {
        let written = shard.finish().map_err(|e| shard_error(folder, e))?;
        let tokens = written.out.finish()?;
        let (split, blake3) = (split.to_string(), tokens.blake3.clone());
        record.files.push(tokens);
        record.files.push(write_file(folder, &format!("{name}.idx"), &written.idx)?);
        record.files.push(write_file(folder, &format!("{name}.keys"), &written.keys)?);
        entries.push(ShardEntry { name, split, blake3, checks: written.checks });
    }
    record.files.push(table.finish()?);
    let entries = serde_json::to_vec(&entries).expect("entries are plain data because they derive Serialize");
    record.files.push(write_file(folder, &entries_name, &entries)?);
    Ok(record)
}
