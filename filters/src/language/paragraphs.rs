//! The language of each paragraph of a document, and how mixed the document is.
//!
//! In: a text. Out: `Document`: the prediction for the whole, which equals `predict`, and one for each line that is long enough to be
//! judged; shares in characters. One pass: the sum for the whole is the sum of the lines' sums.
//! Leaves what to do with a mixed document to `pipeline`. A paragraph is a line, as in Dolma (Soldaini et al. 2024) and C4.

use std::collections::BTreeMap;

use super::{LanguageModel, Prediction};

/// A line of a document that is not blank.
#[derive(Clone, Debug, PartialEq)]
pub struct Paragraph {
    /// Byte at which it begins.
    pub start: usize,
    /// Byte after its last one; the line end is not part of it.
    pub end: usize,
    /// Its characters.
    pub chars: usize,
    /// `None` if it has fewer characters than were asked for.
    pub prediction: Option<Prediction>,
}

/// A document with the language of the whole and of its parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// As [`LanguageModel::predict`] gives it.
    pub prediction: Option<Prediction>,
    /// In the order of the text.
    pub paragraphs: Vec<Paragraph>,
}

impl Document {
    /// Characters in judged paragraphs by language, the largest first, equal ones by code.
    pub fn chars_by_language(&self) -> Vec<(&str, usize)> {
        let mut chars: BTreeMap<&str, usize> = BTreeMap::new();
        for paragraph in &self.paragraphs {
            if let Some(prediction) = &paragraph.prediction {
                *chars.entry(&prediction.code).or_default() += paragraph.chars;
            }
        }
        let mut chars: Vec<(&str, usize)> = chars.into_iter().collect();
        chars.sort_by_key(|&(_, chars)| std::cmp::Reverse(chars)); // stable: equal ones stay by code
        chars
    }

    /// Share, 0..1, of the characters in judged paragraphs that are in another language than the document; `None` if no paragraph was
    /// judged. 0 = one language.
    pub fn mixed_share(&self) -> Option<f32> {
        let whole = self.prediction.as_ref()?;
        let (mut judged, mut other) = (0, 0);
        for (code, chars) in self.chars_by_language() {
            judged += chars;
            other += if code == whole.code { 0 } else { chars };
        }
        (judged > 0).then(|| other as f32 / judged as f32)
    }
}

impl LanguageModel {
    /// The language of a text and of each of its lines that has at least `min_chars` characters. Short lines (menus, names, code) are
    /// hardly ever right; 60 to 100 is a good start.
    pub fn document(&self, text: &str, min_chars: usize) -> Document {
        let mut paragraphs = Vec::new();
        let mut start = 0;
        for line in text.split('\n') {
            let trimmed = line.strip_suffix('\r').unwrap_or(line);
            if !trimmed.trim().is_empty() {
                let (end, chars) = (start + trimmed.len(), trimmed.chars().count());
                paragraphs.push(Paragraph { start, end, chars, prediction: None });
            }
            start += line.len() + 1;
        }
        let parts = paragraphs.iter().map(|paragraph| {
            let Paragraph { start, end, chars, .. } = *paragraph;
            (&text[start..end], chars >= min_chars)
        });
        let (whole, found) = self.classifier.best_of_parts(parts);
        for (paragraph, best) in paragraphs.iter_mut().zip(found) {
            paragraph.prediction = best.map(|best| self.prediction(best));
        }
        Document { prediction: whole.map(|best| self.prediction(best)), paragraphs }
    }
}

#[cfg(test)]
mod tests {
    use super::super::builtin;
    use super::*;

    const MIXED: &str = "Der Server schreibt jede Anfrage in eine Protokolldatei, bevor er antwortet.\r\n\n  \nok\n\
        The server writes every request to a log file before it answers.\n\
        Die Datei wird jede Nacht gepackt und nach dreißig Tagen gelöscht.";

    #[test]
    fn each_long_line_has_its_language_and_the_whole_is_that_of_predict() {
        let document = builtin().document(MIXED, 20);
        let codes: Vec<Option<&str>> =
            document.paragraphs.iter().map(|p| p.prediction.as_ref().map(|found| found.code.as_str())).collect();
        assert_eq!(codes, [Some("de"), None, Some("en"), Some("de")]);
        assert_eq!(document.prediction, builtin().predict(MIXED));
        for paragraph in &document.paragraphs {
            let text = &MIXED[paragraph.start..paragraph.end];
            assert_eq!(paragraph.chars, text.chars().count());
            assert!(!text.contains(['\r', '\n']), "{text}");
            if paragraph.prediction.is_some() {
                assert_eq!(paragraph.prediction, builtin().predict(text));
            }
        }
    }

    #[test]
    fn the_mixed_share_counts_characters_of_judged_lines() {
        let document = builtin().document(MIXED, 20);
        let (de, en) = (76 + 66, 64);
        assert_eq!(document.chars_by_language(), [("de", de), ("en", en)]);
        assert_eq!(document.mixed_share(), Some(en as f32 / (de + en) as f32));
        assert_eq!(builtin().document("The server writes every request to a log file.", 0).mixed_share(), Some(0.0));
        for nothing in ["", "\n\r\n \t"] {
            let document = builtin().document(nothing, 0);
            assert_eq!(document, Document { prediction: None, paragraphs: Vec::new() });
            assert_eq!(document.mixed_share(), None);
        }
        assert_eq!(builtin().document(MIXED, 1000).mixed_share(), None);
    }
}
