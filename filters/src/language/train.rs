//! Trains a classifier of texts and measures it on rows it never saw.
//!
//! In: rows of (label, text) and a `ClassifierConfig`. Out: the bytes of a fastText model (`.ftz`, or `.bin` if not quantised),
//! and correct answers per label. The same rows in any order give the same bytes on the same kind of CPU: one thread, and the
//! order of training comes from a hash of the row. (The library picks vector instructions by CPU, which changes the last bits.)
//! Leaves to `pipeline`: reading rows, choosing columns, writing the model.
//! Joulin et al. 2016 (1607.01759); compression: Joulin et al. 2016, "FastText.zip" (1612.03651).

use std::collections::BTreeMap;
use std::io::Write;

use fasttext::FastText;
use fasttext::args::{Args, LossName, ModelName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{LanguageError, LanguageModel, code_of};

/// How a classifier is trained. The defaults are those of the shipped language model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierConfig {
    /// Width of the embedding of each word and n-gram.
    pub dim: u32,
    /// Shortest character n-gram, in characters.
    pub min_n: u32,
    /// Longest character n-gram, in characters; 0 = words only.
    pub max_n: u32,
    /// Longest word n-gram, in words; 1 = single words.
    pub word_ngrams: u32,
    /// Number of hash buckets that all n-grams share.
    pub buckets: u32,
    /// A word has an embedding of its own if it occurs at least this often; the others live from their n-grams.
    pub min_count: u32,
    /// Passes over the rows.
    pub epochs: u32,
    /// Learning rate at the start; it falls linearly to 0.
    pub learning_rate: f64,
    /// Seed of the row order, of the initial embeddings and of the mixing.
    pub seed: u32,
    /// Rows of this label lend words to `mix_share` of the other rows, which keep their label: a Japanese page full of English
    /// terms is still Japanese. Empty = no mixing.
    pub mix_label: String,
    /// Share of the rows, 0..1, that get such words appended: at most as many bytes as the row has beyond ASCII, so that hardly
    /// any go to languages in Latin script, where they would only blur the border.
    pub mix_share: f64,
    /// One row in this many, by hash of its text, is held out of training and used to measure accuracy; 0 = none.
    pub holdout: u32,
    /// Writes a product-quantised model (`.ftz`): about a tenth of the size.
    pub quantize: bool,
    /// Quantised model: keep only this many embeddings, those of the largest norm; 0 = all.
    pub cutoff: u32,
    /// Quantised model: columns per one-byte code. Fewer = larger and more exact.
    pub dsub: u32,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self {
            dim: 32,
            min_n: 1,
            max_n: 4,
            word_ngrams: 1,
            buckets: 1_000_000,
            min_count: 1000,
            epochs: 8,
            learning_rate: 0.5,
            seed: 1,
            mix_label: "eng".to_owned(),
            mix_share: 0.3,
            holdout: 20,
            quantize: true,
            cutoff: 100_000,
            dsub: 4,
        }
    }
}

impl ClassifierConfig {
    fn check(&self) -> Result<(), LanguageError> {
        let checks: [(bool, &'static str, String, &'static str); 10] = [
            ((1..=1024).contains(&self.dim), "dim", self.dim.to_string(), "1..1024"),
            (self.max_n <= 16, "max_n", self.max_n.to_string(), "0..16"),
            (self.max_n == 0 || (1..=self.max_n).contains(&self.min_n), "min_n", self.min_n.to_string(), "1..max_n"),
            ((1..=8).contains(&self.word_ngrams), "word_ngrams", self.word_ngrams.to_string(), "1..8"),
            ((256..=1 << 26).contains(&self.buckets), "buckets", self.buckets.to_string(), "256..67108864"),
            (self.min_count >= 1, "min_count", self.min_count.to_string(), "at least 1"),
            ((1..=1000).contains(&self.epochs), "epochs", self.epochs.to_string(), "1..1000"),
            (
                self.learning_rate > 0.0 && self.learning_rate <= 10.0,
                "learning_rate",
                self.learning_rate.to_string(),
                "0..10, not 0",
            ),
            ((0.0..=1.0).contains(&self.mix_share), "mix_share", self.mix_share.to_string(), "0..1"),
            ((1..=self.dim).contains(&self.dsub), "dsub", self.dsub.to_string(), "1..dim"),
        ];
        match checks.into_iter().find(|check| !check.0) {
            None => Ok(()),
            Some((_, field, value, range)) => Err(LanguageError::Setting { field, value, range }),
        }
    }
}

/// Whether a row is kept out of training: the pinned XXH3 of its text, modulo `holdout`, is 0. Equal texts fall on one side.
pub fn is_held_out(text: &str, holdout: u32) -> bool {
    holdout > 0 && xxh3_64(text.as_bytes()).is_multiple_of(u64::from(holdout))
}

/// Trains on the rows (label, text) that are not held out and returns the model file's bytes.
///
/// Labels are stored as given, after `__label__`. Tokens of a text that fastText would read as a label or as an end of line are
/// left out. Runs on one thread; needs room for a temporary copy of the rows.
pub fn train(rows: &[(String, String)], config: &ClassifierConfig) -> Result<Vec<u8>, LanguageError> {
    config.check()?;
    let rows = in_training_order(rows, config)?;
    let mut file = tempfile::NamedTempFile::new()?;
    let mut lines = std::io::BufWriter::new(file.as_file_mut());
    write_lines(&rows, config, &mut lines)?;
    lines.flush()?;
    drop(lines);
    let mut args = arguments(config);
    args.input = file.path().to_owned();
    let mut bytes = Vec::new();
    fit(args, config.quantize)
        .and_then(|model| model.save(&mut bytes))
        .map_err(|source| LanguageError::Training { source })?;
    Ok(bytes)
}

/// One line per row: its label, its tokens, and the tokens it borrows.
fn write_lines(rows: &[(&str, &str)], config: &ClassifierConfig, lines: &mut impl Write) -> std::io::Result<()> {
    let lenders: Vec<&str> =
        rows.iter().filter(|(label, _)| *label == config.mix_label).map(|(_, text)| *text).collect();
    for (index, (label, text)) in rows.iter().enumerate() {
        write!(lines, "__label__{label}")?;
        tokens(text).try_for_each(|token| write!(lines, " {token}"))?;
        let draw = xxh3_64_with_seed(text.as_bytes(), u64::from(config.seed) + 1);
        let chosen = (draw >> 11) as f64 / (1_u64 << 53) as f64; // 0..1
        if !lenders.is_empty() && *label != config.mix_label && chosen < config.mix_share {
            let beyond_ascii = text.bytes().filter(|byte| !byte.is_ascii()).count();
            let mut room = beyond_ascii * (1 + (draw % 16) as usize) / 16;
            for token in tokens(lenders[index % lenders.len()]) {
                match room.checked_sub(token.len()) {
                    None => break,
                    Some(left) => room = left,
                }
                write!(lines, " {token}")?;
            }
        }
        writeln!(lines)?;
    }
    Ok(())
}

/// The tokens of a text without those that fastText would take for a label or the end of a line.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    text.split_ascii_whitespace().filter(|token| *token != "</s>" && !token.starts_with("__label__"))
}

fn fit(args: Args, quantize: bool) -> fasttext::Result<FastText> {
    let mut model = FastText::train(args.clone())?;
    if quantize {
        model.quantize(&args)?;
    }
    Ok(model)
}

/// The rows to train on, shuffled by a hash of their content, so that their order on disk does not matter.
fn in_training_order<'a>(
    rows: &'a [(String, String)],
    config: &ClassifierConfig,
) -> Result<Vec<(&'a str, &'a str)>, LanguageError> {
    let mut keyed = Vec::with_capacity(rows.len());
    let mut labels = BTreeMap::new();
    for (label, text) in rows.iter().filter(|(_, text)| !is_held_out(text, config.holdout)) {
        if label.is_empty() || label.contains(|c: char| c.is_ascii_whitespace() || c == '\0') {
            return Err(LanguageError::Rows { reason: format!("label `{label}` is empty or contains a space") });
        }
        *labels.entry(label.as_str()).or_insert(0_usize) += 1;
        keyed.push((xxh3_64_with_seed(text.as_bytes(), u64::from(config.seed)), label.as_str(), text.as_str()));
    }
    if labels.len() < 2 {
        return Err(LanguageError::Rows {
            reason: format!("{} labels in {} rows; at least 2 are needed", labels.len(), keyed.len()),
        });
    }
    keyed.sort_unstable();
    Ok(keyed.into_iter().map(|(_, label, text)| (label, text)).collect())
}

/// fastText's own settings for a config. Every value that `check` let through fits.
fn arguments(config: &ClassifierConfig) -> Args {
    let mut args = Args::new();
    args.apply_supervised_defaults();
    args.model = ModelName::Supervised;
    args.loss = LossName::Softmax;
    args.dim = config.dim as i32;
    args.minn = config.min_n as i32;
    args.maxn = config.max_n as i32;
    args.word_ngrams = config.word_ngrams as i32;
    args.bucket = config.buckets as i32;
    args.min_count = config.min_count.min(i32::MAX as u32) as i32;
    args.epoch = config.epochs as i32;
    args.lr = config.learning_rate;
    args.seed = (config.seed % i32::MAX as u32) as i32;
    args.thread = 1;
    args.verbose = 0;
    args.cutoff = config.cutoff as usize;
    args.dsub = config.dsub as usize;
    args.qnorm = true;
    args
}

/// How often a model was right on the rows of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelAccuracy {
    /// The rows' label as a language code (see [`code_of`]).
    pub label: String,
    /// Rows with this label.
    pub n: u64,
    /// Rows for which the model's answer was this label.
    pub correct: u64,
}

/// Correct answers per label, sorted by label; the caller passes held-out rows.
pub fn evaluate(model: &LanguageModel, rows: &[(String, String)]) -> Vec<LabelAccuracy> {
    let mut counts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (label, text) in rows {
        let label = code_of(label);
        let correct = model.predict(text).is_some_and(|prediction| prediction.code == label);
        let count = counts.entry(label).or_default();
        count.0 += 1;
        count.1 += u64::from(correct);
    }
    counts.into_iter().map(|(label, (n, correct))| LabelAccuracy { label, n, correct }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<(String, String)> {
        let words = ["haus", "maison", "casa", "дом", "家", "บ้าน"];
        (0..600)
            .map(|i| {
                let word = words[i % words.len()];
                (format!("l{}", i % words.len()), format!("{word} {word}{} {i}", i % 7))
            })
            .collect()
    }

    fn small(quantize: bool) -> ClassifierConfig {
        ClassifierConfig {
            buckets: 2000,
            cutoff: 500,
            epochs: 20,
            min_count: 5,
            quantize,
            holdout: 10,
            ..Default::default()
        }
    }

    #[test]
    fn training_twice_gives_the_same_bytes_whatever_the_order_of_the_rows() {
        let first = train(&rows(), &small(true)).expect("the rows train");
        let mut reversed = rows();
        reversed.reverse();
        assert!(first == train(&reversed, &small(true)).expect("the rows train"));
        assert!(first != train(&rows(), &ClassifierConfig { seed: 2, ..small(true) }).expect("the rows train"));
    }

    #[test]
    fn a_trained_model_is_right_on_rows_that_it_never_saw() {
        for quantize in [false, true] {
            let bytes = train(&rows(), &small(quantize)).expect("the rows train");
            let model = LanguageModel::from_bytes(bytes).expect("its own bytes can be read");
            let held_out: Vec<_> = rows().into_iter().filter(|(_, text)| is_held_out(text, 10)).collect();
            assert!(!held_out.is_empty());
            for label in evaluate(&model, &held_out) {
                assert_eq!(label.n, label.correct, "{label:?}");
            }
        }
    }

    #[test]
    fn our_reading_of_a_model_agrees_with_the_library_that_wrote_it() {
        for config in [small(false), small(true), ClassifierConfig { min_n: 2, cutoff: 0, ..small(true) }] {
            let bytes = train(&rows(), &config).expect("the rows train");
            let theirs = FastText::load(&mut bytes.as_slice()).expect("the library reads its own bytes");
            let ours = LanguageModel::from_bytes(bytes).expect("its own bytes can be read");
            for text in
                ["haus", "une maison", "la casa e il дом", "家家", "บ้าน haus 12", "</s> haus", "x __label__l1 casa"]
            {
                let expected = &theirs.predict(text, 1, 0.0)[0];
                let found = ours.predict(text).expect("the text has words");
                assert_eq!(found.code, code_of(&expected.label), "{text}");
                let expected = expected.prob.min(1.0);
                assert!((found.score - expected).abs() < 1e-5, "{text}: {} {expected}", found.score);
            }
        }
    }

    #[test]
    fn rows_beyond_ascii_borrow_words_and_keep_their_label() {
        let config = ClassifierConfig { mix_label: "en".to_owned(), mix_share: 1.0, ..small(true) };
        let rows = [("en", "a few plain words that can be lent"), ("ja", "日本語の文です"), ("de", "kurz")];
        let mut lines = Vec::new();
        write_lines(&rows, &config, &mut lines).expect("a vector takes every line");
        let lines = String::from_utf8(lines).expect("text goes in, text comes out");
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines[0], "__label__en a few plain words that can be lent");
        assert!(lines[1].starts_with("__label__ja 日本語の文です") && lines[1].len() <= 2 * 21 + 20, "{}", lines[1]);
        assert_eq!(lines[2], "__label__de kurz");
    }

    #[test]
    fn bad_settings_and_bad_rows_are_errors() {
        let wrong = ClassifierConfig { dim: 0, ..small(true) };
        assert!(matches!(train(&rows(), &wrong), Err(LanguageError::Setting { field: "dim", .. })));
        let one_label = vec![("en".to_owned(), "only one".to_owned()); 5];
        assert!(matches!(train(&one_label, &small(true)), Err(LanguageError::Rows { .. })));
        assert!(matches!(train(&[], &small(true)), Err(LanguageError::Rows { .. })));
        let spaced = vec![("e n".to_owned(), "text".to_owned())];
        let all = ClassifierConfig { holdout: 0, ..small(true) };
        assert!(matches!(train(&spaced, &all), Err(LanguageError::Rows { .. })));
    }

    #[test]
    fn the_hold_out_is_a_function_of_the_text_alone() {
        let held_out = (0..10_000).filter(|i| is_held_out(&format!("row {i}"), 20)).count();
        assert!((400..600).contains(&held_out), "{held_out}");
        assert!(!is_held_out("anything", 0) && is_held_out("", 1));
    }
}
