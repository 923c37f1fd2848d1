//! WordPiece: a word is cut from the left into the longest tokens.
//!
//! In: a word. Out: its ids; one unknown token if it has too many characters or if some place has no token at all.

use std::collections::HashMap;

use serde_json::Value;

use super::inconsistent;
use crate::TokenizerError;

/// A WordPiece vocabulary.
pub(super) struct WordPiece {
    /// Token and whether it goes on inside a word -> id.
    ids: HashMap<String, u32>,
    names: HashMap<u32, String>,
    prefix: String,
    unknown: u32,
    most_chars: usize,
    /// Bytes of the longest token.
    longest: usize,
}

impl WordPiece {
    pub(super) fn read(model: &Value) -> Result<Self, TokenizerError> {
        let rows = model["vocab"].as_object().ok_or_else(|| inconsistent("model.vocab is not an object"))?;
        let mut ids = HashMap::new();
        for (name, id) in rows {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            ids.insert(name.clone(), id.ok_or_else(|| inconsistent(format!("the id of {name:?} is not a number")))?);
        }
        let unknown = model["unk_token"].as_str().and_then(|name| ids.get(name)).copied();
        Ok(Self {
            unknown: unknown.ok_or_else(|| inconsistent("model.unk_token is no token of the vocabulary"))?,
            prefix: model["continuing_subword_prefix"].as_str().unwrap_or("##").to_owned(),
            most_chars: model["max_input_chars_per_word"].as_u64().unwrap_or(100) as usize,
            longest: ids.keys().map(String::len).max().unwrap_or(0),
            names: ids.iter().map(|(name, id)| (*id, name.clone())).collect(),
            ids,
        })
    }

    pub(super) fn token(&self, id: u32) -> Option<&str> {
        self.names.get(&id).map(String::as_str)
    }

    pub(super) fn encode(&self, word: &str, out: &mut Vec<u32>) {
        let from = out.len();
        if word.chars().count() > self.most_chars {
            return out.push(self.unknown);
        }
        let (mut start, mut name) = (0, String::new());
        while start < word.len() {
            let prefix = if start > 0 { self.prefix.as_str() } else { "" };
            let mut ends = word[start..].char_indices().map(|(i, c)| i + c.len_utf8());
            let within: Vec<usize> = ends.by_ref().take_while(|end| prefix.len() + end <= self.longest).collect();
            let found = within.into_iter().rev().find_map(|len| {
                name.clear();
                name.push_str(prefix);
                name.push_str(&word[start..start + len]);
                self.ids.get(&name).map(|&id| (len, id))
            });
            let Some((len, id)) = found else {
                out.truncate(from);
                return out.push(self.unknown);
            };
            out.push(id);
            start += len;
        }
    }
}
