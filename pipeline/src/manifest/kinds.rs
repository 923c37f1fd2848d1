//! The closed set of stage kinds: for each its options, the version of its code, what it reads and what it makes.

use crate::stage;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What a stage hands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// A table of rows with an `id`.
    Table,
    /// A `tokenizer.json`.
    Tokenizer,
    /// Token shards and their document table.
    Shards,
    /// Checkpoints of a model, with its tokenizer.
    Model,
    /// A fastText classifier.
    Classifier,
    /// Files for other programs.
    Folder,
}

/// An option that names other stages, and what those must make.
pub struct Reference {
    /// The key in the stage's table.
    pub key: &'static str,
    /// What the named stage must make.
    pub makes: Output,
    /// Whether the manifest must give it.
    pub required: bool,
}

/// One kind of stage, as data.
pub struct KindInfo {
    /// The word after `kind =`.
    pub name: &'static str,
    /// Version of the stage's code; raised whenever the same input gives other bytes.
    pub version: u32,
    /// One line of what it does.
    pub summary: &'static str,
    /// Least and most inputs.
    pub inputs: (usize, usize),
    /// What its inputs must make.
    pub reads: Output,
    /// What it makes.
    pub makes: Output,
    /// Options that name other stages.
    pub references: &'static [Reference],
    /// Whether its output depends on a seed.
    pub seeded: bool,
}

/// A fault of one option.
#[derive(Clone, Debug, PartialEq)]
pub struct OptionFault {
    /// The key it is about.
    pub key: String,
    /// What is wrong: expected and got.
    pub message: String,
    /// A way out.
    pub hint: Option<String>,
}

impl OptionFault {
    /// A fault without a hint.
    pub fn new(key: &str, message: impl Into<String>) -> Self {
        Self { key: key.to_string(), message: message.into(), hint: None }
    }

    /// A fault of a group of options, about the first of `keys` that the message names in backticks, else about `otherwise`.
    pub fn about(keys: &[&str], otherwise: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let named = message.split('`').skip(1).step_by(2).find(|word| keys.contains(word));
        let key = named.unwrap_or(otherwise).to_string();
        Self { key, message, hint: None }
    }

    /// Rooms check their options together and begin a message with the one at fault: `beta1` is …; then it is about that one.
    fn at_the_option_it_begins_with(self, given: &Map<String, Value>) -> Self {
        let begun = self.message.strip_prefix('`').and_then(|rest| rest.split_once("` "));
        match begun {
            Some((key, message)) if given.contains_key(key) => {
                Self { key: key.to_owned(), message: message.to_owned(), hint: self.hint }
            }
            _ => self,
        }
    }
}

/// Options of a kind: read from the manifest, checked before any work.
pub trait Options: Serialize + DeserializeOwned + JsonSchema + Default {
    /// Faults that the types alone do not show.
    fn check(&self) -> Vec<OptionFault> {
        Vec::new()
    }
}

const fn required(key: &'static str, makes: Output) -> Reference {
    Reference { key, makes, required: true }
}

const fn optional(key: &'static str, makes: Output) -> Reference {
    Reference { key, makes, required: false }
}

/// Options that say how a stage works and change no byte of what it makes: another value is a cache hit.
pub const PLACEMENT: [&str; 4] = ["checkpoint_every", "spike_sigmas", "spike_window", "zero"];

/// Whether an option has its default: options that came later are left out of fingerprints then.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

macro_rules! kinds {
    ($($variant:ident($options:ty) = $name:literal version $version:literal, $inputs:expr, $reads:ident => $makes:ident,
        [$($reference:expr),*], seeded $seeded:literal, $summary:literal;)*) => {
        /// The options of one stage, by kind.
        #[derive(Clone, Debug)]
        pub enum StageOptions { $(#[doc = $summary] $variant(Box<$options>),)* }

        /// Every kind, in the order of the data's journey.
        pub static KINDS: &[KindInfo] = &[$(KindInfo {
            name: $name, version: $version, summary: $summary, inputs: $inputs, reads: Output::$reads,
            makes: Output::$makes, references: &[$($reference),*], seeded: $seeded,
        },)*];

        impl StageOptions {
            /// Reads the options of a kind, and all that is wrong with them; faults carry the key they are about. What cannot be read
            /// has its default.
            pub fn read(kind: &str, table: &Map<String, Value>) -> (Self, Vec<OptionFault>) {
                match kind { $($name => { let (o, faults) = read::<$options>(table); (Self::$variant(Box::new(o)), faults) })*
                    other => unreachable!("kind {other} was looked up in KINDS because the caller checked it") }
            }

            /// The resolved options that bytes depend on, defaults filled in: all but those of [`PLACEMENT`].
            pub fn to_json(&self) -> Value {
                let mut options = match self { $(Self::$variant(o) => serde_json::to_value(o),)* }
                    .expect("options are plain data because they derive Serialize");
                if let Some(table) = options.as_object_mut() {
                    PLACEMENT.iter().for_each(|key| drop(table.remove(*key)));
                }
                options
            }

            /// The JSON schema of a kind's options.
            pub fn schema(kind: &str) -> Value {
                match kind { $($name => schemars::schema_for!($options).to_value(),)*
                    other => unreachable!("kind {other} was looked up in KINDS because the caller checked it") }
            }
        }
    };
}

kinds! {
    Ingest(stage::ingest::IngestConfig) = "ingest" version 2, (0, 0), Table => Table, [], seeded false,
        "Reads WARC, ARC, JSONL, CSV and Parquet files into a table of documents.";
    Extract(filters::extract::ExtractConfig) = "extract" version 3, (1, 1), Table => Table, [], seeded false,
        "Turns HTML into main text, title, author, date and links.";
    Language(stage::language::LanguageConfig) = "language" version 2, (1, 1), Table => Table,
        [optional("classifier", Output::Classifier)], seeded false,
        "Identifies the language and keeps the wanted ones.";
    Filter(filters::rules::FilterConfig) = "filter" version 3, (1, 1), Table => Table,
        [optional("perplexity", Output::Classifier)], seeded false,
        "Measures quality rules and drops documents that miss a threshold.";
    Edit(filters::edit::EditConfig) = "edit" version 1, (1, 1), Table => Table, [], seeded false,
        "Changes texts (repairs, line rules, personal data) and keeps what was there before.";
    Dedup(stage::dedup::DedupStage) = "dedup" version 2, (1, 1), Table => Table, [], seeded false,
        "Drops exact and near duplicates, verified against a kept document, or cuts repeated lines, paragraphs or stretches.";
    Decontaminate(stage::decontaminate::DecontaminateConfig) = "decontaminate" version 1, (1, 1), Table => Table,
        [required("against", Output::Table)], seeded false,
        "Drops documents that repeat a run of words of an evaluation set.";
    Mix(stage::mix::MixConfig) = "mix" version 1, (1, 64), Table => Table, [], seeded true,
        "Makes a training mixture of tables, by weights, temperature and per-domain caps.";
    Stats(stage::stats::StatsConfig) = "stats" version 2, (1, 1), Table => Table, [], seeded false,
        "Counts documents, bytes and words per domain, suffix, language or any column.";
    Sql(stage::sql::SqlConfig) = "sql" version 2, (1, 64), Table => Table, [], seeded false,
        "Makes any SELECT over earlier stages a stage.";
    Classifier(stage::classifier::ClassifierStage) = "classifier" version 1, (1, 1), Table => Classifier, [], seeded false,
        "Trains a fastText classifier on labelled text, or an n-gram model on text, and measures it on held-out rows.";
    Tasks(stage::tasks::TasksStage) = "tasks" version 1, (0, 1), Table => Table, [], seeded true,
        "Makes prompts with exact answers, some from crawled sentences, split into training and held-out sets.";
    Tokenizer(stage::tokenizer::TokenizerStage) = "tokenizer" version 2, (0, 64), Table => Tokenizer, [], seeded false,
        "Trains a byte-level BPE tokenizer, or reads one, and measures how well it fits.";
    Tokenize(stage::tokenize::TokenizeConfig) = "tokenize" version 2, (1, 64), Table => Shards,
        [required("tokenizer", Output::Tokenizer)], seeded false,
        "Writes token shards and the table of documents in them.";
    Pretrain(stage::pretrain::PretrainConfig) = "pretrain" version 1, (1, 1), Shards => Model, [], seeded true,
        "Trains a decoder-only Transformer on token shards.";
    Sft(stage::sft::SftStage) = "sft" version 1, (1, 64), Table => Model, [required("model", Output::Model)], seeded true,
        "Fine-tunes a model on prompts and completions.";
    Rollout(stage::rollout::RolloutConfig) = "rollout" version 1, (1, 1), Table => Table,
        [required("model", Output::Model)], seeded true,
        "Samples completions of prompts.";
    Verdict(stage::verdict::VerdictConfig) = "verdict" version 1, (1, 1), Table => Table, [], seeded false,
        "Runs exact verifiers over rollouts.";
    Pairs(stage::pairs::PairsConfig) = "pairs" version 2, (2, 2), Table => Table, [], seeded false,
        "Derives preference pairs from rollouts and verdicts, with SQL.";
    Preference(stage::preference::PreferenceStage) = "preference" version 2, (1, 1), Table => Model,
        [required("model", Output::Model)], seeded true,
        "Trains on preference pairs (DPO and its relatives).";
    Grpo(stage::grpo::GrpoStage) = "grpo" version 1, (1, 1), Table => Model, [required("model", Output::Model)], seeded true,
        "Trains on rewards of the model's own rollouts (GRPO and its relatives).";
    Eval(stage::eval::EvalConfig) = "eval" version 1, (0, 1), Table => Table,
        [required("models", Output::Model), optional("shards", Output::Shards), optional("pairs", Output::Table)],
        seeded true,
        "Measures models on held-out prompts, pairs and text.";
    Export(stage::export::ExportConfig) = "export" version 1, (0, 0), Table => Folder,
        [optional("model", Output::Model), optional("shards", Output::Shards)], seeded false,
        "Writes a model as a Hugging Face folder, token shards as Parquet for `datasets` and as files for llm.c.";
}

/// Finds a kind by name.
pub fn info(name: &str) -> Option<&'static KindInfo> {
    KINDS.iter().find(|k| k.name == name)
}

/// Names of the options of a kind, from its schema.
pub fn option_names(kind: &str) -> Vec<String> {
    let schema = StageOptions::schema(kind);
    let mut names: Vec<String> =
        schema["properties"].as_object().map(|p| p.keys().cloned().collect()).unwrap_or_default();
    names.sort();
    names
}

fn read<O: Options>(table: &Map<String, Value>) -> (O, Vec<OptionFault>) {
    let (mut faults, mut good) = (Vec::new(), Map::new());
    for (key, value) in table {
        match serde_json::from_value::<O>(Value::Object(Map::from_iter([(key.clone(), value.clone())]))) {
            Ok(_) => drop(good.insert(key.clone(), value.clone())),
            Err(e) => {
                let schema = schemars::schema_for!(O).to_value();
                let message = super::reference::mistyped(&e.to_string(), value, &schema["properties"][key], &schema);
                faults.push(OptionFault::new(key, message));
            }
        }
    }
    let unread: Vec<String> = faults.iter().map(|f| f.key.clone()).collect();
    let options: O = serde_json::from_value(Value::Object(good)).unwrap_or_else(|e| {
        faults.push(OptionFault::new("kind", e.to_string()));
        O::default()
    });
    // What is said of an option that could not be read would be about its default.
    let word = |c: char| !c.is_alphanumeric() && c != '_';
    let about = |f: &OptionFault| f.message.split(word).chain([f.key.as_str()]).any(|w| unread.iter().any(|u| u == w));
    faults.extend(options.check().into_iter().filter(|f| !about(f)).map(|f| f.at_the_option_it_begins_with(table)));
    (options, faults)
}
