//! `tokenizer`: a tokenizer and how well it fits.
//!
//! Counts of pieces per input fragment, one sorted file of all counts, the merge phase, and, where asked for, a second phase across
//! words and the loss of unused tokens; or a finished tokenizer from a file. Then the inputs are encoded once for the table
//! `<stage>_report`: bytes per token and fertility by language, domain or any column.

use super::{Context, Output};
use crate::dataset::string_column;
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use crate::progress::{Event, size};
use crate::sink::write_table;
use crate::source::files::Asset;
use crate::store::durable::{create_dir_all, write_file};
use crate::store::{FragmentRecord, OutputDir, remove_folder};
use datafusion::arrow::array::{Array, ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokenizer::train::prune::prune;
use tokenizer::train::report::{GroupRow, Report};
use tokenizer::train::superword::{SuperwordConfig, superwords};
use tokenizer::{
    Scratch, SortedWords, Splitter, Tokenizer, TokenizerConfig, TokenizerError, WordCounter, WordCounts, count,
    merge_sorted, train, train_sorted,
};

/// File name of the tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// The two phases of counting.
const COUNTS: &str = "counts";
const CHUNKS: &str = "chunks";

/// Options of a `tokenizer` stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TokenizerStage {
    /// What is trained.
    #[serde(flatten)]
    pub tokenizer: TokenizerConfig,
    /// A finished tokenizer in place of training, relative to the manifest: a Hugging Face `tokenizer.json` of the byte-level BPE kind,
    /// a rank file of tiktoken (`*.tiktoken`), or GPT-2's merges (`vocab.bpe` or `merges.txt` with `encoder.json` or `vocab.json` in the
    /// same folder). The last two are cut by `split` and get the `special_tokens` they lack at their end. Inputs are then only measured.
    pub file: Option<PathBuf>,
    /// How many times the text of an input counts, by input; 1 where none is given.
    pub weights: BTreeMap<String, u64>,
    /// Learn on across word boundaries up to this number of ids (superwords, arXiv 2503.13423); more than `vocab_size`.
    pub superword_vocab_size: Option<usize>,
    /// Most words in a token of that second phase.
    pub superword_max_words: usize,
    /// Drop tokens that the inputs use less often than this and that are part of no kept one.
    pub prune_below: Option<u64>,
    /// Columns of the inputs to report by, beside all texts together; `domain` is that of `url`. A column an input lacks is passed over.
    pub report_by: Vec<String>,
}

impl Default for TokenizerStage {
    fn default() -> Self {
        Self {
            tokenizer: TokenizerConfig::default(),
            file: None,
            weights: BTreeMap::new(),
            superword_vocab_size: None,
            superword_max_words: SuperwordConfig::default().max_words,
            prune_below: None,
            report_by: vec!["language".into(), "domain".into()],
        }
    }
}

impl Options for TokenizerStage {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = Vec::new();
        if let Err(e) = self.tokenizer.validate() {
            faults.push(OptionFault::about(&["split", "special_tokens"], "vocab_size", e.to_string()));
        }
        if let Some((name, _)) = self.weights.iter().find(|(_, w)| **w == 0) {
            faults.push(OptionFault::new("weights", format!("`{name}` has weight 0; leave the input out instead")));
        }
        match self.superword_vocab_size {
            Some(n) if n <= self.tokenizer.vocab_size => faults.push(OptionFault::new(
                "superword_vocab_size",
                format!("expected more than vocab_size = {}, got {n}", self.tokenizer.vocab_size),
            )),
            Some(n) if n > tokenizer::MAX_VOCAB => faults.push(OptionFault::new(
                "superword_vocab_size",
                format!("expected at most {}, got {n}", tokenizer::MAX_VOCAB),
            )),
            None if self.superword_max_words != Self::default().superword_max_words => {
                faults.push(OptionFault::new("superword_max_words", "means nothing without `superword_vocab_size`"));
            }
            _ => {}
        }
        if self.superword_max_words < 2 {
            faults.push(OptionFault::new(
                "superword_max_words",
                format!("expected at least 2, got {}", self.superword_max_words),
            ));
        }
        if self.prune_below == Some(0) {
            faults.push(OptionFault::new("prune_below", "expected at least 1"));
        }
        if let Some(file) = &self.file {
            let default = TokenizerConfig::default();
            // A Hugging Face file says these itself.
            let whole = !is_merges(file) && file.extension().is_none_or(|e| e != "tiktoken");
            let said = [
                ("split", whole && self.tokenizer.split != default.split),
                ("single_digits", whole && self.tokenizer.single_digits != default.single_digits),
                ("special_tokens", whole && self.tokenizer.special_tokens != default.special_tokens),
                ("ties", self.tokenizer.ties != default.ties),
            ];
            for (key, _) in said.into_iter().filter(|(_, given)| *given) {
                faults.push(OptionFault::new(key, "means nothing here: the tokenizer in `file` has it already"));
            }
            let trained = [
                ("weights", !self.weights.is_empty()),
                ("superword_vocab_size", self.superword_vocab_size.is_some()),
                ("prune_below", self.prune_below.is_some()),
                ("vocab_size", self.tokenizer.vocab_size != TokenizerConfig::default().vocab_size),
            ];
            for (key, _) in trained.into_iter().filter(|(_, given)| *given) {
                faults.push(OptionFault::new(key, "is for training; with `file` the tokenizer is finished"));
            }
        }
        faults
    }
}

/// The file of a finished tokenizer.
pub fn files(config: &TokenizerStage, folder: &Path) -> Vec<(String, Asset)> {
    let Some(file) = &config.file else { return Vec::new() };
    let vocabulary = is_merges(file).then(|| vocabulary_beside(&folder.join(file)));
    let all = std::iter::once(folder.join(file)).chain(vocabulary);
    all.map(|f| (format!("file {}", f.strip_prefix(folder).unwrap_or(&f).display()), Asset::Local(f))).collect()
}

/// Is this GPT-2's list of merges, which needs its vocabulary beside it?
fn is_merges(file: &Path) -> bool {
    file.extension().is_some_and(|e| e == "bpe" || e == "txt")
}

/// The vocabulary that belongs to a list of merges, under the older of its two names unless the newer is there.
fn vocabulary_beside(merges: &Path) -> PathBuf {
    let newer = merges.with_file_name("vocab.json");
    if newer.exists() { newer } else { merges.with_file_name("encoder.json") }
}

/// Faults of options against the names of the inputs.
pub fn check_inputs(inputs: &[String], config: &TokenizerStage) -> std::result::Result<(), (&'static str, Error)> {
    if inputs.is_empty() && config.file.is_none() {
        return Err((
            "inputs",
            Error::Manifest("a tokenizer is trained on at least one input, or read from `file`".into()),
        ));
    }
    match config.weights.keys().find(|n| !inputs.contains(n)) {
        None => Ok(()),
        Some(name) => Err((
            "weights",
            Error::Manifest(format!("`weights` names `{name}`, which is no input   (known: {})", inputs.join(", "))),
        )),
    }
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &TokenizerStage) -> Result<Output> {
    let mut total = FragmentRecord::default();
    let mut made = match &config.file {
        Some(file) => read(&context.folder.join(file), config)?,
        None => learn(context, config, &mut total)?,
    };
    context.check_stop()?;
    let mut report = measure(context, config, &made)?;
    if let Some(least) = config.prune_below {
        made = prune(&made, report.usage(), least).map_err(model_error)?.tokenizer;
        report = measure(context, config, &made)?;
    }
    total.files = vec![write_file(&context.out.path, TOKENIZER, &made.to_json())?];
    for (name, bytes) in made.hf_config_files() {
        total.files.push(write_file(&context.out.path, &name, &bytes)?);
    }
    total.files.push(write_table(&context.out.path, "report-00000.parquet", &table(&report)?)?);
    total.add("vocab_size", made.vocab_size() as u64);
    let vocabulary = report.vocabulary(&made);
    total.add("unused", vocabulary.unused);
    total.add("superwords", vocabulary.superwords);
    total.add("single_digits", u64::from(vocabulary.single_digits()));
    let verb = if config.file.is_some() { "read" } else { "learned" };
    let all = report.rows().find(|r| r.group == group("all", ""));
    let fit = all.and_then(GroupRow::bytes_per_token).map(|b| format!(", {b:.2} bytes per token"));
    let from = total.counts.get("text_bytes").map(|b| format!(" from {}", size(*b)));
    let note = format!("{} tokens {verb}{}{}", made.vocab_size(), from.unwrap_or_default(), fit.unwrap_or_default());
    Ok(Output { fragments: vec![total], note, ..Output::default() })
}

fn model_error(e: TokenizerError) -> Error {
    Error::Model(e.to_string())
}

/// A tokenizer from a file of others.
fn read(path: &Path, config: &TokenizerStage) -> Result<Tokenizer> {
    let failed = |e: TokenizerError| {
        Error::InputData(format!(
            "cannot read the tokenizer {}: {e}\nhint: byte-level BPE is read from a Hugging Face tokenizer.json, a rank file named *.tiktoken, or a vocab.bpe or merges.txt with its encoder.json or vocab.json",
            path.display()
        ))
    };
    if is_merges(path) {
        let vocabulary = vocabulary_beside(path);
        let merges = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let vocabulary = std::fs::read(&vocabulary).map_err(Error::io("read", &vocabulary))?;
        let specials: Vec<&str> = config.tokenizer.special_tokens.iter().map(String::as_str).collect();
        let splitter = config.tokenizer.splitter().map_err(model_error)?;
        return Tokenizer::from_vocab_and_merges(&vocabulary, &merges, splitter, &specials).map_err(failed);
    }
    if path.extension().is_none_or(|e| e != "tiktoken") {
        return Tokenizer::load(path).map_err(failed);
    }
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let ranks = bytes.split(|b| *b == b'\n').filter(|l| !l.trim_ascii().is_empty()).count() as u32;
    let specials: Vec<(&str, u32)> =
        config.tokenizer.special_tokens.iter().zip(ranks..).map(|(s, id)| (s.as_str(), id)).collect();
    Tokenizer::from_ranks(&bytes, config.tokenizer.splitter().map_err(model_error)?, &specials).map_err(failed)
}

/// Trains on the inputs.
fn learn(context: &Context<'_>, config: &TokenizerStage, total: &mut FragmentRecord) -> Result<Tokenizer> {
    let splitter = config.tokenizer.splitter().map_err(model_error)?;
    let words = counted(context, config, COUNTS, &splitter, Some(total))?;
    if words.rows == 0 {
        let run = context.out.path.ancestors().nth(2).unwrap_or(&context.out.path).display();
        return Err(Error::InputData(format!(
            "stage `{}` has no text to learn from\nhint: `gristmill status {run}` shows at which stage the rows were lost, and \
             `gristmill sql {run} \"SELECT rule, count(*) FROM <stage>_verdicts GROUP BY rule\"` why",
            context.name()
        )));
    }
    context.check_stop()?;
    let made = match context.settings.memory_limit_bytes {
        None => train(&in_memory(&words)?, &config.tokenizer),
        Some(limit) => {
            let folder = side(context, "merging")?;
            train_sorted(&words, &config.tokenizer, &Scratch { folder, memory_limit_bytes: limit as usize })
        }
    };
    let made = made.map_err(model_error)?;
    let Some(vocab_size) = config.superword_vocab_size else { return Ok(made) };
    let second = SuperwordConfig {
        vocab_size,
        ties: config.tokenizer.ties,
        max_words: config.superword_max_words,
        ..SuperwordConfig::default()
    };
    let chunks = counted(context, config, CHUNKS, &second.splitter().map_err(model_error)?, None)?;
    context.check_stop()?;
    superwords(&made, &in_memory(&chunks)?, &second).map_err(model_error)
}

fn in_memory(words: &SortedWords) -> Result<WordCounts> {
    let bytes = std::fs::read(&words.path).map_err(Error::io("read", &words.path))?;
    WordCounts::from_bytes(&bytes).map_err(|e| Error::Integrity(e.to_string()))
}

/// A folder of side files.
fn side(context: &Context<'_>, name: &str) -> Result<PathBuf> {
    let folder = context.out.path.join(OutputDir::side_name(name, ""));
    create_dir_all(&folder)?;
    Ok(folder)
}

/// The fragments of the inputs: input and file.
fn parts(context: &Context<'_>) -> Vec<(usize, PathBuf)> {
    context.inputs.iter().enumerate().flat_map(|(i, d)| d.parts().into_iter().map(move |p| (i, p))).collect()
}

/// The pieces of all inputs with their counts, weighted, in one sorted file; `total` hears of documents and bytes.
fn counted(
    context: &Context<'_>,
    config: &TokenizerStage,
    phase: &str,
    splitter: &Splitter,
    total: Option<&mut FragmentRecord>,
) -> Result<SortedWords> {
    let parts = parts(context);
    let records = context.spread(phase, parts.len(), |index| {
        let (input, part) = &parts[index];
        count_part(context, phase, splitter, *input, part, index)
    })?;
    let weight = |index: usize| {
        let name = &context.inputs[parts[index].0].name;
        config.weights.get(name).copied().unwrap_or(1)
    };
    let files: Vec<(PathBuf, u64)> =
        records.iter().map(|r| (context.out.path.join(&r.files[0].path), weight(r.index))).collect();
    if let Some(total) = total {
        records.iter().flat_map(|r| &r.counts).for_each(|(name, n)| total.add(name, *n));
    }
    merge_sorted(&files, &side(context, phase)?.join("all")).map_err(model_error)
}

/// Counts one fragment, within the memory of its thread where there is a cap.
fn count_part(
    context: &Context<'_>,
    phase: &str,
    splitter: &Splitter,
    input: usize,
    part: &Path,
    index: usize,
) -> Result<FragmentRecord> {
    let mut record = FragmentRecord::default();
    let name = OutputDir::side_name(phase, &format!("{index:05}.bin"));
    let mut each = |take: &mut dyn FnMut(&str) -> Result<()>| -> Result<()> {
        context.inputs[input].each(part, &["text"], |batch| {
            let texts = string_column(&batch, "text")?;
            for text in texts.iter().flatten() {
                take(text)?;
                record.add("text_bytes", text.len() as u64);
            }
            record.add("documents", (texts.len() - texts.null_count()) as u64);
            Ok(())
        })
    };
    let file = match context.settings.memory_limit_bytes {
        None => {
            let mut words = WordCounts::default();
            each(&mut |text| {
                count(text, splitter, &mut words);
                Ok(())
            })?;
            write_file(&context.out.path, &name, &words.to_bytes())?
        }
        Some(limit) => {
            // Of this process alone: an executor that counts as lost may still be at it.
            let scratch = context.settings.scratch.clone().map_or_else(|| side(context, phase), Ok)?;
            let folder = scratch.join(format!("{phase}-{index:05}-{}", std::process::id()));
            create_dir_all(&folder)?;
            let share = limit as usize / context.settings.threads.max(1);
            let mut counter = WordCounter::new(&folder, share);
            each(&mut |text| counter.count(text, splitter).map_err(model_error))?;
            let sorted = counter.finish(&folder.join("sorted")).map_err(model_error)?;
            let bytes = std::fs::read(&sorted.path).map_err(Error::io("read", &sorted.path))?;
            let file = write_file(&context.out.path, &name, &bytes)?;
            remove_folder(&folder)?;
            file
        }
    };
    record.files = vec![file];
    Ok(record)
}

/// Name of a group in the report: the column and its value.
fn group(column: &str, value: &str) -> String {
    format!("{column}\0{value}")
}

/// Encodes all inputs; sums do not depend on who adds them.
fn measure(context: &Context<'_>, config: &TokenizerStage, tokenizer: &Tokenizer) -> Result<Report> {
    let parts = parts(context);
    let whole = Mutex::new(Report::new(tokenizer));
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    context.progress.event(Event::Advanced {
        stage: context.name(),
        done: 0,
        units: parts.len() as u64,
        note: "measuring",
    });
    let worker = || {
        let mut report = Report::new(tokenizer);
        let ended =
            std::iter::from_fn(|| parts.get(next.fetch_add(1, Ordering::SeqCst))).try_for_each(|(input, part)| {
                context.check_stop()?;
                measure_part(context, config, tokenizer, *input, part, &mut report)
            });
        whole.lock().expect(super::UNPOISONED).merge(&report);
        if let Err(e) = ended {
            *failure.lock().expect(super::UNPOISONED) = Some(e);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..context.settings.threads.clamp(1, parts.len().max(1)) {
            scope.spawn(worker);
        }
    });
    match failure.into_inner().expect(super::UNPOISONED) {
        Some(e) => Err(e),
        None => Ok(whole.into_inner().expect(super::UNPOISONED)),
    }
}

fn measure_part(
    context: &Context<'_>,
    config: &TokenizerStage,
    tokenizer: &Tokenizer,
    input: usize,
    part: &Path,
    report: &mut Report,
) -> Result<()> {
    let input = &context.inputs[input];
    let schema = input.schema()?;
    let has = |name: &str| schema.field_with_name(name).is_ok_and(|f| f.data_type().is_string());
    // By which columns, and what each is read from.
    let by: Vec<(&str, &str, bool)> = config
        .report_by
        .iter()
        .filter_map(|name| match name.as_str() {
            _ if has(name) => Some((name.as_str(), name.as_str(), false)),
            "domain" if has("url") => Some(("domain", "url", true)),
            _ => None,
        })
        .collect();
    let mut columns = vec!["text"];
    columns.extend(by.iter().map(|(_, from, _)| *from));
    columns.sort_unstable();
    columns.dedup();
    let mut encoder = tokenizer.encoder();
    let (mut ids, mut groups) = (Vec::new(), vec![group("all", "")]);
    input.each(part, &columns, |batch| {
        let texts = string_column(&batch, "text")?;
        let values: Vec<&StringArray> =
            by.iter().map(|(_, from, _)| string_column(&batch, from)).collect::<Result<_>>()?;
        for row in (0..texts.len()).filter(|row| !texts.is_null(*row)) {
            let text = texts.value(row);
            groups.truncate(1);
            for ((name, _, domain), values) in by.iter().zip(&values) {
                let value = if values.is_null(row) { "" } else { values.value(row) };
                let value = if *domain { filters::url::domain(value).unwrap_or_default() } else { value };
                groups.push(group(name, value));
            }
            report.add(&mut encoder, &groups, text, &mut ids);
        }
        Ok(())
    })
}

/// The report as a table, in the order of its groups.
fn table(report: &Report) -> Result<RecordBatch> {
    let rows: Vec<(&str, &str, &GroupRow)> = report
        .rows()
        .map(|r| {
            let (column, value) = r.group.split_once('\0').expect("groups are named by `group`");
            (column, value, r)
        })
        .collect();
    let text = |f: fn(&(&str, &str, &GroupRow)) -> String| {
        Arc::new(rows.iter().map(|r| Some(f(r))).collect::<StringArray>()) as ArrayRef
    };
    let whole =
        |f: fn(&GroupRow) -> u64| Arc::new(rows.iter().map(|r| Some(f(r.2))).collect::<UInt64Array>()) as ArrayRef;
    let ratio =
        |f: fn(&GroupRow) -> Option<f64>| Arc::new(rows.iter().map(|r| f(r.2)).collect::<Float64Array>()) as ArrayRef;
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("column", text(|r| r.0.to_string()), false),
        ("value", text(|r| r.1.to_string()), false),
        ("documents", whole(|r| r.documents), false),
        ("bytes", whole(|r| r.bytes), false),
        ("characters", whole(|r| r.characters), false),
        ("words", whole(|r| r.words), false),
        ("tokens", whole(|r| r.tokens), false),
        ("bytes_per_token", ratio(GroupRow::bytes_per_token), true),
        ("tokens_per_character", ratio(GroupRow::tokens_per_character), true),
        ("fertility", ratio(GroupRow::fertility), true),
    ])?)
}
