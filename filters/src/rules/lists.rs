//! Lists that rules look into, loaded by the caller.
//!
//! In: the bytes of each file and the option that named it. Out: what `Measurer` asks: bad words per language, the lists for URLs, a
//! language model. Bad words are C4's (Raffel et al. 2020, section 2.2) as datatrove 0.10.1 looks for them: in lower case, between
//! characters that are no letters, digits or underscores, anywhere in Japanese, Thai and Chinese; four words that are common parts of
//! Japanese and Chinese words are never bad. We differ: a language without a list is not measured, datatrove refuses it; no share of
//! hits is kept at random.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aho_corasick::AhoCorasick;

use super::{ListFiles, RuleError};
use crate::perplexity::Model;
use crate::url::UrlLists;

/// What a filter's `lists` name.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    /// By language code.
    pub bad_words: BTreeMap<String, BadWords>,
    /// For the rules `url.*`.
    pub url: UrlLists,
    /// For `perplexity.bits_per_byte`.
    pub perplexity: Option<Arc<Model>>,
    added: BTreeSet<String>,
}

impl Lists {
    /// Adds the contents of one file of `ListFiles::files`, by the name it has there.
    pub fn add(&mut self, name: &str, contents: &[u8]) -> Result<(), RuleError> {
        let wrong = |reason: String| RuleError::List { list: name.to_owned(), reason };
        self.added.insert(name.to_owned());
        if name == "perplexity_model" {
            self.perplexity = Some(Arc::new(Model::load(contents).map_err(|error| wrong(error.to_string()))?));
            return Ok(());
        }
        let text = std::str::from_utf8(contents).map_err(|error| wrong(format!("not UTF-8: {error}")))?;
        let entries = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        if let Some(language) = name.strip_prefix("bad_words.") {
            let words = BadWords::new(language, entries).map_err(wrong)?;
            self.bad_words.insert(language.to_owned(), words);
            return Ok(());
        }
        if self.url.add(name, entries) { Ok(()) } else { Err(wrong("no such list".to_owned())) }
    }

    /// The list for a language; English if there is none.
    pub(super) fn bad_words(&self, language: Option<&str>) -> Option<&BadWords> {
        self.bad_words.get(language.unwrap_or("en"))
    }

    pub(super) fn check(&self, files: &ListFiles) -> Result<(), RuleError> {
        match files.files().into_iter().find(|(name, _)| !self.added.contains(name)) {
            None => Ok(()),
            Some((list, file)) => Err(RuleError::List { list, reason: format!("{file} was not read") }),
        }
    }
}

/// Words that no page of C4 has.
#[derive(Clone, Debug)]
pub struct BadWords {
    finder: AhoCorasick,
    /// Whether a word may stand inside of another.
    anywhere: bool,
}

/// Listed, but common parts of harmless words in languages without spaces.
const ALLOWED: [&str; 4] = ["sm", "グロ", "女の子", "性"];

impl BadWords {
    /// The words or phrases of one language.
    pub fn new<'a>(language: &str, words: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let words = words.into_iter().filter(|word| !word.is_empty() && !ALLOWED.contains(word));
        let finder = AhoCorasick::new(words).map_err(|error| error.to_string())?;
        Ok(Self { finder, anywhere: matches!(language, "ja" | "th" | "zh") })
    }

    /// How many there are in a text; words inside of longer ones on the list count too.
    pub fn count(&self, text: &str) -> usize {
        let lower = text.to_lowercase();
        let is_word = |c: &char| c.is_alphanumeric() || *c == '_';
        let stands_alone = |start: usize, end: usize| {
            !lower[..start].chars().next_back().is_some_and(|c| is_word(&c))
                && !lower[end..].chars().next().is_some_and(|c| is_word(&c))
        };
        let hits = self.finder.find_overlapping_iter(&lower);
        hits.filter(|hit| self.anywhere || stands_alone(hit.start(), hit.end())).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_words_stand_alone_in_languages_with_spaces() {
        let list = BadWords::new("en", ["ass", "bad phrase"]).expect("two words");
        for (text, count) in
            [("", 0), ("ass", 1), ("class", 0), ("An ASS, a_ass; bad phrase!", 2), ("badphrase", 0), ("日本ass語", 0)]
        {
            assert_eq!(list.count(text), count, "{text}");
        }
        let japanese = BadWords::new("ja", ["悪い", "性"]).expect("two words");
        assert_eq!(japanese.count("とても悪い言葉と性"), 1);
    }

    #[test]
    fn lists_are_read_line_by_line_and_wrong_ones_are_errors() {
        let mut lists = Lists::default();
        assert!(lists.add("nothing", b"a").is_err());
        assert!(lists.add("domains", b"\xFF").is_err());
        assert!(lists.add("perplexity_model", b"no model").is_err());
        lists.add("bad_words.en", b"# comment\n\n bad \r\n").expect("a list");
        assert_eq!(lists.bad_words(None).map(|list| list.count("a bad one")), Some(1));
        assert!(lists.bad_words(Some("fr")).is_none());
    }
}
