//! Unigram: the cut of a piece whose tokens have the highest sum of scores (Viterbi).
//!
//! In: a piece. Out: its ids. A character that no token covers costs ten less than the worst token; such characters in a
//! row are one unknown token, or its bytes where the vocabulary has byte tokens. Of equal sums the one found first stays: the
//! one whose last token is longest. As `tokenizers` and SentencePiece do.

use std::collections::HashMap;

use serde_json::Value;

use super::inconsistent;
use crate::TokenizerError;

/// What an unknown character costs below the lowest score.
const UNKNOWN_PENALTY: f64 = 10.0;

/// A Unigram vocabulary.
pub(super) struct Unigram {
    names: Vec<String>,
    /// (bytes, id, score), sorted by bytes: a prefix is a range.
    sorted: Vec<(Vec<u8>, u32, f64)>,
    ids: HashMap<String, u32>,
    unknown: u32,
    unknown_score: f64,
    /// Ids of `<0x00>` to `<0xFF>`.
    bytes: Option<Vec<u32>>,
}

/// The best way to a place.
#[derive(Clone, Copy)]
struct Step {
    score: f64,
    from: usize,
    unknown: bool,
}

impl Unigram {
    pub(super) fn read(model: &Value) -> Result<Self, TokenizerError> {
        let rows = model["vocab"].as_array().ok_or_else(|| inconsistent("model.vocab is not a list"))?;
        let mut vocab: Vec<(&str, f64)> = Vec::with_capacity(rows.len());
        for (id, row) in rows.iter().enumerate() {
            let pair = row[0].as_str().zip(row[1].as_f64());
            vocab.push(pair.ok_or_else(|| inconsistent(format!("row {id} of model.vocab is no token and score")))?);
        }
        let unknown = model["unk_id"].as_u64().filter(|&id| id < vocab.len() as u64);
        let unknown = unknown.ok_or_else(|| inconsistent("model.unk_id is no id of the vocabulary"))?;
        let ids: HashMap<String, u32> = vocab.iter().zip(0..).map(|(&(name, _), id)| (name.to_owned(), id)).collect();
        let mut sorted: Vec<_> =
            ids.iter().map(|(name, &id)| (name.clone().into_bytes(), id, vocab[id as usize].1)).collect();
        sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let byte_fallback = model["byte_fallback"].as_bool().unwrap_or(false);
        let bytes = (0..=255_u8).map(|byte| ids.get(&format!("<0x{byte:02X}>")).copied()).collect::<Option<Vec<_>>>();
        if byte_fallback && bytes.is_none() {
            return Err(inconsistent("model.byte_fallback is true, but a token <0x00> to <0xFF> is missing"));
        }
        Ok(Self {
            names: vocab.iter().map(|(name, _)| (*name).to_owned()).collect(),
            sorted,
            ids,
            unknown: unknown as u32,
            unknown_score: vocab.iter().fold(f64::INFINITY, |low, row| low.min(row.1)) - UNKNOWN_PENALTY,
            bytes: bytes.filter(|_| byte_fallback),
        })
    }

    pub(super) fn token(&self, id: u32) -> Option<&str> {
        self.names.get(id as usize).map(String::as_str)
    }

    pub(super) fn encode(&self, piece: &str, out: &mut Vec<u32>) {
        let bytes = piece.as_bytes();
        let mut best: Vec<Option<Step>> = vec![None; bytes.len() + 1];
        let offer = |place: &mut Option<Step>, step: Step| {
            if place.is_none_or(|known| step.score > known.score) {
                *place = Some(step);
            }
        };
        for (from, c) in piece.char_indices() {
            let so_far = best[from].map_or(0.0, |step| step.score);
            let mut single = false;
            let mut range = self.sorted.as_slice();
            for (i, &byte) in bytes[from..].iter().enumerate() {
                let first = range.partition_point(|(token, ..)| token.get(i).is_none_or(|&b| b < byte));
                let last = range.partition_point(|(token, ..)| token.get(i).is_none_or(|&b| b <= byte));
                range = &range[first..last];
                let Some((token, id, score)) = range.first() else { break };
                if token.len() == i + 1 {
                    single |= token.len() == c.len_utf8();
                    let unknown = *id == self.unknown;
                    offer(&mut best[from + i + 1], Step { score: score + so_far, from, unknown });
                }
            }
            if !single {
                let step = Step { score: self.unknown_score + so_far, from, unknown: true };
                offer(&mut best[from + c.len_utf8()], step);
            }
        }
        let (mut cuts, mut end) = (Vec::new(), bytes.len());
        while end > 0 {
            let step = best[end].expect("every character can be a step, so every end is reached");
            match cuts.last_mut() {
                Some((start, _, true)) if step.unknown => *start = step.from,
                _ => cuts.push((step.from, end, step.unknown)),
            }
            end = step.from;
        }
        for &(start, end, _) in cuts.iter().rev() {
            match (self.ids.get(&piece[start..end]), &self.bytes) {
                (Some(&id), _) => out.push(id),
                (None, Some(table)) => out.extend(bytes[start..end].iter().map(|&byte| table[usize::from(byte)])),
                (None, None) => out.push(self.unknown),
            }
        }
    }
}
