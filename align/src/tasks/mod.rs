//! Tasks: seeded prompts with exact answers, small enough for a model of a million parameters.
//!
//! In: options, a seed, documents (id, text). Out: rows in four splits: demonstrations to mix into pretraining and for
//! SFT, prompts to sample on, and held-out prompts. Every draw is keyed by (seed, task, split, number), so a row does not
//! depend on the others; which prompts are held out is decided by a hash of what the prompt asks about, so no held-out
//! pair, word list or sentence can appear in another split. Left to others: judging (`verify`), chat format, ids.
//!
//! Made to be learnable by copying: rigid formats, words that are frequent in the documents, and completions that start
//! with the same space as the words of the prompt, so that the answer's tokens are those of the prompt.

mod kth_word;
mod larger_number;
mod sentence_number;
mod tag;
mod words;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::rng::{self, Stream};

pub use sentence_number::{Sentence, sentences};
pub use words::frequent_words;

/// Version of the generators; goes into fingerprints.
pub const VERSION: u32 = 1;

/// What a prompt asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// The k-th of five words.
    KthWord,
    /// The larger of two numbers below 100.
    LargerNumber,
    /// The one number in a sentence of a document.
    SentenceNumber,
    /// The first or last of three words, inside `<answer>…</answer>`.
    Tag,
}

impl TaskKind {
    /// All tasks.
    pub const ALL: [TaskKind; 4] = [Self::KthWord, Self::LargerNumber, Self::SentenceNumber, Self::Tag];

    /// The name in manifests and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KthWord => "kth_word",
            Self::LargerNumber => "larger_number",
            Self::SentenceNumber => "sentence_number",
            Self::Tag => "tag",
        }
    }

    /// The spec of the verifier that judges this task.
    pub fn verifier(self) -> &'static str {
        match self {
            Self::KthWord | Self::SentenceNumber => "exact",
            Self::LargerNumber => "last_number",
            Self::Tag => "tag:answer",
        }
    }
}

/// What a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// A demonstration to mix into pretraining.
    Pretrain,
    /// A demonstration for supervised fine-tuning.
    Sft,
    /// A prompt to sample on, for pairs and GRPO.
    Train,
    /// A held-out prompt.
    Test,
}

impl Split {
    /// All splits, in the order of the rows.
    pub const ALL: [Split; 4] = [Self::Pretrain, Self::Sft, Self::Train, Self::Test];

    /// `pretrain`, `sft`, `train` or `test`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Sft => "sft",
            Self::Train => "train",
            Self::Test => "test",
        }
    }

    fn demonstrates(self) -> bool {
        matches!(self, Self::Pretrain | Self::Sft)
    }
}

/// Options of the task generator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TasksConfig {
    /// Which tasks, in equal shares: `kth_word`, `larger_number`, `sentence_number`, `tag`.
    pub tasks: Vec<TaskKind>,
    /// Demonstrations to mix into pretraining, over all tasks.
    pub n_pretrain: usize,
    /// Demonstrations for supervised fine-tuning, over all tasks.
    pub n_sft: usize,
    /// Prompts to sample on, over all tasks.
    pub n_train: usize,
    /// Held-out prompts, over all tasks.
    pub n_test: usize,
    /// Share of demonstrations (pretraining and SFT) with a wrong answer of the same kind, 0..1: headroom to sharpen.
    pub distractor_share: f64,
    /// Share of `tag` demonstrations without their tag, 0..1.
    pub format_miss_share: f64,
    /// No prompt is longer, in tokens (without the chat format's own).
    pub max_prompt_tokens: usize,
    /// How many different words `kth_word` and `tag` use: the most frequent short words of the documents.
    pub n_words: usize,
}

impl Default for TasksConfig {
    fn default() -> Self {
        Self {
            tasks: TaskKind::ALL.to_vec(),
            n_pretrain: 12_000,
            n_sft: 2_000,
            n_train: 1_000,
            n_test: 1_200,
            distractor_share: 0.3,
            format_miss_share: 0.3,
            max_prompt_tokens: 24,
            n_words: 64,
        }
    }
}

/// One prompt, with its answer and, where the split has them, a demonstration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRow {
    /// 32 lower-case hex digits: hash of (parent, generator and seed, ordinal).
    pub id: String,
    /// The document that the prompt's text is from; `None` for made-up prompts.
    pub parent_id: Option<String>,
    /// The task's name.
    pub task: TaskKind,
    /// What the row is for.
    pub split: Split,
    /// The user's turn.
    pub prompt: String,
    /// The gold answer.
    pub answer: String,
    /// The assistant's turn of a demonstration, right or (by the shares of the config) wrong; `None` in `train`, `test`.
    pub completion: Option<String>,
    /// Spec of the verifier.
    pub verifier: String,
    /// Bytes of the parent document's text that are the answer, start and end.
    pub span: Option<(u32, u32)>,
}

/// Why no tasks could be made.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum TasksError {
    /// A config value is out of range.
    #[error("`{key}` = {value}: {reason}")]
    Config {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// No document has a fitting sentence.
    #[error(
        "none of {documents} documents has a short sentence with exactly one number; remove `sentence_number` from `tasks`"
    )]
    NoSentences {
        /// How many documents were read.
        documents: usize,
    },
    /// A split asks for more different prompts than there are.
    #[error(
        "`{split}` needs more different prompts than {task} has (stopped at {made}); lower `n_{split}` or add tasks"
    )]
    TooFew {
        /// The task's name.
        task: &'static str,
        /// The split's name.
        split: &'static str,
        /// How many prompts of this task the split has already.
        made: usize,
    },
}

impl TasksConfig {
    /// The first value that is out of range.
    pub fn check(&self) -> Result<(), TasksError> {
        let fault = |key, value: String, reason| Err(TasksError::Config { key, value, reason });
        if self.tasks.is_empty() {
            return fault("tasks", "[]".to_owned(), "name at least one task");
        }
        for (key, share) in [("distractor_share", self.distractor_share), ("format_miss_share", self.format_miss_share)]
        {
            if !(0.0..=1.0).contains(&share) {
                return fault(key, share.to_string(), "a share lies in 0..1");
            }
        }
        if self.n_words < words::MIN_WORDS {
            return fault("n_words", self.n_words.to_string(), "at least 8, so that a prompt's words differ");
        }
        if self.max_prompt_tokens < MIN_PROMPT_TOKENS {
            return fault("max_prompt_tokens", self.max_prompt_tokens.to_string(), "the shortest formats need 16");
        }
        Ok(())
    }

    fn rows(&self, split: Split) -> usize {
        match split {
            Split::Pretrain => self.n_pretrain,
            Split::Sft => self.n_sft,
            Split::Train => self.n_train,
            Split::Test => self.n_test,
        }
    }
}

const MIN_PROMPT_TOKENS: usize = 16;
/// One in so many made-up prompts is held out.
const HELD_OUT_EVERY: u128 = 5;
/// Draws for one row before giving up: a pool whose free part is below 1 in 2,000 counts as used up.
const MAX_DRAWS: u64 = 20_000;
/// How often one sentence may return in `pretrain` and in `sft`; in `train` and `test` once.
const MAX_SENTENCE_USES: usize = 4;

/// A prompt before its split and demonstration are known.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    prompt: String,
    answer: String,
    /// Wrong answers of the same kind.
    distractors: Vec<String>,
    /// What the prompt asks about; items of one subject are all held out or all not.
    subject: String,
    parent_id: Option<String>,
    span: Option<(u32, u32)>,
}

/// True if a subject is held out.
fn held_out(seed: u64, task: TaskKind, subject: &str, every: u128) -> bool {
    rng::key(&["held_out".into(), seed.into(), task.as_str().into(), subject.into()]).is_multiple_of(every)
}

/// Tokens of a prompt under a byte-level BPE of about 2,000 entries trained on English, digits split singly: a guess for
/// plans made before the tokenizer is. Too low for 1 in 17 of 698 sentences of Debian's manuals, by 3 at most where the
/// guess was 24; take [`generate_counted`] where the limit must hold.
pub fn estimated_tokens(prompt: &str) -> usize {
    let (mut tokens, mut letters, mut before) = (0, 0_usize, b'x');
    for byte in prompt.bytes().chain([b' ']) {
        if byte.is_ascii_alphabetic() {
            letters += 1;
        } else {
            tokens += if letters <= 3 { usize::from(letters > 0) } else { letters.div_ceil(2) };
            letters = 0;
            // A space before a digit is a token of its own.
            tokens += usize::from(byte != b' ') + usize::from(byte.is_ascii_digit() && before == b' ');
        }
        before = byte;
    }
    tokens
}

/// All rows, split by split, tasks in turn; prompt lengths by [`estimated_tokens`]. A split that has used up the
/// documents' sentences goes on with the other tasks.
pub fn generate(config: &TasksConfig, seed: u64, documents: &[(&str, &str)]) -> Result<Vec<TaskRow>, TasksError> {
    generate_counted(config, seed, documents, &estimated_tokens)
}

/// As [`generate`], with `prompt_tokens` (a tokenizer's count) to hold prompts to `max_prompt_tokens`.
pub fn generate_counted(
    config: &TasksConfig,
    seed: u64,
    documents: &[(&str, &str)],
    prompt_tokens: &dyn Fn(&str) -> usize,
) -> Result<Vec<TaskRow>, TasksError> {
    config.check()?;
    let fits = |prompt: &str| prompt_tokens(prompt) <= config.max_prompt_tokens;
    let words = words::word_list(documents, config.n_words);
    let mut pools = sentence_number::Pools::default();
    if config.tasks.contains(&TaskKind::SentenceNumber) {
        pools = sentence_number::Pools::new(seed, documents, &fits);
        if pools.is_empty() {
            return Err(TasksError::NoSentences { documents: documents.len() });
        }
    }
    let mut rows = Vec::new();
    for split in Split::ALL {
        let mut source =
            Source { config, seed, split, words: &words, pools: &pools, fits: &fits, used: BTreeSet::new() };
        for number in 0..config.rows(split) {
            let row = source.row(number, rows.len())?;
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Makes the rows of one split.
struct Source<'a> {
    config: &'a TasksConfig,
    seed: u64,
    split: Split,
    words: &'a [String],
    pools: &'a sentence_number::Pools,
    fits: &'a dyn Fn(&str) -> bool,
    /// Prompts of this split, where none may come twice.
    used: BTreeSet<String>,
}

impl Source<'_> {
    fn row(&mut self, number: usize, ordinal: usize) -> Result<TaskRow, TasksError> {
        let tasks = &self.config.tasks;
        let mut task = tasks[number % tasks.len()];
        let mut item = None;
        if task == TaskKind::SentenceNumber {
            item = self.pools.get(self.split, number / tasks.len());
            if item.is_none() {
                let others: Vec<_> = tasks.iter().filter(|&&t| t != TaskKind::SentenceNumber).collect();
                let short =
                    TasksError::TooFew { task: task.as_str(), split: self.split.as_str(), made: self.used.len() };
                task = **others.get(number / tasks.len() % others.len().max(1)).ok_or(short)?;
            }
        }
        let key = ["task".into(), self.seed.into(), self.split.as_str().into(), (number as u64).into()];
        let mut stream = Stream::new(&key);
        let item = match item {
            Some(item) => item,
            None => self.draw(task, &mut stream)?,
        };
        let completion = self.split.demonstrates().then(|| self.demonstrate(task, &item, &mut stream));
        let parent = item.parent_id.as_deref().unwrap_or("");
        let stage = format!("tasks:{VERSION}:{}", self.seed);
        let id = rng::key(&[parent.into(), stage.as_str().into(), (ordinal as u64).into()]);
        Ok(TaskRow {
            id: format!("{id:032x}"),
            parent_id: item.parent_id,
            task,
            split: self.split,
            prompt: item.prompt,
            answer: item.answer,
            completion,
            verifier: task.verifier().to_owned(),
            span: item.span,
        })
    }

    /// Draws until a prompt is on the right side of the hold-out, fits, and (in `train` and `test`) is new.
    fn draw(&mut self, task: TaskKind, stream: &mut Stream) -> Result<Item, TasksError> {
        for _ in 0..MAX_DRAWS {
            let item = match task {
                TaskKind::KthWord => kth_word::draw(self.words, stream),
                TaskKind::Tag => tag::draw(self.words, stream),
                TaskKind::LargerNumber | TaskKind::SentenceNumber => larger_number::draw(stream),
            };
            let test = held_out(self.seed, task, &item.subject, HELD_OUT_EVERY);
            if test != (self.split == Split::Test) || !(self.fits)(&item.prompt) {
                continue;
            }
            if self.split.demonstrates() || self.used.insert(item.prompt.clone()) {
                return Ok(item);
            }
        }
        Err(TasksError::TooFew { task: task.as_str(), split: self.split.as_str(), made: self.used.len() })
    }

    /// The assistant's turn: the answer, or by the config's shares a distractor or one without its tag.
    fn demonstrate(&self, task: TaskKind, item: &Item, stream: &mut Stream) -> String {
        let distracted = stream.chance(self.config.distractor_share);
        let pick = stream.below(item.distractors.len());
        let missed = stream.chance(self.config.format_miss_share);
        let answer = if distracted { &item.distractors[pick] } else { &item.answer };
        if task == TaskKind::Tag && !missed { tag::wrap(answer) } else { format!(" {answer}") }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
