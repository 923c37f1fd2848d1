//! Which languages to keep, and from which score on.
//!
//! In: `keep` as a manifest writes it: `["en", "de"]`, or `{ en = 0.65, de = 0.5 }` with a threshold for each. Out: the threshold for a
//! document's language. Leaves dropping to `pipeline`. FineWeb (2024) keeps English from 0.65 on; FineWeb2 (2025) has one threshold a
//! language, from the spread of its scores: [`threshold_from_scores`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LanguageModel, code_of};

/// The languages to keep. Codes are those of [`code_of`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Keep {
    /// These languages, all from the stage's `min_score` on; none named: every language.
    Languages(Vec<String>),
    /// These languages, each from its own score on, 0..1; none named: every language, from `min_score` on.
    Scores(BTreeMap<String, f64>),
}

impl Default for Keep {
    fn default() -> Self {
        Self::Languages(Vec::new())
    }
}

impl Keep {
    /// The least score with which a document in this language is kept; `None` if the language is not.
    pub fn threshold(&self, code: &str, min_score: f64) -> Option<f64> {
        match self {
            _ if self.is_empty() => Some(min_score),
            Self::Languages(codes) => codes.iter().any(|wanted| wanted == code).then_some(min_score),
            Self::Scores(scores) => scores.get(code).copied(),
        }
    }

    /// Whether no language is named, so that all are kept.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Languages(codes) => codes.is_empty(),
            Self::Scores(scores) => scores.is_empty(),
        }
    }

    /// The languages named, in the order of the manifest (of a table: sorted).
    pub fn codes(&self) -> Vec<&str> {
        match self {
            Self::Languages(codes) => codes.iter().map(String::as_str).collect(),
            Self::Scores(scores) => scores.keys().map(String::as_str).collect(),
        }
    }

    /// What is wrong with it, one sentence a fault; nothing if it can be used.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for code in self.codes() {
            let known = code_of(code);
            if !(2..=3).contains(&code.len()) || !code.bytes().all(|byte| byte.is_ascii_lowercase()) {
                faults.push(format!("`{code}` is no language code such as \"en\""));
            } else if known != code {
                faults.push(format!("`{code}` is written \"{known}\": ISO 639-1 where there is one"));
            }
        }
        if let Self::Scores(scores) = self {
            for (code, score) in scores.iter().filter(|(_, score)| !(0.0..=1.0).contains(*score)) {
                faults.push(format!("`{code}` = {score} is out of range: 0..1"));
            }
        }
        faults
    }

    /// The languages named that a model can never answer with.
    pub fn unknown_to(&self, model: &LanguageModel) -> Vec<&str> {
        let known = model.codes();
        self.codes().into_iter().filter(|code| known.binary_search(code).is_err()).collect()
    }
}

/// FineWeb2's threshold for a language: the median of its documents' scores less one standard deviation, within 0.3..0.9.
///
/// `scores`: those of all documents labelled with the language, 0..1, in any order; `None` without any. Penedo et al. 2025 (2506.20920).
pub fn threshold_from_scores(scores: &[f32]) -> Option<f64> {
    let mut sorted: Vec<f64> = scores.iter().map(|&score| f64::from(score)).collect();
    sorted.sort_unstable_by(f64::total_cmp); // also the order of the sums below
    let (&low, &high) = (sorted.get(sorted.len().saturating_sub(1) / 2)?, sorted.get(sorted.len() / 2)?);
    let n = sorted.len() as f64;
    let mean = sorted.iter().sum::<f64>() / n;
    let variance = sorted.iter().map(|score| (score - mean) * (score - mean)).sum::<f64>() / n;
    Some(((low + high) / 2.0 - variance.sqrt()).clamp(0.3, 0.9))
}

#[cfg(test)]
mod tests {
    use super::super::builtin;
    use super::*;

    fn read(json: &str) -> Keep {
        serde_json::from_str(json).expect("a list or a table")
    }

    #[test]
    fn a_list_shares_one_threshold_and_a_table_has_one_for_each() {
        let (all, list, table) = (Keep::default(), read(r#"["en", "de"]"#), read(r#"{"en": 0.65, "de": 0.5}"#));
        for (code, of_all, of_list, of_table) in [
            ("en", Some(0.7), Some(0.7), Some(0.65)),
            ("de", Some(0.7), Some(0.7), Some(0.5)),
            ("fr", Some(0.7), None, None),
            ("", Some(0.7), None, None),
        ] {
            let found = [&all, &list, &table].map(|keep| keep.threshold(code, 0.7));
            assert_eq!(found, [of_all, of_list, of_table], "{code}");
        }
        assert!(read("{}").is_empty() && read("[]").is_empty());
        assert_eq!(table.codes(), ["de", "en"]);
    }

    #[test]
    fn wrong_codes_and_scores_are_named() {
        assert_eq!(read(r#"{"en": 0.65, "hsb": 0}"#).faults(), [""; 0]);
        assert_eq!(read(r#"["eng"]"#).faults(), ["`eng` is written \"en\": ISO 639-1 where there is one"]);
        assert_eq!(read(r#"["EN", "english", ""]"#).faults().len(), 3);
        assert_eq!(read(r#"{"en": 65}"#).faults(), ["`en` = 65 is out of range: 0..1"]);
        assert_eq!(read(r#"["en", "xx", "hsb"]"#).unknown_to(builtin()), ["xx"]);
    }

    #[test]
    fn the_threshold_of_a_language_is_the_median_less_the_spread_within_bounds() {
        assert_eq!(threshold_from_scores(&[]), None);
        assert_eq!(threshold_from_scores(&[0.99]), Some(0.9));
        assert_eq!(threshold_from_scores(&[0.1, 0.2]), Some(0.3));
        let half = threshold_from_scores(&[1.0, 0.5, 0.75, 0.5, 1.0]).expect("there are scores");
        assert!((half - (0.75 - 0.05_f64.sqrt())).abs() < 1e-7, "{half}"); // variance 0.05
    }
}
