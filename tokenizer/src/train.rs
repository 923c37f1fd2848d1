//! Training a byte-level BPE tokenizer from piece counts.
//!
//! In: [`WordCounts`] and a [`TokenizerConfig`]. Out: a [`Tokenizer`] whose ids are: special tokens, then the 256 byte
//! symbols, then one id per merge. Counting is `words`, the merge phase `merges`; this file checks the request and numbers
//! the tokens. BPE: Sennrich et al. 2016; byte level: Radford et al. 2019.

mod layout;
mod merges;
mod pairs;
pub mod prune;
mod queue;
mod replace;
pub mod report;
mod source;
mod store;
pub mod superword;

use std::collections::HashSet;

use merges::{MAX_BYTES, Request, learn};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use source::Words;

pub use store::Scratch;

pub use crate::words::{SortedWords, WordCounts, count, count_all};
use crate::{
    Parts, Special, Tokenizer, TokenizerError, bytes,
    split::{Split, Splitter},
};

/// The special tokens of the chat format, in the order of their ids; the first one ends a document.
pub const DEFAULT_SPECIAL_TOKENS: [&str; 5] = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"];

/// Which of two equally frequent pairs is merged first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ties {
    /// The smaller (left id, right id) where byte symbols are ordered by their printable stand-in: Hugging Face.
    #[default]
    Hf,
    /// The smaller (left id, right id) where byte symbols are ordered by byte value: rustbpe, bpeasy.
    Raw,
    /// The lexicographically greater (left bytes, right bytes): the Stanford CS336 handout.
    Greatest,
}

impl Ties {
    /// The bytes in the order of their ids inside the merge phase.
    fn byte_order(self) -> [u8; 256] {
        match self {
            Self::Raw => std::array::from_fn(|byte| byte as u8),
            Self::Hf | Self::Greatest => bytes::symbol_order(),
        }
    }
}

/// What to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerConfig {
    /// Number of ids: special tokens + 256 byte symbols + merges. Fewer if the text runs out of pairs.
    pub vocab_size: usize,
    /// How texts are cut before merging: "gpt2", "cl100k", "o200k", "llama3", or a regex.
    pub split: Split,
    /// Which of two equally frequent pairs is merged first: "hf", "raw" or "greatest".
    pub ties: Ties,
    /// Special tokens, in the order of their ids (0 and up). Must hold "<|endoftext|>", which ends a document; the chat
    /// format needs "<|user|>", "<|assistant|>", "<|system|>" and "<|end|>" as well.
    pub special_tokens: Vec<String>,
    /// Make every number character a piece of its own, so that numbers have one token per digit.
    pub single_digits: bool,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        Self {
            vocab_size: 32_768,
            split: Split::default(),
            ties: Ties::default(),
            special_tokens: DEFAULT_SPECIAL_TOKENS.map(str::to_owned).to_vec(),
            single_digits: false,
        }
    }
}

impl TokenizerConfig {
    /// The splitter that counting must use.
    pub fn splitter(&self) -> Result<Splitter, TokenizerError> {
        Ok(Splitter::new(&self.split, self.single_digits)?)
    }

    /// All that can be wrong before any text is seen.
    pub fn validate(&self) -> Result<(), TokenizerError> {
        self.splitter()?;
        let least = self.special_tokens.len() + 256;
        if self.vocab_size < least || self.vocab_size > crate::MAX_VOCAB {
            return Err(TokenizerError::VocabSize { vocab_size: self.vocab_size, least, most: crate::MAX_VOCAB });
        }
        let mut seen = HashSet::new();
        for token in &self.special_tokens {
            if token.chars().count() < 2 || !seen.insert(token) {
                return Err(TokenizerError::SpecialToken { token: token.clone() });
            }
        }
        if !self.special_tokens.iter().any(|token| token == crate::END_OF_TEXT) {
            return Err(TokenizerError::NoEndOfText);
        }
        Ok(())
    }
}

/// Trains on counted pieces. The result depends on the counts and the config alone. A merge never builds the text of a
/// special token (Hugging Face would give it the special id).
pub fn train(words: &WordCounts, config: &TokenizerConfig) -> Result<Tokenizer, TokenizerError> {
    train_on(words, config, None)
}

/// `train` on counts in a sorted file, with bounded memory: what does not fit goes into the scratch folder. The result is
/// that of `train` on the same counts.
pub fn train_sorted(
    words: &SortedWords,
    config: &TokenizerConfig,
    scratch: &Scratch,
) -> Result<Tokenizer, TokenizerError> {
    train_on(words, config, Some(scratch))
}

/// Bytes that the merge phase needs for each byte of unique pieces: cells and postings, of which about as many are written
/// again as there are at first.
const BYTES_PER_BYTE: usize = 12;

/// Bytes of all unique pieces with an edge each. Fails if they or their counts are too much for the merge phase.
fn check_words(words: &dyn Words) -> Result<usize, TokenizerError> {
    let (mut bytes_total, mut weight) = (0_usize, 0_u128);
    words.each(&mut |piece, count| {
        bytes_total += piece.len() + 1;
        weight += u128::from(count) * piece.len() as u128;
    })?;
    if bytes_total > MAX_BYTES {
        return Err(TokenizerError::TooManyWords { bytes: bytes_total, most: MAX_BYTES });
    }
    if weight > i64::MAX as u128 / 2 {
        return Err(TokenizerError::Words { what: "the counts add up to more than 2^62 bytes" });
    }
    Ok(bytes_total)
}

fn train_on(
    words: &dyn Words,
    config: &TokenizerConfig,
    scratch: Option<&Scratch>,
) -> Result<Tokenizer, TokenizerError> {
    config.validate()?;
    let bytes_total = check_words(words)?;
    let scratch = scratch.filter(|scratch| bytes_total * BYTES_PER_BYTE > scratch.memory_limit_bytes / 2);
    let n_special = config.special_tokens.len();
    let order = config.ties.byte_order();
    let forbidden = |bytes: &[u8]| config.special_tokens.iter().any(|token| token.as_bytes() == bytes);
    let n_symbols = config.vocab_size - n_special;
    let request = Request { order: &order, ties: config.ties, forbidden: &forbidden, n_symbols, base: &[] };
    let (merges, symbols) = learn(words, request, scratch)?;

    // Final ids: byte symbols always stand in Hugging Face's order, whatever order broke the ties.
    let mut place = [0_u32; 256];
    bytes::symbol_order().iter().enumerate().for_each(|(i, &byte)| place[usize::from(byte)] = i as u32);
    let id =
        |internal: u32| n_special as u32 + order.get(internal as usize).map_or(internal, |&b| place[usize::from(b)]);
    let mut tokens: Vec<Vec<u8>> = config.special_tokens.iter().map(|token| token.clone().into_bytes()).collect();
    tokens.extend(bytes::symbol_order().map(|byte| vec![byte]));
    tokens.extend((256..symbols.len() as u32).map(|internal| symbols.get(internal).to_vec()));
    let specials = config
        .special_tokens
        .iter()
        .enumerate()
        .map(|(i, text)| Special { text: text.clone(), id: i as u32 })
        .collect();
    Tokenizer::from_parts(Parts {
        splitter: config.splitter()?,
        tokens,
        specials,
        merges: merges.iter().map(|merge| (id(merge.left), id(merge.right), id(merge.token))).collect(),
        ignore_merges: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trained(text: &str, config: &TokenizerConfig) -> Tokenizer {
        let mut counts = WordCounts::new();
        count(text, &config.splitter().unwrap(), &mut counts);
        train(&counts, config).unwrap()
    }

    fn config(vocab_size: usize) -> TokenizerConfig {
        TokenizerConfig { vocab_size, ..TokenizerConfig::default() }
    }

    #[test]
    fn specials_come_first_then_bytes_then_merges() {
        let tokenizer = trained("low low low lower newest", &config(264));
        assert_eq!(tokenizer.vocab_size(), 264);
        assert_eq!(tokenizer.token_bytes(0), b"<|endoftext|>");
        assert_eq!(tokenizer.token_bytes(5), b"!");
        assert_eq!(tokenizer.token_bytes(261), b"lo");
        assert_eq!(tokenizer.token_bytes(262), b"low");
        assert_eq!(tokenizer.encode("low"), [262]);
    }

    #[test]
    fn tie_rules_choose_different_first_merges() {
        for (ties, first) in [(Ties::Hf, "42"), (Ties::Raw, "\u{1}\u{2}"), (Ties::Greatest, "yz")] {
            let config = TokenizerConfig { ties, split: Split::Gpt2, ..config(262) };
            let tokenizer = trained("yz42ab\u{1}\u{2}", &TokenizerConfig { split: r"..".parse().unwrap(), ..config });
            assert_eq!(tokenizer.token_bytes(261), first.as_bytes(), "{ties:?}");
        }
    }

    #[test]
    fn little_text_gives_a_small_vocabulary_and_no_text_gives_the_bytes() {
        assert_eq!(trained("", &config(1000)).vocab_size(), 261);
        assert_eq!(trained("a", &config(1000)).vocab_size(), 261);
        let tokenizer = trained("漢字", &config(1000));
        assert_eq!(tokenizer.vocab_size(), 266);
        assert_eq!(tokenizer.decode(&tokenizer.encode("漢字 x")), "漢字 x");
    }

    #[test]
    fn no_merge_builds_a_special_token() {
        let mut config = config(2000);
        config.special_tokens.push("aaaa".to_owned());
        config.split = ".+".parse().unwrap();
        let tokenizer = trained(&"aaaa<|end|>aaaaaaaa<|endoftext|>".repeat(9), &config);
        let ids = tokenizer.encode("aaaaaaaaaaaaaaaa<|end|><|endoftext|>");
        assert!(ids.iter().all(|&id| id >= 6), "{ids:?}");
    }

    #[test]
    fn a_sorted_file_and_scratch_files_give_the_tokenizer_of_the_table_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let text = include_str!("../fixtures/multilingual.txt");
        for (split, vocab_size) in [(Split::Cl100k, 2000), (r"\p{L}+|\s+".parse().unwrap(), 70_000)] {
            let config = TokenizerConfig { split, ..config(vocab_size) };
            let splitter = config.splitter().unwrap();
            let mut counter = crate::WordCounter::new(folder.path(), 100_000);
            text.lines().for_each(|line| counter.count(line, &splitter).unwrap());
            assert!(counter.runs() > 1);
            let words = counter.finish(&folder.path().join("counts")).unwrap();
            let expected = trained_on_lines(text, &config).to_json();
            for memory_limit_bytes in [0, usize::MAX] {
                let scratch = Scratch { folder: folder.path().to_owned(), memory_limit_bytes };
                assert_eq!(train_sorted(&words, &config, &scratch).unwrap().to_json(), expected);
            }
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }

    fn trained_on_lines(text: &str, config: &TokenizerConfig) -> Tokenizer {
        let lines: Vec<&str> = text.lines().collect();
        train(&count_all(&lines, &config.splitter().unwrap()), config).unwrap()
    }

    #[test]
    fn counts_that_could_overflow_are_refused() {
        let fault = |piece: &[u8], count| {
            let mut counts = WordCounts::new();
            counts.add(piece, count);
            counts.add(piece, count);
            train(&counts, &config(300)).unwrap_err().to_string()
        };
        assert!(fault(b"ab", u64::MAX / 2 + 1).contains("2^62"));
        assert!(fault(&[b'a'; 1 << 12], 1 << 50).contains("2^62"));
    }

    #[test]
    fn requests_that_cannot_be_met_are_refused_with_their_numbers() {
        let fault = |config: TokenizerConfig| train(&WordCounts::new(), &config).unwrap_err().to_string();
        assert!(fault(config(200)).contains("261"));
        assert!(fault(TokenizerConfig { special_tokens: vec![], ..config(300) }).contains("<|endoftext|>"));
        assert!(
            fault(TokenizerConfig { special_tokens: vec!["<|endoftext|>".into(); 2], ..config(300) }).contains("twice")
        );
    }

    #[test]
    fn the_config_reads_names_and_refuses_unknown_ones() {
        let read = |text: &str| serde_json::from_str::<TokenizerConfig>(text);
        let config =
            read(r#"{"vocab_size": 300, "split": "o200k", "ties": "greatest", "single_digits": true}"#).unwrap();
        assert_eq!((config.split, config.ties, config.single_digits), (Split::O200k, Ties::Greatest, true));
        assert_eq!(read("{}").unwrap(), TokenizerConfig::default());
        assert!(read(r#"{"split": "cl10k"}"#).unwrap_err().to_string().contains("known: gpt2"));
        assert!(read(r#"{"vocabsize": 3}"#).is_err());
    }
}
