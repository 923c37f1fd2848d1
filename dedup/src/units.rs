//! Lines and paragraphs that occur earlier in the corpus.
//!
//! In: texts, in survivor order, and what counts as a unit. Out: byte spans to remove, so that the first occurrence of each
//! unit stays. Left to others: applying spans (an edit), side files partitioned by key.
//!
//! The steps: [`unit_entries`] per text; [`repeated_units`] per key partition over the entries of all texts;
//! [`unit_spans`] per text with what was found for it. [`repeated_unit_spans`] is all of them in memory. Keys are 128-bit
//! hashes: two different units are taken for equal with probability of about 10^-19 in a corpus of 10^10 units.
//! Memory: [`UnitEntry`] is 24 bytes, for the units of one partition. CCNet (Wenzek et al. 2020, §3.1: normalised paragraphs),
//! Dolma (Soldaini et al. 2024, paragraphs).

use crate::config::faults;
use crate::{ConfigError, exact_key, normalise};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_128;

/// Into what a text is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// What ends with a line break.
    Line,
    /// What blank lines surround.
    #[default]
    Paragraph,
}

/// Removes lines or paragraphs that repeat earlier ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UnitConfig {
    /// `"line"` or `"paragraph"`.
    pub unit: Unit,
    /// Units of fewer bytes, white space around them not counted, always stay. 1 or more; blank units always stay.
    pub min_bytes: usize,
    /// Compare in lower case, without accents and punctuation, each number as `0`; else only white space and Unicode form
    /// are seen through. A unit without letters and digits then always stays.
    pub normalise: bool,
}

impl Default for UnitConfig {
    fn default() -> Self {
        Self { unit: Unit::Paragraph, min_bytes: 40, normalise: false }
    }
}

impl UnitConfig {
    /// Checks every range; returns all faults.
    pub fn check(&self) -> Result<(), Vec<ConfigError>> {
        faults(&[("min_bytes", self.min_bytes.to_string(), self.min_bytes >= 1, "1 or more")])
    }
}

/// A unit's key and where it stands, in 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnitEntry {
    /// Upper and lower half of its 128-bit key.
    pub key: [u64; 2],
    /// The document, numbered in survivor order.
    pub document: u32,
    /// Number of the unit in its document.
    pub ordinal: u32,
}

/// The entries of a text's units that may be removed, in order.
pub fn unit_entries(text: &str, document: u32, config: &UnitConfig) -> Vec<UnitEntry> {
    let entry = |(ordinal, place): (usize, Place)| {
        let unit = text[place.start..place.end].trim();
        let key = match (unit.len() < config.min_bytes.max(1), config.normalise) {
            (true, _) => return None,
            (false, false) => exact_key(unit),
            (false, true) => Some(normalise(unit)).filter(|unit| !unit.is_empty()).map(|u| xxh3_128(u.as_bytes()))?,
        };
        Some(UnitEntry { key: [(key >> 64) as u64, key as u64], document, ordinal: ordinal as u32 })
    };
    places(text, config.unit).into_iter().enumerate().filter_map(entry).collect()
}

/// (document, ordinal) of each entry of one key partition that is not the first of its key, ascending. Entries are sorted.
pub fn repeated_units(entries: &mut [UnitEntry]) -> Vec<(u32, u32)> {
    entries.sort_unstable();
    let repeats = entries.chunk_by(|x, y| x.key == y.key).flat_map(|same| &same[1..]);
    let mut repeats: Vec<(u32, u32)> = repeats.map(|entry| (entry.document, entry.ordinal)).collect();
    repeats.sort_unstable();
    repeats
}

/// Byte spans that take units (`ordinals`, ascending) out of a text, with the line breaks behind them; at the end of the text
/// with those before. Ascending, apart from each other.
pub fn unit_spans(text: &str, ordinals: &[u32], unit: Unit) -> Vec<Range<usize>> {
    let places = places(text, unit);
    let mut spans: Vec<Range<usize>> = Vec::new();
    for &ordinal in ordinals {
        let at = ordinal as usize;
        let end = places.get(at + 1).map_or(text.len(), |next| next.start);
        match spans.last_mut() {
            Some(last) if last.end == places[at].start => last.end = end,
            _ => spans.push(places[at].start..end),
        }
    }
    if let Some(last) = spans.last_mut().filter(|last| last.end == text.len()) {
        // Nothing is left behind the span, so the breaks before it separate nothing.
        let before = places.partition_point(|place| place.start < last.start);
        last.start = if before == 0 { last.start } else { places[before - 1].end };
    }
    spans
}

/// All steps in memory: the spans to remove from each text; texts come in survivor order.
pub fn repeated_unit_spans(texts: &[&str], config: &UnitConfig) -> Vec<Vec<Range<usize>>> {
    let entries = texts.iter().enumerate().flat_map(|(n, text)| unit_entries(text, n as u32, config));
    let repeats = repeated_units(&mut entries.collect::<Vec<_>>());
    let ordinals = |document: usize| -> Vec<u32> {
        let start = repeats.partition_point(|repeat| (repeat.0 as usize) < document);
        repeats[start..].iter().take_while(|repeat| repeat.0 as usize == document).map(|repeat| repeat.1).collect()
    };
    texts.iter().enumerate().map(|(n, text)| unit_spans(text, &ordinals(n), config.unit)).collect()
}

/// Where a unit starts, and where it ends, without the line break.
struct Place {
    start: usize,
    end: usize,
}

fn places(text: &str, unit: Unit) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    let (mut start, mut open) = (0, false);
    for line in text.split_inclusive('\n') {
        let end = start + line.trim_end_matches(['\n', '\r']).len();
        match (unit, line.trim().is_empty()) {
            (Unit::Line, _) => places.push(Place { start, end }),
            (Unit::Paragraph, true) => open = false,
            (Unit::Paragraph, false) => match places.last_mut().filter(|_| open) {
                Some(paragraph) => paragraph.end = end,
                None => {
                    places.push(Place { start, end });
                    open = true;
                }
            },
        }
        start += line.len();
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn left(text: &str, spans: &[Range<usize>]) -> String {
        let mut out = text.to_string();
        spans.iter().rev().for_each(|span| out.replace_range(span.clone(), ""));
        out
    }

    fn cleaned(texts: &[&str], unit: Unit, normalise: bool) -> Vec<String> {
        let config = UnitConfig { unit, min_bytes: 2, normalise };
        let spans = repeated_unit_spans(texts, &config);
        texts.iter().zip(&spans).map(|(text, spans)| left(text, spans)).collect()
    }

    #[test]
    fn the_first_occurrence_of_a_line_stays() {
        let found =
            cleaned(&["menu\none\n", "menu\r\ntwo\nmenu", "", "two", "世界\nx\n世界\ny\nx\n"], Unit::Line, false);
        assert_eq!(found, ["menu\none\n", "two", "", "", "世界\nx\ny\nx\n"]);
    }

    #[test]
    fn a_paragraph_goes_with_the_blank_lines_behind_it() {
        let texts =
            ["head\n\nfirst\nline\n\nfoot\n", "\n\nhead\n\n \nsecond\n\nfoot", "first\n\nline", "first  \n line\n\nz2"];
        assert_eq!(cleaned(&texts, Unit::Paragraph, false), [texts[0], "\n\nsecond", "first\n\nline", "z2"]);
    }

    #[test]
    fn normalised_units_see_through_case_and_numbers() {
        let texts = ["Page 1 of 9\nA\n...", "page 2, of 10!\nB\n..."];
        assert_eq!(cleaned(&texts, Unit::Line, true), [texts[0], "B\n..."]);
        assert_eq!(cleaned(&texts, Unit::Line, false), [texts[0], "page 2, of 10!\nB"]);
    }

    #[test]
    fn partitions_give_what_brute_force_gives_on_random_texts() {
        let mut state = 9_u64;
        let mut random = |most: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % most
        };
        let texts: Vec<String> = (0..80)
            .map(|_| {
                (0..random(12))
                    .map(|_| format!("line {}{}", random(60), ["\n", "\r\n", "\n\n"][random(3) as usize]))
                    .collect()
            })
            .collect();
        let config = UnitConfig { unit: Unit::Line, min_bytes: 7, normalise: false };
        let mut entries: Vec<UnitEntry> =
            texts.iter().enumerate().rev().flat_map(|(n, text)| unit_entries(text, n as u32, &config)).collect();
        let mut found: Vec<(u32, u32)> = Vec::new();
        for partition in 0..4 {
            found
                .extend(repeated_units(&mut entries.extract_if(.., |e| e.key[0] % 4 == partition).collect::<Vec<_>>()));
        }
        found.sort_unstable();
        let (mut seen, mut wanted) = (HashSet::new(), Vec::new());
        for (n, text) in texts.iter().enumerate() {
            for (ordinal, line) in text.lines().enumerate() {
                if line.len() >= 7 && !seen.insert(line) {
                    wanted.push((n as u32, ordinal as u32));
                }
            }
        }
        assert_eq!(found, wanted);
        assert_eq!(UnitConfig::default().check(), Ok(()));
        assert!(UnitConfig { min_bytes: 0, ..config }.check().is_err());
        assert!(wanted.len() > 100 && size_of::<UnitEntry>() == 24);
    }
}
