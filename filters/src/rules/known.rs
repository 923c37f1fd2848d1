//! Which rules there are, what each measures, and which recipe asks for which.
//!
//! In: nothing. Out: the table of rules in order of evaluation, and recipes over it. Thresholds and directions are those of
//! datatrove 0.10.1 where it has the rule, else of the paper named at the top of the family's file.

use super::Measures;

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
    pub(super) family: Family,
    pub(super) measure: fn(&Measures) -> Option<f64>,
}

/// What is measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Repetition,
    Quality,
    C4,
    FineWeb,
    RefinedWeb,
    BadWords,
    Url,
    Perplexity,
}

macro_rules! known {
    ($($family:ident $name:literal $direction:ident $threshold:literal $about:literal $measure:expr;)*) => {
        &[$(KnownRule {
            name: $name,
            direction: Direction::$direction,
            threshold: $threshold,
            about: $about,
            family: Family::$family,
            measure: $measure,
        }),*]
    };
}

/// All rules, in the order in which the recipe `fineweb` evaluates them.
pub(super) const KNOWN: &[KnownRule] = known![
    Repetition "gopher_repetition.duplicate_paragraphs" AtMost 0.30 "paragraphs that equal an earlier one, of all paragraphs" |m| m.repetition.as_ref()?.paragraphs.value();
    Repetition "gopher_repetition.duplicate_paragraph_chars" AtMost 0.20 "characters in such paragraphs, of all characters" |m| m.repetition.as_ref()?.paragraph_chars.value();
    Repetition "gopher_repetition.duplicate_lines" AtMost 0.30 "lines that equal an earlier one, of all lines that are not empty" |m| m.repetition.as_ref()?.lines.value();
    Repetition "gopher_repetition.duplicate_line_chars" AtMost 0.20 "characters in such lines, of all characters" |m| m.repetition.as_ref()?.line_chars.value();
    Repetition "gopher_repetition.top_2_gram_chars" AtMost 0.20 "characters in the most frequent pair of words, of all characters" |m| m.repetition.as_ref()?.top[0].value();
    Repetition "gopher_repetition.top_3_gram_chars" AtMost 0.18 "characters in the most frequent 3-gram, of all characters" |m| m.repetition.as_ref()?.top[1].value();
    Repetition "gopher_repetition.top_4_gram_chars" AtMost 0.16 "characters in the most frequent 4-gram, of all characters" |m| m.repetition.as_ref()?.top[2].value();
    Repetition "gopher_repetition.duplicate_5_gram_chars" AtMost 0.15 "characters in 5-grams seen before, of all characters" |m| m.repetition.as_ref()?.duplicated[0].value();
    Repetition "gopher_repetition.duplicate_6_gram_chars" AtMost 0.14 "characters in 6-grams seen before, of all characters" |m| m.repetition.as_ref()?.duplicated[1].value();
    Repetition "gopher_repetition.duplicate_7_gram_chars" AtMost 0.13 "characters in 7-grams seen before, of all characters" |m| m.repetition.as_ref()?.duplicated[2].value();
    Repetition "gopher_repetition.duplicate_8_gram_chars" AtMost 0.12 "characters in 8-grams seen before, of all characters" |m| m.repetition.as_ref()?.duplicated[3].value();
    Repetition "gopher_repetition.duplicate_9_gram_chars" AtMost 0.11 "characters in 9-grams seen before, of all characters" |m| m.repetition.as_ref()?.duplicated[4].value();
    Repetition "gopher_repetition.duplicate_10_gram_chars" AtMost 0.10 "characters in 10-grams seen before, of all characters" |m| m.repetition.as_ref()?.duplicated[5].value();
    Quality "gopher_quality.min_words" AtLeast 50.0 "words that are not symbols" |m| Some(m.quality.as_ref()?.words as f64);
    Quality "gopher_quality.max_words" AtMost 100_000.0 "words that are not symbols" |m| Some(m.quality.as_ref()?.words as f64);
    Quality "gopher_quality.min_mean_word_length" AtLeast 3.0 "mean length of such words, in characters" |m| m.quality.as_ref()?.word_chars.value();
    Quality "gopher_quality.max_mean_word_length" AtMost 10.0 "mean length of such words, in characters" |m| m.quality.as_ref()?.word_chars.value();
    Quality "gopher_quality.hashes_per_word" AtMost 0.1 "number signs per word" |m| m.quality.as_ref()?.hashes.value();
    Quality "gopher_quality.ellipses_per_word" AtMost 0.1 "ellipses per word" |m| m.quality.as_ref()?.ellipses.value();
    Quality "gopher_quality.bullet_lines" AtMost 0.9 "lines that begin with a bullet, of all lines" |m| m.quality.as_ref()?.bullet_lines.value();
    Quality "gopher_quality.ellipsis_lines" AtMost 0.3 "lines that end with an ellipsis, of all lines" |m| m.quality.as_ref()?.ellipsis_lines.value();
    Quality "gopher_quality.alphabetic_words" AtLeast 0.8 "words with a letter, of all words" |m| m.quality.as_ref()?.alphabetic.value();
    Quality "gopher_quality.stop_words" AtLeast 2.0 "of the 8 English stop words, those that occur" |m| Some(m.quality.as_ref()?.stop_words as f64);
    Quality "gopher_quality.stop_word_count" AtLeast 2.0 "occurrences of stop words (DCLM)" |m| Some(m.quality.as_ref()?.stop_word_count as f64);
    C4 "c4.lorem_ipsum" AtMost 0.0 "surviving lines with \"lorem ipsum\"" |m| Some(m.c4.as_ref()?.lorem_ipsum as f64);
    C4 "c4.curly_bracket" AtMost 0.0 "surviving lines with a curly bracket" |m| Some(m.c4.as_ref()?.curly_bracket as f64);
    C4 "c4.min_sentences" AtLeast 5.0 "sentences in surviving lines" |m| Some(m.c4.as_ref()?.sentences as f64);
    C4 "c4.min_long_lines" AtLeast 3.0 "lines of at least 200 characters (mC4)" |m| Some(m.c4.as_ref()?.long_lines as f64);
    FineWeb "fineweb_quality.terminal_punctuation_lines" AtLeast 0.12 "lines that end in terminal punctuation, of all lines that are not blank" |m| m.fineweb.as_ref()?.terminal_lines.value();
    FineWeb "fineweb_quality.short_lines" AtMost 0.67 "lines of at most 30 characters, of all lines that are not blank" |m| m.fineweb.as_ref()?.short_lines.value();
    FineWeb "fineweb_quality.duplicate_line_chars" AtMost 0.01 "characters in lines that equal an earlier one, of all but line feeds" |m| m.fineweb.as_ref()?.duplicate_chars.value();
    FineWeb "fineweb_quality.newlines_per_word" AtMost 0.3 "line feeds per word" |m| m.fineweb.as_ref()?.newlines.value();
    RefinedWeb "refinedweb.removed_words" AtMost 0.05 "words in lines that the line rules take out, of all words" |m| m.refinedweb?.value();
    BadWords "c4.bad_words" AtMost 0.0 "bad words, from the list of the document's language" |m| Some(m.bad_words? as f64);
    Url "url.domains" AtMost 0.0 "1 if the registered domain or the host is listed" |m| Some(m.url.as_ref()?.domains as f64);
    Url "url.urls" AtMost 0.0 "1 if the URL is listed" |m| Some(m.url.as_ref()?.urls as f64);
    Url "url.banned_words" AtMost 0.0 "words of the URL that are listed" |m| Some(m.url.as_ref()?.banned_words as f64);
    Url "url.soft_words" AtMost 1.0 "words of the URL that are on the soft list" |m| Some(m.url.as_ref()?.soft_words as f64);
    Url "url.banned_subwords" AtMost 0.0 "listed words anywhere in the letters and digits of the URL" |m| Some(m.url.as_ref()?.banned_subwords as f64);
    Perplexity "perplexity.bits_per_byte" AtMost 8.0 "bits that the language model needs for a byte of the text" |m| m.bits_per_byte;
];

/// Named sets of rules. `gopher` is Gopher's two families; `fineweb2` FineWeb2's choice, to be given thresholds per language; `dclm`
/// DCLM's heuristics; a family's name stands for its rules.
const RECIPES: &[&str] = &[
    "fineweb",
    "fineweb2",
    "dclm",
    "gopher",
    "gopher_repetition",
    "gopher_quality",
    "c4",
    "fineweb_quality",
    "refinedweb",
];

/// Part of no recipe: mC4 asked for long lines; DCLM counts stop words its own way; the others need a list or a model.
fn stands_alone(rule: &KnownRule) -> bool {
    matches!(rule.name, "c4.min_long_lines" | "gopher_quality.stop_word_count") || rule.list().is_some()
}

impl KnownRule {
    /// The option of `lists` without which the rule cannot be measured, and with which it is always measured.
    pub fn list(&self) -> Option<&'static str> {
        match self.family {
            Family::BadWords => Some("bad_words"),
            Family::Url => self.name.strip_prefix("url."),
            Family::Perplexity => Some("perplexity_model"),
            _ => None,
        }
    }
}

/// The rules of a recipe in order; `None` if there is no such recipe.
pub(super) fn of_recipe(recipe: &str) -> Option<Vec<&'static KnownRule>> {
    let recipe = *RECIPES.iter().find(|known| **known == recipe)?;
    let families = |names: &[&'static str], without: &[&str]| -> Vec<&'static KnownRule> {
        let is_of = |rule: &KnownRule, family: &str| rule.name.split('.').next() == Some(family);
        let of = |family: &'static str| KNOWN.iter().filter(move |rule| is_of(rule, family) && !stands_alone(rule));
        names.iter().flat_map(|&family| of(family)).filter(|rule| !without.contains(&rule.name)).collect()
    };
    Some(match recipe {
        "fineweb" => families(&["gopher_repetition", "gopher_quality", "c4", "fineweb_quality"], &[]),
        "fineweb2" => families(&["gopher_repetition", "fineweb_quality", "gopher_quality"], &NOT_IN_FINEWEB2),
        "gopher" => families(&["gopher_repetition", "gopher_quality"], &[]),
        "dclm" => {
            let mut rules = families(&["gopher_quality", "gopher_repetition", "refinedweb"], &[]);
            for rule in &mut rules {
                if rule.name == "gopher_quality.stop_words" {
                    *rule = find("gopher_quality.stop_word_count").unwrap_or(rule);
                }
            }
            rules
        }
        family => families(&[family], &[]),
    })
}

/// FineWeb2's pipeline switches these off (Penedo et al. 2025; `fineweb-2-pipeline.py` of `huggingface/fineweb-2`, commit
/// 7ee60b3693872b2fde3a6cfbd2cf2b24fbbc5f48: three limits of repetition at 0, short lines at 999).
const NOT_IN_FINEWEB2: [&str; 4] = [
    "gopher_repetition.duplicate_paragraphs",
    "gopher_repetition.duplicate_paragraph_chars",
    "gopher_repetition.duplicate_line_chars",
    "fineweb_quality.short_lines",
];

/// All rules with their defaults, in order of evaluation.
pub fn known_rules() -> &'static [KnownRule] {
    KNOWN
}

/// The names of all recipes.
pub fn known_recipes() -> &'static [&'static str] {
    RECIPES
}

/// The rule of this name.
pub(super) fn find(name: &str) -> Option<&'static KnownRule> {
    KNOWN.iter().find(|rule| rule.name == name)
}
