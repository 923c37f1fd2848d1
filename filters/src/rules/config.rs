//! What a filter stage asks for, and the rules with thresholds that come of it.
//!
//! In: a `FilterConfig`. Out: rules in order of evaluation, for documents of any language and for each language that has thresholds of
//! its own. Leaves to the caller to read the files of `lists` and to `pipeline` what `where` means.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::known::{Direction, KNOWN, KnownRule, Rule, find, known_recipes, of_recipe};

/// Which rules a filter applies and with which thresholds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FilterConfig {
    /// A named set of rules: `gopher_repetition`, `gopher_quality`, `c4`, `fineweb_quality` and `refinedweb` are families; `fineweb` is
    /// the first four in this order, `gopher` the first two; `fineweb2` FineWeb2's choice of them, to be given `languages`; `dclm`
    /// DCLM's heuristics.
    pub recipe: Option<String>,
    /// Thresholds by rule name, such as `"gopher_quality.min_words" = 100`: a rule of the recipe gets this threshold in its place,
    /// any other known rule is added after the recipe and the rules of `lists`, in order of name.
    pub rules: BTreeMap<String, f64>,
    /// Whose defaults apply where sources disagree: `datatrove` (default); `paper` (`fineweb_quality.duplicate_line_chars` up to
    /// 0.1 and no `fineweb_quality.newlines_per_word`, as in the FineWeb paper); `dclm` (occurrences of stop words count, not how
    /// many different ones there are).
    pub dialect: Option<String>,
    /// Thresholds and stop words for documents of one language, by its code in the column `language`. Documents of other languages
    /// and those without a language have the thresholds above.
    pub languages: BTreeMap<String, LanguageRules>,
    /// Lists that rules look into. A list that is given adds its rule after the recipe.
    pub lists: ListFiles,
    /// A condition in SQL over columns and measures; a document is kept only if it holds. Each conjunct is a rule of its own.
    pub r#where: Option<String>,
}

/// What is different for one language.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LanguageRules {
    /// Thresholds by name of a rule that the filter has.
    pub rules: BTreeMap<String, f64>,
    /// The words that `gopher_quality.stop_words` counts, in place of the English ones.
    pub stop_words: Vec<String>,
}

/// Files of lists, one entry a line; lines that begin with `#` and empty ones do not count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListFiles {
    /// Words or phrases for `c4.bad_words`, one file for each language code.
    pub bad_words: BTreeMap<String, String>,
    /// Registered domains and hosts for `url.domains`.
    pub domains: Option<String>,
    /// Whole URLs for `url.urls`.
    pub urls: Option<String>,
    /// Words for `url.banned_words`: one is enough.
    pub banned_words: Option<String>,
    /// Words for `url.soft_words`: two are too many.
    pub soft_words: Option<String>,
    /// Words for `url.banned_subwords`, found inside of other words too.
    pub banned_subwords: Option<String>,
    /// A model for `perplexity.bits_per_byte`, as `perplexity::Model::save` writes it.
    pub perplexity_model: Option<String>,
}

impl ListFiles {
    /// All files, with the name of the option that has them; for bad words followed by a dot and the language.
    pub fn files(&self) -> Vec<(String, &str)> {
        let bad_words = self.bad_words.iter().map(|(language, file)| (format!("bad_words.{language}"), file.as_str()));
        let singles = [
            ("domains", &self.domains),
            ("urls", &self.urls),
            ("banned_words", &self.banned_words),
            ("soft_words", &self.soft_words),
            ("banned_subwords", &self.banned_subwords),
            ("perplexity_model", &self.perplexity_model),
        ];
        let singles = singles.into_iter().filter_map(|(name, file)| Some((name.to_owned(), file.as_deref()?)));
        bad_words.chain(singles).collect()
    }

    fn has(&self, option: &str) -> bool {
        self.files().iter().any(|(name, _)| name.split('.').next() == Some(option))
    }
}

/// Rules in order of evaluation, with the thresholds of each language.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ruleset {
    /// The rules for documents without a language and for languages without thresholds of their own.
    pub rules: Vec<Rule>,
    /// By language code, the same rules in the same order with other thresholds.
    pub languages: BTreeMap<String, Vec<Rule>>,
}

impl Ruleset {
    /// The rules for a document of this language.
    pub fn of(&self, language: Option<&str>) -> &[Rule] {
        language.and_then(|code| self.languages.get(code)).unwrap_or(&self.rules)
    }
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
    #[error("unknown dialect `{name}` (known: datatrove, paper, dclm)")]
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
    /// A threshold below every value.
    #[error("the threshold of `{name}` is {threshold}: the measure is never below 0, so it {every} every document")]
    Negative {
        /// The rule.
        name: String,
        /// The threshold given.
        threshold: f64,
        /// What it does to every document.
        every: &'static str,
    },
    /// A rule without the list or model that it looks into.
    #[error("`{name}` needs `lists.{list}`: a file")]
    MissingList {
        /// The rule.
        name: String,
        /// The option that is missing.
        list: &'static str,
    },
    /// A threshold for one language of a rule that the filter does not have.
    #[error("`{name}` has a threshold for the language `{language}`, but is no rule of this filter: add it to `rules`")]
    NotInFilter {
        /// The rule.
        name: String,
        /// The language code.
        language: String,
    },
    /// A file that is no list or no model.
    #[error("`lists.{list}`: {reason}")]
    List {
        /// The option.
        list: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Neither a recipe nor rules nor lists nor a condition.
    #[error("the filter has nothing to do: give `recipe`, `rules`, `lists` or `where`")]
    Nothing,
}

/// The rules that a config asks for, in order of evaluation: the recipe's, those of its lists, then the added ones by name.
pub fn resolve(config: &FilterConfig) -> Result<Vec<Rule>, RuleError> {
    first_error(collect(config)).map(|ruleset| ruleset.rules)
}

/// The rules of a config for every language that it names.
pub fn resolve_languages(config: &FilterConfig) -> Result<Ruleset, RuleError> {
    let (ruleset, mut faults) = collect(config);
    let (languages, more) = collect_languages(config, &ruleset.rules);
    faults.extend(more);
    first_error((Ruleset { languages, ..ruleset }, faults))
}

/// Everything that is wrong with a config, in the order of its options.
pub fn faults(config: &FilterConfig) -> Vec<RuleError> {
    let (ruleset, mut faults) = collect(config);
    faults.extend(collect_languages(config, &ruleset.rules).1);
    faults
}

fn first_error((ruleset, faults): (Ruleset, Vec<RuleError>)) -> Result<Ruleset, RuleError> {
    faults.into_iter().next().map_or(Ok(ruleset), Err)
}

/// The rules that can be resolved, and what is wrong with the others.
fn collect(config: &FilterConfig) -> (Ruleset, Vec<RuleError>) {
    let lists = &config.lists;
    let mut faults = Vec::new();
    if config.recipe.is_none() && config.rules.is_empty() && config.r#where.is_none() && lists.files().is_empty() {
        faults.push(RuleError::Nothing);
    }
    let dialect = match config.dialect.as_deref() {
        None | Some("datatrove") => Dialect::Datatrove,
        Some("paper") => Dialect::Paper,
        Some("dclm") => Dialect::Dclm,
        Some(name) => {
            faults.push(RuleError::UnknownDialect { name: name.to_owned() });
            Dialect::Datatrove
        }
    };
    let recipe = config.recipe.as_deref();
    let mut known = match recipe.map(|name| (name, of_recipe(name))) {
        None => Vec::new(),
        Some((_, Some(known))) => known,
        Some((name, None)) => {
            let nearest = nearest(name, known_recipes().iter().copied());
            faults.push(RuleError::UnknownRecipe { name: name.to_owned(), nearest });
            Vec::new()
        }
    };
    known.extend(KNOWN.iter().filter(|rule| rule.list().is_some_and(|list| lists.has(list))));
    let mut rules: Vec<Rule> = known.into_iter().filter_map(|rule| dialect.rule(rule, recipe)).collect();
    for (name, &threshold) in &config.rules {
        let known = match check_threshold(name, threshold) {
            Ok(known) => known,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        if let Some(list) = known.list().filter(|list| !lists.has(list)) {
            faults.push(RuleError::MissingList { name: name.clone(), list });
            continue;
        }
        match rules.iter_mut().find(|rule| rule.name == *name) {
            Some(rule) => rule.threshold = threshold,
            None => rules.push(Rule { name: name.clone(), direction: known.direction, threshold }),
        }
    }
    (Ruleset { rules, languages: BTreeMap::new() }, faults)
}

fn collect_languages(config: &FilterConfig, rules: &[Rule]) -> (BTreeMap<String, Vec<Rule>>, Vec<RuleError>) {
    let (mut languages, mut faults) = (BTreeMap::new(), Vec::new());
    for (language, own) in &config.languages {
        let mut changed = rules.to_vec();
        for (name, &threshold) in &own.rules {
            if let Err(fault) = check_threshold(name, threshold) {
                faults.push(fault);
                continue;
            }
            match changed.iter_mut().find(|rule| rule.name == *name) {
                Some(rule) => rule.threshold = threshold,
                None => faults.push(RuleError::NotInFilter { name: name.clone(), language: language.clone() }),
            }
        }
        languages.insert(language.clone(), changed);
    }
    (languages, faults)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Datatrove,
    Paper,
    Dclm,
}

impl Dialect {
    /// The rule with its threshold in this dialect; none if the dialect does not have it.
    fn rule(self, known: &KnownRule, recipe: Option<&str>) -> Option<Rule> {
        let (mut name, mut threshold) = (known.name, known.threshold);
        match (self, name) {
            (Self::Paper, "fineweb_quality.newlines_per_word") => return None,
            (Self::Paper, "fineweb_quality.duplicate_line_chars") => threshold = 0.1,
            (Self::Dclm, "gopher_quality.stop_words") => name = "gopher_quality.stop_word_count",
            // FineWeb2 raised it from 0.01 (`fineweb-2-pipeline.py`).
            (_, "fineweb_quality.duplicate_line_chars") if recipe == Some("fineweb2") => threshold = 0.1,
            _ => {}
        }
        Some(Rule { name: name.to_owned(), direction: known.direction, threshold })
    }
}

/// The rule of this name, if it can have this threshold: measures are counts, lengths and shares, never below 0.
fn check_threshold(name: &str, threshold: f64) -> Result<&'static KnownRule, RuleError> {
    let known = find(name).ok_or_else(|| unknown_rule(name))?;
    if !threshold.is_finite() {
        return Err(RuleError::Threshold { name: name.to_owned(), threshold });
    }
    if threshold < 0.0 {
        let every = match known.direction {
            Direction::AtLeast => "keeps",
            Direction::AtMost => "drops",
        };
        return Err(RuleError::Negative { name: name.to_owned(), threshold, every });
    }
    Ok(known)
}

fn unknown_rule(name: &str) -> RuleError {
    let family = |name: &str| name.split_once('.').map(|(family, _)| family.to_owned());
    let own = family(name).filter(|own| KNOWN.iter().any(|rule| family(rule.name).as_ref() == Some(own)));
    // A name in a known family is a slip in what follows the dot.
    let known = KNOWN.iter().map(|rule| rule.name).filter(|rule| own.is_none() || family(rule) == own);
    RuleError::UnknownRule { name: name.to_owned(), nearest: nearest(name, known) }
}

/// The name with the fewest edits from `name`; of a bare measure, the distance to the part after the dot counts too. Among equals
/// the one with the longest common beginning of the measure.
fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> &'static str {
    let measure = |name: &'static str| name.rsplit('.').next().unwrap_or(name);
    let asked = name.rsplit('.').next().unwrap_or(name);
    let distance = |known: &'static str| {
        let common = asked.chars().zip(measure(known).chars()).take_while(|(a, b)| a == b).count();
        (edits(name, known).min(edits(name, measure(known))), usize::MAX - common)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Direction;

    fn recipe(name: &str) -> FilterConfig {
        FilterConfig { recipe: Some(name.to_owned()), ..Default::default() }
    }

    fn with(rules: &[(&str, f64)]) -> BTreeMap<String, f64> {
        rules.iter().map(|(name, threshold)| ((*name).to_owned(), *threshold)).collect()
    }

    fn names(config: &FilterConfig) -> Vec<String> {
        resolve(config).expect("the config is right").into_iter().map(|rule| rule.name).collect()
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
        assert_eq!(all.len(), 30);
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
        let negative = FilterConfig { rules: with(&[("gopher_quality.min_words", -3.0)]), ..Default::default() };
        assert!(matches!(resolve(&negative), Err(RuleError::Negative { every: "keeps", .. })));
        let three =
            FilterConfig { rules: with(&[("a.b", 1.0), ("c4.min_words", 1.0), ("x", 1.0)]), ..recipe("finewb") };
        let all = faults(&three);
        assert_eq!(all.len(), 4);
        assert!(all[2].to_string().contains("did you mean `c4."), "{}", all[2]);
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
    fn fineweb2_and_dclm_choose_other_rules() {
        let fineweb2 = resolve(&recipe("fineweb2")).expect("known");
        assert_eq!(fineweb2.len(), 10 + 3 + 10);
        let duplicates = fineweb2.iter().find(|rule| rule.name == "fineweb_quality.duplicate_line_chars");
        assert_eq!(duplicates.map(|rule| rule.threshold), Some(0.1));
        let dclm = names(&recipe("dclm"));
        assert_eq!(dclm.len(), 10 + 13 + 1);
        assert_eq!(dclm[9], "gopher_quality.stop_word_count");
        assert_eq!(dclm.last().map(String::as_str), Some("refinedweb.removed_words"));
        let gopher = FilterConfig { dialect: Some("dclm".to_owned()), ..recipe("gopher_quality") };
        assert_eq!(names(&gopher), dclm[..10]);
    }

    #[test]
    fn a_list_adds_its_rule_and_a_rule_needs_its_list() {
        let lists = ListFiles { soft_words: Some("soft.txt".to_owned()), ..Default::default() };
        let config = FilterConfig { lists, rules: with(&[("url.soft_words", 2.0)]), ..Default::default() };
        let rules = resolve(&config).expect("known");
        assert_eq!((rules.len(), rules[0].threshold), (1, 2.0));
        let without = FilterConfig { lists: ListFiles::default(), ..config };
        assert!(matches!(resolve(&without), Err(RuleError::MissingList { list: "soft_words", .. })));
    }

    #[test]
    fn languages_have_thresholds_of_their_own_and_others_the_common_ones() {
        let german = LanguageRules { rules: with(&[("gopher_quality.alphabetic_words", 0.774)]), ..Default::default() };
        let mut config = recipe("fineweb2");
        config.languages.insert("de".to_owned(), german);
        let ruleset = resolve_languages(&config).expect("known");
        let threshold = |language| {
            let rules = ruleset.of(language);
            rules.iter().find(|rule| rule.name == "gopher_quality.alphabetic_words").map(|rule| rule.threshold)
        };
        assert_eq!(
            (threshold(Some("de")), threshold(Some("fr")), threshold(None)),
            (Some(0.774), Some(0.8), Some(0.8))
        );
        config
            .languages
            .insert("xx".to_owned(), LanguageRules { rules: with(&[("c4.min_sentences", 1.0)]), ..Default::default() });
        assert!(matches!(resolve_languages(&config), Err(RuleError::NotInFilter { .. })));
    }
}
