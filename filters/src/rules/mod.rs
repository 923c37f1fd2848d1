//! The quality rules: which there are, which a config asks for, and what a text measures.
//!
//! In: a `FilterConfig` and the lists that it names, then documents. Out: rules in order of evaluation, and one number per rule and
//! document. One pass takes the text apart (`text`); each family of rules reads the same tokens. Measures are integers or one
//! division of integers. Leaves to `pipeline`: the decision (all rules are measured, the first that fails names the drop) and
//! `where`; to `edit`: what changes a text.
//! Sources and differences stand at the top of each family: `gopher` (Rae et al. 2021), `repetition` (the same, table A1),
//! `c4` (Raffel et al. 2020), `fineweb` (Penedo et al. 2024), `refinedweb` (Penedo et al. 2023). Given datatrove's words and sentences,
//! decisions are datatrove's; with our own they agree as `tests/parity/rules.md` says.

pub(crate) mod c4;
mod config;
mod fineweb;
mod gopher;
mod known;
mod lists;
#[cfg(test)]
mod parity;
pub(crate) mod refinedweb;
mod repetition;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::text::{Tokens, tokenize};
use crate::url::UrlFound;

pub use config::{FilterConfig, LanguageRules, ListFiles, RuleError, Ruleset, faults, resolve, resolve_languages};
use gopher::StopWords;
pub use known::{Direction, KnownRule, Rule, known_recipes, known_rules};
use known::{Family, find};
pub use lists::{BadWords, Lists};
use repetition::Share;

/// What rules look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Document<'a> {
    /// The text.
    pub text: &'a str,
    /// Where it comes from, for the rules `url.*`.
    pub url: Option<&'a str>,
    /// Its language's code, which chooses thresholds, stop words and bad words.
    pub language: Option<&'a str>,
}

/// The families that were measured.
#[derive(Default)]
pub(crate) struct Measures {
    repetition: Option<repetition::Repetition>,
    quality: Option<gopher::Quality>,
    c4: Option<c4::C4>,
    fineweb: Option<fineweb::FineWeb>,
    refinedweb: Option<Share>,
    bad_words: Option<usize>,
    url: Option<UrlFound>,
    bits_per_byte: Option<f64>,
}

/// Measures documents for the rules of one config.
pub struct Measurer {
    ruleset: Ruleset,
    known: Vec<&'static KnownRule>,
    /// In the order of their first rule.
    families: Vec<Family>,
    english: StopWords,
    stop_words: BTreeMap<String, StopWords>,
    lists: Lists,
}

impl Measurer {
    /// Checks that every list the config names is there.
    pub fn new(config: &FilterConfig, lists: Lists) -> Result<Self, RuleError> {
        lists.check(&config.lists)?;
        let own = config.languages.iter().filter(|(_, language)| !language.stop_words.is_empty());
        let stop_words = own
            .map(|(code, language)| (code.clone(), StopWords::new(language.stop_words.iter().map(String::as_str))))
            .collect();
        Ok(Self { stop_words, lists, ..Self::of_ruleset(resolve_languages(config)?) })
    }

    fn of_ruleset(ruleset: Ruleset) -> Self {
        let known: Vec<&KnownRule> = ruleset.rules.iter().filter_map(|rule| find(&rule.name)).collect();
        let mut families = Vec::new();
        for rule in &known {
            if !families.contains(&rule.family) {
                families.push(rule.family);
            }
        }
        let (english, stop_words) = (StopWords::english(), BTreeMap::new());
        Self { ruleset, known, families, english, stop_words, lists: Lists::default() }
    }

    /// The rules, in order; the thresholds are those of documents without a language.
    pub fn rules(&self) -> &[Rule] {
        &self.ruleset.rules
    }

    /// The same rules with the thresholds of a language.
    pub fn rules_of(&self, language: Option<&str>) -> &[Rule] {
        self.ruleset.of(language)
    }

    /// Measures a document for every rule: `out[i]` is the value for `rules()[i]`, `None` where it cannot be computed (a share of
    /// nothing, no URL, no list for the language). The text is taken apart once.
    ///
    /// # Panics
    /// If `out` has not one value for each rule.
    pub fn measure(&self, document: &Document<'_>, out: &mut [Option<f64>]) {
        self.measure_tokens(document, &tokenize(document.text), out);
    }

    /// As `measure`, with words and sentences that somebody else found in the text (byte ranges in order).
    pub fn measure_given(
        &self,
        document: &Document<'_>,
        words: &[Range<usize>],
        sentences: &[Range<usize>],
        out: &mut [Option<f64>],
    ) {
        self.measure_tokens(document, &Tokens::given(document.text, words, sentences), out);
    }

    fn measure_tokens(&self, document: &Document<'_>, tokens: &Tokens, out: &mut [Option<f64>]) {
        assert_eq!(self.known.len(), out.len(), "one value per rule");
        let mut measures = Measures::default();
        for &family in &self.families {
            self.measure_family(family, document, tokens, &mut measures);
        }
        for (known, value) in self.known.iter().zip(out) {
            *value = (known.measure)(&measures);
        }
    }

    fn measure_family(&self, family: Family, document: &Document<'_>, tokens: &Tokens, measures: &mut Measures) {
        let text = document.text;
        match family {
            Family::Repetition => measures.repetition = Some(repetition::measure(text, tokens)),
            Family::Quality => {
                let own = document.language.and_then(|code| self.stop_words.get(code));
                measures.quality = Some(gopher::measure(text, tokens, own.unwrap_or(&self.english)));
            }
            Family::C4 => measures.c4 = Some(c4::measure(text, tokens)),
            Family::FineWeb => measures.fineweb = Some(fineweb::measure(text, tokens)),
            Family::RefinedWeb => measures.refinedweb = Some(refinedweb::measure(text, tokens)),
            Family::BadWords => {
                measures.bad_words = self.lists.bad_words(document.language).map(|list| list.count(text))
            }
            Family::Url => measures.url = document.url.map(|url| self.lists.url.look_up(url)),
            Family::Perplexity => {
                measures.bits_per_byte = self.lists.perplexity.as_ref().and_then(|model| model.bits_per_byte(text));
            }
        }
    }

    /// The first rule that a document misses. Families after it are not measured: what `measure` costs more is the price of
    /// knowing all of them.
    pub fn first_missed(&self, document: &Document<'_>) -> Option<&Rule> {
        let tokens = tokenize(document.text);
        let (mut measures, mut measured) = (Measures::default(), Vec::new());
        self.rules_of(document.language).iter().zip(&self.known).find_map(|(rule, known)| {
            if !measured.contains(&known.family) {
                measured.push(known.family);
                self.measure_family(known.family, document, &tokens, &mut measures);
            }
            (known.measure)(&measures).filter(|&value| !rule.keeps(value)).map(|_| rule)
        })
    }
}

/// Measures a text for rules that need neither lists nor a language: `out[i]` is the value for `rules[i]`, `None` where it cannot be
/// computed. For many texts make a `Measurer`.
///
/// # Panics
/// If `rules` and `out` differ in length.
pub fn measure(text: &str, rules: &[Rule], out: &mut [Option<f64>]) {
    assert_eq!(rules.len(), out.len(), "one value per rule");
    let known: Vec<Rule> = rules.iter().filter(|rule| find(&rule.name).is_some()).cloned().collect();
    let mut values = vec![None; known.len()];
    let measurer = Measurer::of_ruleset(Ruleset { rules: known, languages: BTreeMap::new() });
    measurer.measure(&Document { text, ..Document::default() }, &mut values);
    let mut values = measurer.rules().iter().zip(values).peekable();
    for (rule, out) in rules.iter().zip(out) {
        *out = values.next_if(|(known, _)| known.name == rule.name).and_then(|(_, value)| value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(name: &str) -> FilterConfig {
        FilterConfig { recipe: Some(name.to_owned()), ..Default::default() }
    }

    fn failed(text: &str, config: &FilterConfig) -> Vec<String> {
        let rules = resolve(config).expect("the config is right");
        let mut values = vec![None; rules.len()];
        measure(text, &rules, &mut values);
        let fails = |(rule, value): &(&Rule, &Option<f64>)| value.is_some_and(|value| !rule.keeps(value));
        rules.iter().zip(&values).filter(fails).map(|(rule, _)| rule.name.clone()).collect()
    }

    #[test]
    fn prose_passes_every_rule_and_a_menu_fails_many() {
        let prose = "The history of the town begins with a bridge that the monks built over the river. \
            They had crossed it by boat until a flood took two of them. Nobody knows who paid for the stone. \
            What is known is that the toll made the abbey rich, and that the market followed the toll.\n\
            A century later the bridge was the centre of everything. Merchants came from far away to sell wool and salt. \
            The bishop, who wanted a share, sent letters which have survived. They are not polite.";
        assert_eq!(failed(prose, &recipe("fineweb")), Vec::<String>::new());
        let menu = "Home\nAbout\nHome\nAbout\nHome\n";
        let failed = failed(menu, &recipe("fineweb"));
        for rule in [
            "gopher_quality.min_words",
            "gopher_repetition.duplicate_lines",
            "fineweb_quality.short_lines",
            "c4.min_sentences",
        ] {
            assert!(failed.iter().any(|name| name == rule), "{rule} {failed:?}");
        }
    }

    #[test]
    fn every_rule_measures_every_text_without_panicking() {
        let config = FilterConfig {
            rules: BTreeMap::from(
                [("c4.min_long_lines", 3.0), ("refinedweb.removed_words", 0.1)]
                    .map(|(name, least)| (name.to_owned(), least)),
            ),
            ..recipe("fineweb")
        };
        let rules = resolve(&config).expect("known");
        let mut values = vec![None; rules.len()];
        measure("", &rules, &mut values);
        assert_eq!(values[0], None);
        assert_eq!(values.iter().flatten().copied().fold(0.0, f64::max), 0.0, "counts of an empty text are 0");
        for text in
            ["word", "\r\n\r\n", "我们都在这里。\n我们都在这里。", "😀", "\u{301}", "a\u{0}b", "।।।", "x://", "x://…"]
        {
            measure(text, &rules, &mut values);
            assert!(values.iter().flatten().all(|value| value.is_finite() && *value >= 0.0), "{text:?} {values:?}");
        }
    }

    #[test]
    fn the_first_missed_rule_is_the_first_of_all_missed() {
        let measurer = Measurer::new(&recipe("fineweb"), Lists::default()).expect("known");
        for text in ["", "word", "Home\nAbout\nHome\n", "我们都在这里。\n我们都在这里。"] {
            let document = Document { text, ..Document::default() };
            let first = measurer.first_missed(&document).map(|rule| rule.name.clone());
            assert_eq!(first, failed(text, &recipe("fineweb")).first().cloned(), "{text:?}");
        }
    }

    #[test]
    fn lists_languages_and_urls_reach_their_rules() {
        let mut config = recipe("gopher_quality");
        config.lists.bad_words.insert("de".to_owned(), "de.txt".to_owned());
        config.lists.domains = Some("domains.txt".to_owned());
        let stop_words = vec!["und".to_owned(), "der".to_owned()];
        config.languages.insert("de".to_owned(), LanguageRules { stop_words, ..Default::default() });
        assert!(matches!(Measurer::new(&config, Lists::default()), Err(RuleError::List { .. })));
        let mut lists = Lists::default();
        lists.add("bad_words.de", b"# list\nmist\n").expect("a list");
        lists.add("domains", b"example.org\n").expect("a list");
        let measurer = Measurer::new(&config, lists).expect("all lists are there");
        let mut out = vec![None; measurer.rules().len()];
        let mut of = |language, url| -> Vec<Option<f64>> {
            measurer.measure(&Document { text: "der Mist und der Rest", url, language }, &mut out);
            let value = |name: &str| measurer.rules().iter().position(|rule| rule.name == name).and_then(|at| out[at]);
            ["gopher_quality.stop_words", "c4.bad_words", "url.domains"].map(value).to_vec()
        };
        assert_eq!(of(Some("de"), Some("http://www.example.org/")), [Some(2.0), Some(1.0), Some(1.0)]);
        assert_eq!(of(Some("fr"), Some("http://example.com/")), [Some(0.0), None, Some(0.0)]);
        assert_eq!(of(None, None), [Some(0.0), None, None]);
    }
}
