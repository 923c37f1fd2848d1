//! `tokenize`: documents to token shards, with one row per document that says where its tokens are.

use super::tokenizer::TOKENIZER;
use super::{Context, Output};
use crate::dataset::{Dataset, string_column};
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use crate::progress::Event;
use crate::sink::write_table;
use crate::store::FragmentRecord;
use crate::store::durable::write_file;
use crate::udf::hash_text;
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, StringBuilder, UInt32Builder, UInt64Builder};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokenizer::Tokenizer;
use tokenizer::shard::ShardWriter;

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

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &TokenizeConfig) -> Result<Output> {
    let source = context.reference("tokenizer").expect("the manifest check asks for it");
    let tokenizer = load_tokenizer(&source.path)?;
    let parts: Vec<(usize, PathBuf)> =
        context.inputs.iter().enumerate().flat_map(|(i, d)| d.parts().into_iter().map(move |p| (i, p))).collect();
    let mut fragments = context.spread("", parts.len(), |index| {
        let (input, part) = &parts[index];
        fragment(context, config, &tokenizer, &context.inputs[*input], part, index)
    })?;
    let sum = |name: &str| fragments.iter().filter_map(|f| f.counts.get(name)).sum::<u64>();
    let (train, holdout, documents) = (sum("tokens:train"), sum("tokens:holdout"), sum("documents"));
    if documents > 0 && holdout == 0 && config.holdout_share > 0.0 {
        context.progress.event(Event::Warning(&format!(
            "`{}` held no document out of {documents}: nothing is left to evaluate on; raise holdout_share",
            context.name()
        )));
    }
    let json = std::fs::read(source.path.join(TOKENIZER)).map_err(Error::io("read", source.path.join(TOKENIZER)))?;
    let mut last = FragmentRecord { index: fragments.len(), ..FragmentRecord::default() };
    last.files.push(write_file(&context.out.path, TOKENIZER, &json)?);
    fragments.push(last);
    Ok(Output {
        fragments,
        note: format!("{train} training and {holdout} held-out tokens of {documents} documents"),
        ..Output::default()
    })
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
    names: Vec<&'static str>,
    conversation: bool,
    split: bool,
}

impl Reader {
    fn of(input: &Dataset) -> Result<Self> {
        let schema = input.schema()?;
        let has = |name: &str| schema.column_with_name(name).is_some();
        let conversation = has("prompt") && has("completion");
        let mut names = if conversation { vec!["id", "prompt", "completion"] } else { vec!["id", "text"] };
        if has("split") {
            names.push("split");
        }
        Ok(Self { names, conversation, split: has("split") })
    }
}

fn fragment(
    context: &Context<'_>,
    config: &TokenizeConfig,
    tokenizer: &Tokenizer,
    input: &Dataset,
    part: &Path,
    index: usize,
) -> Result<FragmentRecord> {
    let reader = Reader::of(input)?;
    let mut shards = [0, 1].map(|_| ShardWriter::new(tokenizer.vocab_size(), tokenizer.eot_id()));
    let mut documents = Documents::default();
    let mut record = FragmentRecord::default();
    let mut ids = Vec::new();
    for batch in input.read(part, &reader.names)? {
        let id = string_column(&batch, "id")?;
        let text = string_column(&batch, reader.names[1])?;
        let completion = if reader.conversation { Some(string_column(&batch, "completion")?) } else { None };
        let split = if reader.split { Some(string_column(&batch, "split")?) } else { None };
        for row in 0..batch.num_rows() {
            if text.is_null(row) || completion.is_some_and(|c| c.is_null(row)) {
                record.add("without_text", 1);
                continue;
            }
            let test = split.is_some_and(|s| !s.is_null(row) && s.value(row) == "test");
            let which = usize::from(test || held_out(id.value(row), config.holdout_share));
            ids.clear();
            let mut bytes = text.value(row).len();
            match completion {
                Some(completion) => {
                    ids.extend(super::model::render(tokenizer, text.value(row), completion.value(row))?.0);
                    bytes += completion.value(row).len();
                }
                None => tokenizer.encode_into(text.value(row), &mut ids),
            }
            let place = shards[which].push(&ids).map_err(|e| Error::Model(e.to_string()))?;
            let tokens = place.end - place.start;
            documents.push(
                &input.name,
                id.value(row),
                &hash_text(text.value(row)),
                index,
                which,
                place.start,
                tokens,
                bytes as u64,
            );
            record.add(&format!("tokens:{}", SPLITS[which]), tokens);
            record.add(&format!("bytes:{}", SPLITS[which]), bytes as u64);
            record.add("documents", 1);
        }
    }
    for (split, shard) in SPLITS.iter().zip(shards) {
        let bytes = shard.finish();
        record.files.push(write_file(&context.out.path, &format!("{split}-{index:05}.bin"), &bytes.bin)?);
        record.files.push(write_file(&context.out.path, &format!("{split}-{index:05}.idx"), &bytes.idx)?);
    }
    record.files.push(write_table(&context.out.path, &format!("part-{index:05}.parquet"), &documents.finish()?)?);
    Ok(record)
}

#[derive(Default)]
struct Documents {
    strings: [StringBuilder; 4], // id, stage, split, text_hash
    shard: UInt32Builder,
    numbers: [UInt64Builder; 3], // token_start, token_count, byte_count
}

impl Documents {
    #[allow(clippy::too_many_arguments, reason = "one argument per column")]
    fn push(
        &mut self,
        stage: &str,
        id: &str,
        hash: &str,
        shard: usize,
        which: usize,
        start: u64,
        tokens: u64,
        bytes: u64,
    ) {
        for (builder, value) in self.strings.iter_mut().zip([id, stage, SPLITS[which], hash]) {
            builder.append_value(value);
        }
        self.shard.append_value(shard as u32);
        for (builder, value) in self.numbers.iter_mut().zip([start, tokens, bytes]) {
            builder.append_value(value);
        }
    }

    fn finish(mut self) -> Result<RecordBatch> {
        let names = ["id", "stage", "split", "text_hash", "shard", "token_start", "token_count", "byte_count"];
        let mut columns: Vec<ArrayRef> = self.strings.iter_mut().map(|b| Arc::new(b.finish()) as ArrayRef).collect();
        columns.push(Arc::new(self.shard.finish()));
        columns.extend(self.numbers.iter_mut().map(|b| Arc::new(b.finish()) as ArrayRef));
        let types = columns.iter().map(|c| c.data_type().clone()).collect::<Vec<DataType>>();
        let fields: Vec<Field> = names.iter().zip(types).map(|(n, t)| Field::new(*n, t, false)).collect();
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }
}
