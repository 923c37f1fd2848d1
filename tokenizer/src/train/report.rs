//! How well a tokenizer fits texts: rows to compare candidates by.
//!
//! In: texts with the group that each belongs to (a language, a domain). Out: one row per group with sums and their ratios,
//! and one row about the vocabulary: unused tokens and what happens to digits. Reports on parts of the texts can be joined in
//! any order. Words are what white space separates, so for scripts without spaces tokens per character say more.

use std::collections::BTreeMap;

use crate::{Encoder, Tokenizer};

/// Sums over the texts of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRow {
    /// Name of the group.
    pub group: String,
    /// Texts.
    pub documents: u64,
    /// Bytes of UTF-8.
    pub bytes: u64,
    /// Unicode scalar values.
    pub characters: u64,
    /// Stretches between white space.
    pub words: u64,
    /// Tokens, without special ones.
    pub tokens: u64,
}

impl GroupRow {
    /// Bytes per token, 1 and up, higher is shorter; `None` without tokens.
    pub fn bytes_per_token(&self) -> Option<f64> {
        ratio(self.bytes, self.tokens)
    }

    /// Tokens per character, above 0, lower is shorter; `None` without characters.
    pub fn tokens_per_character(&self) -> Option<f64> {
        ratio(self.tokens, self.characters)
    }

    /// Fertility: tokens per word, lower is shorter; 1 when every word is one token. `None` without words.
    pub fn fertility(&self) -> Option<f64> {
        ratio(self.tokens, self.words)
    }
}

fn ratio(a: u64, b: u64) -> Option<f64> {
    (b > 0).then(|| a as f64 / b as f64)
}

/// About the vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VocabularyRow {
    /// Ids.
    pub vocab_size: u64,
    /// Special tokens.
    pub special_tokens: u64,
    /// Ids that no text used, special tokens aside.
    pub unused: u64,
    /// Bytes of the longest token.
    pub longest_bytes: u64,
    /// Most numbers (Unicode N) side by side in one token: 1 means that numbers are read digit by digit.
    pub longest_number: u64,
    /// Tokens that reach over a space: letters, white space, letters.
    pub superwords: u64,
}

impl VocabularyRow {
    /// Does every digit have a token of its own?
    pub fn single_digits(&self) -> bool {
        self.longest_number <= 1
    }
}

/// Sums by group, and how often each id was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    groups: BTreeMap<String, GroupRow>,
    usage: Vec<u64>,
}

impl Report {
    /// No text measured. Every text must be measured with this tokenizer.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        Self { groups: BTreeMap::new(), usage: vec![0; tokenizer.vocab_size()] }
    }

    /// Measures one text. `ids` is room for its tokens.
    pub fn add(&mut self, encoder: &mut Encoder, group: &str, text: &str, ids: &mut Vec<u32>) {
        ids.clear();
        encoder.encode_into(text, ids);
        ids.iter().for_each(|&id| self.usage[id as usize] += 1);
        if !self.groups.contains_key(group) {
            self.groups.insert(group.to_owned(), GroupRow { group: group.to_owned(), ..GroupRow::default() });
        }
        let row = self.groups.get_mut(group).expect("the group was just put there");
        row.documents += 1;
        row.bytes += text.len() as u64;
        row.characters += text.chars().count() as u64;
        row.words += text.split_whitespace().count() as u64;
        row.tokens += ids.len() as u64;
    }

    /// Adds a report on other texts with the same tokenizer.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.usage.len(), other.usage.len(), "reports are joined because they are about one tokenizer");
        self.usage.iter_mut().zip(&other.usage).for_each(|(ours, theirs)| *ours += theirs);
        for (group, theirs) in &other.groups {
            let ours = self.groups.entry(group.clone()).or_default();
            *ours = GroupRow {
                group: group.clone(),
                documents: ours.documents + theirs.documents,
                bytes: ours.bytes + theirs.bytes,
                characters: ours.characters + theirs.characters,
                words: ours.words + theirs.words,
                tokens: ours.tokens + theirs.tokens,
            };
        }
    }

    /// One row per group, in the order of their names.
    pub fn rows(&self) -> impl Iterator<Item = &GroupRow> {
        self.groups.values()
    }

    /// How often each id was used.
    pub fn usage(&self) -> &[u64] {
        &self.usage
    }

    /// About the vocabulary.
    pub fn vocabulary(&self, tokenizer: &Tokenizer) -> VocabularyRow {
        let ids = (0..tokenizer.vocab_size() as u32).filter(|&id| !tokenizer.is_special(id));
        let mut row = VocabularyRow {
            vocab_size: tokenizer.vocab_size() as u64,
            special_tokens: tokenizer.special_tokens().count() as u64,
            unused: 0,
            longest_bytes: 0,
            longest_number: 0,
            superwords: 0,
        };
        for id in ids {
            let token = String::from_utf8_lossy(tokenizer.token_bytes(id));
            row.unused += u64::from(self.usage[id as usize] == 0);
            row.longest_bytes = row.longest_bytes.max(tokenizer.token_bytes(id).len() as u64);
            let numbers = token.split(|c: char| !c.is_numeric()).map(|run| run.chars().count() as u64).max();
            row.longest_number = row.longest_number.max(numbers.unwrap_or(0));
            let words = token.split_whitespace().filter(|word| word.contains(char::is_alphabetic)).count();
            row.superwords += u64::from(words > 1);
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TokenizerConfig, WordCounts, count, train};

    fn measured(tokenizer: &Tokenizer, texts: &[(&str, &str)]) -> Report {
        let (mut report, mut encoder, mut ids) = (Report::new(tokenizer), tokenizer.encoder(), Vec::new());
        texts.iter().for_each(|(group, text)| report.add(&mut encoder, group, text, &mut ids));
        report
    }

    #[test]
    fn sums_are_kept_by_group_whatever_the_parts() {
        let config = TokenizerConfig { vocab_size: 264, ..TokenizerConfig::default() };
        let mut counts = WordCounts::new();
        count("low low low", &config.splitter().unwrap(), &mut counts);
        let tokenizer = train(&counts, &config).unwrap(); // lo, low, " low"
        let texts = [("zh", "漢字"), ("en", "low low"), ("en", ""), ("en", "a\u{a0}1"), ("", " ")];
        let report = measured(&tokenizer, &texts);
        let rows: Vec<_> = report.rows().cloned().collect();
        let row = |group: &str, documents, bytes, characters, words, tokens| GroupRow {
            group: group.to_owned(),
            documents,
            bytes,
            characters,
            words,
            tokens,
        };
        assert_eq!(rows, [row("", 1, 1, 1, 0, 1), row("en", 3, 11, 10, 4, 6), row("zh", 1, 6, 2, 1, 6)]);
        assert_eq!(rows[1].bytes_per_token(), Some(11.0 / 6.0));
        assert_eq!(rows[1].fertility(), Some(1.5));
        assert_eq!(rows[2].tokens_per_character(), Some(3.0));
        assert_eq!((rows[0].fertility(), GroupRow::default().bytes_per_token()), (None, None));
        for cut in 0..=texts.len() {
            let mut joined = measured(&tokenizer, &texts[cut..]);
            joined.merge(&measured(&tokenizer, &texts[..cut]));
            assert_eq!(joined, report);
        }
        let row = report.vocabulary(&tokenizer);
        assert_eq!((row.vocab_size, row.special_tokens, row.longest_bytes, row.superwords), (264, 5, 4, 0));
        assert_eq!(row.unused, 259 - report.usage().iter().filter(|&&count| count > 0).count() as u64);
        assert!(row.single_digits());
    }

    #[test]
    fn the_policy_for_digits_shows_in_the_longest_number() {
        let text = "in 2024 and 2025, ２０ and ½";
        for (split, single_digits, longest) in [("cl100k", false, 3), ("gpt2", false, 4), ("cl100k", true, 1)] {
            let config = TokenizerConfig { split: split.parse().unwrap(), single_digits, ..TokenizerConfig::default() };
            let mut counts = WordCounts::new();
            count(text, &config.splitter().unwrap(), &mut counts);
            let tokenizer = train(&counts, &config).unwrap();
            assert_eq!(Report::new(&tokenizer).vocabulary(&tokenizer).longest_number, longest, "{split}");
        }
    }
}
