//! The quality rules: which there are, which a config asks for, and what a text measures.
//!
//! In: a `FilterConfig`, then texts. Out: rules in order of evaluation, and one number per rule and text. One pass takes the text
//! apart (`text`); each family of rules reads the same tokens. Measures are integers or one division of integers.
//! Leaves to `pipeline`: the decision (all rules are measured, the first that fails names the drop), `where`, and edits.
//! Sources and differences stand at the top of each family: `gopher` (Rae et al. 2021), `repetition` (the same, table A1),
//! `c4` (Raffel et al. 2020), `fineweb` (Penedo et al. 2024). Thresholds and directions are those of datatrove 0.10.1.
//! Measured in November 2026 against datatrove 0.10.1 with spaCy 3.8 on 438 documentation pages, markup stripped: equal decisions on
//! 438 for `fineweb_quality`, 437 for `c4`, 424 for `gopher_repetition` (underlines such as `=====` are one word here, many there)
//! and 417 for `gopher_quality` (the share of alphabetic words, near its threshold: the two split code differently).

mod c4;
mod fineweb;
mod gopher;
mod repetition;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::tokenize;

/// Which side of its threshold a rule keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Kept if the value is at least the threshold.
    AtLeast,
    /// Kept if the value is at most the threshold.
    AtMost,
}

/// A measure with its threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Family and measure, as in `gopher_quality.min_words`; also the name of its column.
    pub name: String,
    /// Which side is kept.
    pub direction: Direction,
    /// The threshold, in the measure's unit (a count, a length in characters, or a share).
    pub threshold: f64,
}

impl Rule {
    /// Whether a measured value is kept; the threshold itself is.
    pub fn keeps(&self, value: f64) -> bool {
        match self.direction {
            Direction::AtLeast => value >= self.threshold,
            Direction::AtMost => value <= self.threshold,
        }
    }
}

/// A rule that exists, with its default threshold.
#[derive(Clone, Copy, Debug)]
pub struct KnownRule {
    /// Family and measure.
    pub name: &'static str,
    /// Which side is kept.
    pub direction: Direction,
    /// Default threshold.
    pub threshold: f64,
    /// What is measured, with its unit.
    pub about: &'static str,
    measure: fn(&Measures) -> Option<f64>,
}

/// Which rules a filter applies and with which thresholds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FilterConfig {
    /// A named set of rules: `gopher_repetition`, `gopher_quality`, `c4`, `fineweb_quality`, or `fineweb` for all four in this
    /// order.
    pub recipe: Option<String>,
    /// Thresholds by rule name, such as `"gopher_quality.min_words" = 100`: a rule of the recipe gets this threshold in its place,
    /// any other known rule is added after the recipe, in order of name.
    pub rules: BTreeMap<String, f64>,
    /// Whose defaults apply where sources disagree: `datatrove` (default) or `paper` (`fineweb_quality.duplicate_line_chars` up to
    /// 0.1 and no `fineweb_quality.newlines_per_word`, as in the FineWeb paper).
    pub dialect: Option<String>,
    /// A condition in SQL over columns and measures; a document is kept only if it holds. Each conjunct is a rule of its own.
    pub r#where: Option<String>,
}

/// What can be wrong with a `FilterConfig`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RuleError {
    /// A rule that does not exist.
    #[error("unknown rule `{name}`; did you mean `{nearest}`?")]
    UnknownRule {
        /// The name asked for.
        name: String,
        /// The known rule that is nearest to it.
        nearest: &'static str,
    },
    /// A recipe that does not exist.
    #[error("unknown recipe `{name}` (known: {}); did you mean `{nearest}`?", known_recipes().join(", "))]
    UnknownRecipe {
        /// The name asked for.
        name: String,
        /// The known recipe that is nearest to it.
        nearest: &'static str,
    },
    /// A dialect that does not exist.
    #[error("unknown dialect `{name}` (known: datatrove, paper)")]
    UnknownDialect {
        /// The name asked for.
        name: String,
    },
    /// A threshold that nothing can be compared with.
    #[error("the threshold of `{name}` is {threshold}: it must be a finite number")]
    Threshold {
        /// The rule.
        name: String,
        /// The threshold given.
        threshold: f64,
    },
    /// Neither a recipe nor rules nor a condition.
    #[error("the filter has nothing to do: give `recipe`, `rules` or `where`")]
    Nothing,
}

macro_rules! known {
    ($($name:literal $direction:ident $threshold:literal $about:literal $measure:expr;)*) => {
        &[$(KnownRule { name: $name, direction: Direction::$direction, threshold: $threshold, about: $about, measure: $measure }),*]
    };
}

/// All rules, in the order in which the recipe `fineweb` evaluates them; `c4.min_long_lines` is in no recipe.
const KNOWN: &[KnownRule] = known![
    "gopher_repetition.duplicate_paragraphs" AtMost 0.30 "paragraphs that equal an earlier one, of all paragraphs" |m| m.repetition.as_ref()?.paragraphs.value();
    "gopher_repetition.duplicate_paragraph_chars" AtMost 0.20 "characters in such paragraphs, of all characters" |m| m.repetition.as_ref()?.paragraph_chars.value();
    "gopher_repetition.duplicate_lines" AtMost 0.30 "lines that equal an earlier one, of all lines that are not empty" |m| m.repetition.as_ref()?.lines.value();
    "gopher_repetition.duplicate_line_chars" AtMost 0.20 "characters in such lines, of all characters" |m| m.repetition.as_ref()?.line_chars.value();
    "gopher_repetition.top_2_gram_chars" AtMost 0.20 "characters in the most frequent pair of words, of all characters" |m| m.repetition.as_ref()?.top[0].value();
    "gopher_repetition.top_3_gram_chars" AtMost 0.18 "characters in the most frequent 3-gram, of all characters" |m| m.repetition.as_ref()?.top[1].value();
    "gopher_repetition.top_4_gram_chars" AtMost 0.16 "characters in the most frequent 4-gram, of all characters" |m| m.repetition.as_ref()?.top[2].value();
    "gopher_repetition.duplicate_5_gram_chars" AtMost 0.15 "characters in 5-grams seen before, of all characters" |m| m.repetition.as_ref()?.duplicated[0].value();
    "gopher_repetition.duplicate_6_gram_chars" AtMost 0.14 "characters in 6-grams seen before, of all characters" |m| m.repetition.as_ref()?.duplicated[1].value();
    "gopher_repetition.duplicate_7_gram_chars" AtMost 0.13 "characters in 7-grams seen before, of all characters" |m| m.repetition.as_ref()?.duplicated[2].value();
    "gopher_repetition.duplicate_8_gram_chars" AtMost 0.12 "characters in 8-grams seen before, of all characters" |m| m.repetition.as_ref()?.duplicated[3].value();
    "gopher_repetition.duplicate_9_gram_chars" AtMost 0.11 "characters in 9-grams seen before, of all characters" |m| m.repetition.as_ref()?.duplicated[4].value();
    "gopher_repetition.duplicate_10_gram_chars" AtMost 0.10 "characters in 10-grams seen before, of all characters" |m| m.repetition.as_ref()?.duplicated[5].value();
    "gopher_quality.min_words" AtLeast 50.0 "words that are not symbols" |m| Some(m.quality.as_ref()?.words as f64);
    "gopher_quality.max_words" AtMost 100_000.0 "words that are not symbols" |m| Some(m.quality.as_ref()?.words as f64);
    "gopher_quality.min_mean_word_length" AtLeast 3.0 "mean length of such words, in characters" |m| m.quality.as_ref()?.word_chars.value();
    "gopher_quality.max_mean_word_length" AtMost 10.0 "mean length of such words, in characters" |m| m.quality.as_ref()?.word_chars.value();
    "gopher_quality.hashes_per_word" AtMost 0.1 "number signs per word" |m| m.quality.as_ref()?.hashes.value();
    "gopher_quality.ellipses_per_word" AtMost 0.1 "ellipses per word" |m| m.quality.as_ref()?.ellipses.value();
    "gopher_quality.bullet_lines" AtMost 0.9 "lines that begin with a bullet, of all lines" |m| m.quality.as_ref()?.bullet_lines.value();
    "gopher_quality.ellipsis_lines" AtMost 0.3 "lines that end with an ellipsis, of all lines" |m| m.quality.as_ref()?.ellipsis_lines.value();
    "gopher_quality.alphabetic_words" AtLeast 0.8 "words with a letter, of all words" |m| m.quality.as_ref()?.alphabetic.value();
    "gopher_quality.stop_words" AtLeast 2.0 "of the 8 English stop words, those that occur" |m| Some(m.quality.as_ref()?.stop_words as f64);
    "c4.lorem_ipsum" AtMost 0.0 "surviving lines with \"lorem ipsum\"" |m| Some(m.c4.as_ref()?.lorem_ipsum as f64);
    "c4.curly_bracket" AtMost 0.0 "surviving lines with a curly bracket" |m| Some(m.c4.as_ref()?.curly_bracket as f64);
    "c4.min_sentences" AtLeast 5.0 "sentences in surviving lines" |m| Some(m.c4.as_ref()?.sentences as f64);
    "c4.min_long_lines" AtLeast 3.0 "lines of at least 200 characters (mC4)" |m| Some(m.c4.as_ref()?.long_lines as f64);
    "fineweb_quality.terminal_punctuation_lines" AtLeast 0.12 "lines that end in terminal punctuation, of all lines that are not blank" |m| m.fineweb.as_ref()?.terminal_lines.value();
    "fineweb_quality.short_lines" AtMost 0.67 "lines of at most 30 characters, of all lines that are not blank" |m| m.fineweb.as_ref()?.short_lines.value();
    "fineweb_quality.duplicate_line_chars" AtMost 0.01 "characters in lines that equal an earlier one, of all but line feeds" |m| m.fineweb.as_ref()?.duplicate_chars.value();
    "fineweb_quality.newlines_per_word" AtMost 0.3 "line feeds per word" |m| m.fineweb.as_ref()?.newlines.value();
];

const RECIPES: &[&str] = &["fineweb", "gopher_repetition", "gopher_quality", "c4", "fineweb_quality"];
/// Known, but part of no recipe: mC4 asked for it, FineWeb does not.
const IN_NO_RECIPE: &str = "c4.min_long_lines";

/// All rules with their defaults, in order of evaluation.
pub fn known_rules() -> &'static [KnownRule] {
    KNOWN
}

/// The names of all recipes.
pub fn known_recipes() -> &'static [&'static str] {
    RECIPES
}

/// The rules that a config asks for, in order of evaluation: the recipe's, then the added ones by name.
pub fn resolve(config: &FilterConfig) -> Result<Vec<Rule>, RuleError> {
    if config.recipe.is_none() && config.rules.is_empty() && config.r#where.is_none() {
        return Err(RuleError::Nothing);
    }
    let paper = match config.dialect.as_deref() {
        None | Some("datatrove") => false,
        Some("paper") => true,
        Some(name) => return Err(RuleError::UnknownDialect { name: name.to_owned() }),
    };
    let mut rules: Vec<Rule> = Vec::new();
    if let Some(recipe) = config.recipe.as_deref() {
        if !RECIPES.contains(&recipe) {
            return Err(RuleError::UnknownRecipe {
                name: recipe.to_owned(),
                nearest: nearest(recipe, RECIPES.iter().copied()),
            });
        }
        rules.extend(KNOWN.iter().filter(|rule| is_in(rule.name, recipe, paper)).map(|rule| rule_of(rule, paper)));
    }
    for (name, &threshold) in &config.rules {
        if !threshold.is_finite() {
            return Err(RuleError::Threshold { name: name.clone(), threshold });
        }
        let Some(known) = find(name) else {
            return Err(RuleError::UnknownRule {
                name: name.clone(),
                nearest: nearest(name, KNOWN.iter().map(|rule| rule.name)),
            });
        };
        match rules.iter_mut().find(|rule| rule.name == *name) {
            Some(rule) => rule.threshold = threshold,
            None => rules.push(Rule { threshold, ..rule_of(known, paper) }),
        }
    }
    Ok(rules)
}

fn is_in(rule: &str, recipe: &str, paper: bool) -> bool {
    let family = rule.split('.').next().unwrap_or(rule);
    let left_out = rule == IN_NO_RECIPE || (paper && rule == "fineweb_quality.newlines_per_word");
    (recipe == "fineweb" || recipe == family) && !left_out
}

fn rule_of(known: &KnownRule, paper: bool) -> Rule {
    let raised = paper && known.name == "fineweb_quality.duplicate_line_chars";
    let threshold = if raised { 0.1 } else { known.threshold };
    Rule { name: known.name.to_owned(), direction: known.direction, threshold }
}

fn find(name: &str) -> Option<&'static KnownRule> {
    KNOWN.iter().find(|rule| rule.name == name)
}

/// The name with the fewest edits from `name`; of a bare measure, the distance to the part after the dot counts too.
fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> &'static str {
    let distance = |known: &str| {
        let measure = known.rsplit('.').next().unwrap_or(known);
        edits(name, known).min(edits(name, measure))
    };
    known.min_by_key(|known| distance(known)).unwrap_or("")
}

/// Levenshtein distance in characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The families that were measured.
#[derive(Default)]
struct Measures {
    repetition: Option<repetition::Repetition>,
    quality: Option<gopher::Quality>,
    c4: Option<c4::C4>,
    fineweb: Option<fineweb::FineWeb>,
}

/// Measures a text for every rule: `out[i]` is the value for `rules[i]`, `None` where it cannot be computed (a share of nothing,
/// or a rule that is not known). The text is taken apart once, and only families that are asked for are measured.
///
/// # Panics
/// If `rules` and `out` differ in length.
pub fn measure(text: &str, rules: &[Rule], out: &mut [Option<f64>]) {
    assert_eq!(rules.len(), out.len(), "one value per rule");
    let tokens = tokenize(text);
    let asked = |family: &str| rules.iter().any(|rule| rule.name.starts_with(family));
    let measures = Measures {
        repetition: asked("gopher_repetition.").then(|| repetition::measure(text, &tokens)),
        quality: asked("gopher_quality.").then(|| gopher::measure(text, &tokens)),
        c4: asked("c4.").then(|| c4::measure(text, &tokens)),
        fineweb: asked("fineweb_quality.").then(|| fineweb::measure(text, &tokens)),
    };
    for (rule, value) in rules.iter().zip(out) {
        *value = find(&rule.name).and_then(|known| (known.measure)(&measures));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(name: &str) -> FilterConfig {
        FilterConfig { recipe: Some(name.to_owned()), ..Default::default() }
    }

    fn with(rules: &[(&str, f64)]) -> BTreeMap<String, f64> {
        rules.iter().map(|(name, threshold)| ((*name).to_owned(), *threshold)).collect()
    }

    fn failed(text: &str, config: &FilterConfig) -> Vec<String> {
        let rules = resolve(config).expect("the config is right");
        let mut values = vec![None; rules.len()];
        measure(text, &rules, &mut values);
        let fails = |(rule, value): &(&Rule, &Option<f64>)| value.is_some_and(|value| !rule.keeps(value));
        rules.iter().zip(&values).filter(fails).map(|(rule, _)| rule.name.clone()).collect()
    }

    #[test]
    fn the_fineweb_recipe_is_its_four_families_in_order() {
        let all: Vec<String> = resolve(&recipe("fineweb")).expect("known").into_iter().map(|rule| rule.name).collect();
        let parts: Vec<String> = ["gopher_repetition", "gopher_quality", "c4", "fineweb_quality"]
            .into_iter()
            .flat_map(|name| resolve(&recipe(name)).expect("known"))
            .map(|rule| rule.name)
            .collect();
        assert_eq!(all, parts);
        assert_eq!(all.len(), KNOWN.len() - 1);
    }

    #[test]
    fn thresholds_replace_those_of_the_recipe_in_place_and_other_rules_follow_by_name() {
        let config = FilterConfig {
            rules: with(&[("gopher_quality.max_words", 9.0), ("c4.min_sentences", 2.0), ("c4.lorem_ipsum", 1.0)]),
            ..recipe("gopher_quality")
        };
        let rules = resolve(&config).expect("known");
        assert_eq!((rules[1].name.as_str(), rules[1].threshold), ("gopher_quality.max_words", 9.0));
        let last: Vec<&str> = rules[rules.len() - 2..].iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(last, ["c4.lorem_ipsum", "c4.min_sentences"]);
        assert_eq!(rules[rules.len() - 1].direction, Direction::AtLeast);
    }

    #[test]
    fn wrong_configs_are_errors_that_name_the_nearest() {
        let unknown = FilterConfig { rules: with(&[("gopher_quality.min_word", 1.0)]), ..Default::default() };
        let error = resolve(&unknown).expect_err("no such rule");
        assert!(matches!(error, RuleError::UnknownRule { nearest: "gopher_quality.min_words", .. }), "{error}");
        let bare = FilterConfig { rules: with(&[("min_words", 1.0)]), ..Default::default() };
        assert!(matches!(resolve(&bare), Err(RuleError::UnknownRule { nearest: "gopher_quality.min_words", .. })));
        let error = resolve(&recipe("finewb")).expect_err("no such recipe");
        assert!(matches!(error, RuleError::UnknownRecipe { nearest: "fineweb", .. }), "{error}");
        let dialect = FilterConfig { dialect: Some("nemo".to_owned()), ..recipe("c4") };
        assert!(matches!(resolve(&dialect), Err(RuleError::UnknownDialect { .. })));
        let infinite = FilterConfig { rules: with(&[("c4.min_sentences", f64::NAN)]), ..Default::default() };
        assert!(matches!(resolve(&infinite), Err(RuleError::Threshold { .. })));
        assert_eq!(resolve(&FilterConfig::default()), Err(RuleError::Nothing));
    }

    #[test]
    fn a_condition_alone_is_a_filter_without_rules() {
        let config = FilterConfig { r#where: Some("language = 'en'".to_owned()), ..Default::default() };
        assert_eq!(resolve(&config), Ok(Vec::new()));
    }

    #[test]
    fn the_paper_dialect_keeps_more_duplicated_lines() {
        let paper =
            resolve(&FilterConfig { dialect: Some("paper".to_owned()), ..recipe("fineweb_quality") }).expect("known");
        assert_eq!(paper.len(), 3);
        assert_eq!(paper[2].threshold, 0.1);
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
        let config = FilterConfig { rules: with(&[(IN_NO_RECIPE, 3.0)]), ..recipe("fineweb") };
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
}
