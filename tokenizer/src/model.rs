//! The tokenizer: its vocabulary, its merges and its special tokens.
//!
//! In: the parts that `train` or `json` made. Out: ids to bytes and text, special tokens by name, look-ups for `encode`.
//! Leaves text to ids to `encode`, files to `json`, conversations to `chat`.

use std::{fmt, sync::Mutex};

use crate::{
    TokenizerError,
    added::{Added, AddedToken},
    bpe::{Heap, Merging},
    bytes,
    encode::Memory,
    joints::Joints,
    ranks::Ranks,
    split::Splitter,
    vocab::{Found, Vocab},
};

/// The token that ends a document.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Most ids a vocabulary can have.
pub const MAX_VOCAB: usize = (1 << 21) - 1;

/// Other names of the token that ends a document, in files that others wrote.
const OTHER_ENDS: [&str; 6] = ["<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "<｜end▁of▁sentence｜>", "<EOT>"];

/// A special token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Special {
    pub(crate) text: String,
    pub(crate) id: u32,
}

/// What a tokenizer is made of.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) splitter: Splitter,
    /// Bytes by id; special tokens with their text; an unused id is empty.
    pub(crate) tokens: Vec<Vec<u8>>,
    pub(crate) specials: Vec<Special>,
    /// (left, right, result) in rank order.
    pub(crate) merges: Vec<(u32, u32, u32)>,
    /// Is a piece that is a token encoded as that token, whatever the merges say?
    pub(crate) ignore_merges: bool,
}

/// A byte-level BPE tokenizer. Cheap to share between threads; caches are bounded and change no result.
pub struct Tokenizer {
    pub(crate) parts: Parts,
    pub(crate) added: Added,
    /// Ids of the 256 bytes.
    pub(crate) byte_ids: [u32; 256],
    pub(crate) merging: Merging,
    pub(crate) vocab: Vocab,
    pub(crate) joints: Joints,
    is_special: Vec<bool>,
    eot: u32,
    pub(crate) memories: Mutex<Vec<Box<Memory>>>,
}

impl Tokenizer {
    /// A tokenizer without a normaliser whose special tokens have no flags.
    pub(crate) fn from_parts(parts: Parts) -> Result<Self, TokenizerError> {
        let ranks = Ranks::new(parts.merges.iter().map(|&(left, right, _)| (left, right)));
        let special =
            |s: &Special| AddedToken { text: s.text.clone(), id: s.id, special: true, ..AddedToken::default() };
        let added = Added::new(parts.specials.iter().map(special).collect(), None);
        Self::assemble(parts, ranks, added)
    }

    /// A tokenizer of checked parts. `added` are the special tokens of `parts` again, with their flags.
    pub(crate) fn assemble(parts: Parts, ranks: Ranks, added: Added) -> Result<Self, TokenizerError> {
        let inconsistent = |what: String| TokenizerError::Inconsistent { what };
        let n = parts.tokens.len();
        if n > MAX_VOCAB {
            return Err(TokenizerError::VocabSize { vocab_size: n, least: 256, most: MAX_VOCAB });
        }
        let mut is_special = vec![false; n];
        parts.specials.iter().for_each(|special| is_special[special.id as usize] = true);
        let mut byte_ids = [u32::MAX; 256];
        for (id, token) in parts.tokens.iter().enumerate().filter(|(id, token)| token.len() == 1 && !is_special[*id]) {
            byte_ids[usize::from(token[0])] = id as u32;
        }
        if let Some(byte) = byte_ids.iter().position(|&id| id == u32::MAX) {
            return Err(inconsistent(format!("the vocabulary has no token for byte 0x{byte:02x}")));
        }
        for (rank, &(left, right, token)) in parts.merges.iter().enumerate() {
            let spelled = [&*parts.tokens[left as usize], &parts.tokens[right as usize]].concat();
            if spelled != parts.tokens[token as usize] {
                return Err(inconsistent(format!("merge {rank} does not spell its token")));
            }
        }
        let find = |name: &str| parts.specials.iter().find(|special| special.text == name).map(|special| special.id);
        let eot = find(END_OF_TEXT).or_else(|| OTHER_ENDS.iter().find_map(|name| find(name)));
        let eot = eot.ok_or(TokenizerError::NoEndOfText)?;
        let merging = Merging::new(ranks, byte_ids, &parts.merges);
        let mut ordinary: Vec<bool> = is_special.iter().map(|special| !special).collect();
        parts.merges.iter().for_each(|merge| ordinary[merge.2 as usize] = true); // an added token can be a merge too
        let ordinary = |&(token, id): &(&Vec<u8>, u32)| !token.is_empty() && ordinary[id as usize];
        let (mut vocab, mut heap, mut ids) = (Vocab::with_capacity(n), Heap::default(), Vec::new());
        for (token, id) in parts.tokens.iter().zip(0..).filter(ordinary) {
            ids.clear();
            merging.merge(token, &mut heap, &mut ids);
            let by_name_only = ids != [id];
            if !by_name_only || parts.ignore_merges {
                vocab.insert(token, Found { id, by_name_only });
            }
        }
        let joints = Joints::new(parts.merges.iter().map(|merge| parts.tokens[merge.2 as usize].as_slice()));
        Ok(Self { parts, added, byte_ids, merging, vocab, joints, is_special, eot, memories: Mutex::default() })
    }

    /// Number of ids: the largest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.parts.tokens.len()
    }

    /// Number of merges.
    pub fn n_merges(&self) -> usize {
        self.parts.merges.len()
    }

    /// How texts are cut before merging.
    pub fn splitter(&self) -> &Splitter {
        &self.parts.splitter
    }

    /// Bytes of a token; the text of a special token; empty for an id that does not exist.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.parts.tokens.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// A token as printable text, as `tokenizer.json` spells it ("Ġthe" for " the").
    pub fn token_name(&self, id: u32) -> String {
        match self.is_special(id) {
            true => String::from_utf8_lossy(self.token_bytes(id)).into_owned(),
            false => bytes::to_stand_ins(self.token_bytes(id), &bytes::stand_ins()),
        }
    }

    /// Is it a special token's id?
    pub fn is_special(&self, id: u32) -> bool {
        self.is_special.get(id as usize).copied().unwrap_or(false)
    }

    /// Id of a special token by its exact text.
    pub fn special_id(&self, text: &str) -> Option<u32> {
        self.parts.specials.iter().find(|special| special.text == text).map(|special| special.id)
    }

    /// Texts and ids of the special tokens.
    pub fn special_tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        self.parts.specials.iter().map(|special| (special.text.as_str(), special.id))
    }

    /// Id of the token that ends a document.
    pub fn eot_id(&self) -> u32 {
        self.eot
    }

    /// Bytes of a sequence of tokens, special tokens with their text.
    pub fn decode_bytes(&self, ids: &[u32]) -> Vec<u8> {
        let mut out = Vec::with_capacity(ids.len() * 5);
        ids.iter().for_each(|&id| out.extend_from_slice(self.token_bytes(id)));
        out
    }

    /// Text of a sequence of tokens, special tokens with their text. Bytes that are no UTF-8 turn into U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids)).into_owned()
    }

    /// `decode` without the special tokens. Added tokens that a file does not call special stay.
    pub fn decode_text(&self, ids: &[u32]) -> String {
        let left_out = |id: u32| self.is_special(id) && self.added.tokens.iter().any(|t| t.id == id && t.special);
        let ids: Vec<u32> = ids.iter().copied().filter(|&id| !left_out(id)).collect();
        self.decode(&ids)
    }
}

impl Clone for Tokenizer {
    fn clone(&self) -> Self {
        Self {
            parts: self.parts.clone(),
            added: self.added.clone(),
            byte_ids: self.byte_ids,
            merging: self.merging.clone(),
            vocab: self.vocab.clone(),
            joints: self.joints.clone(),
            is_special: self.is_special.clone(),
            eot: self.eot,
            memories: Mutex::default(),
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("n_merges", &self.n_merges())
            .field("splitter", &self.parts.splitter)
            .field("specials", &self.parts.specials)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TokenizerConfig, WordCounts, train};

    fn bytes_only() -> Tokenizer {
        train(&WordCounts::new(), &TokenizerConfig { vocab_size: 261, ..TokenizerConfig::default() }).unwrap()
    }

    #[test]
    fn specials_are_found_by_name_and_decoded_as_text() {
        let tokenizer = bytes_only();
        assert_eq!(tokenizer.eot_id(), 0);
        assert_eq!(tokenizer.special_id("<|end|>"), Some(4));
        assert_eq!(tokenizer.special_id("<|nope|>"), None);
        let ids = [&tokenizer.encode("é"), &[4][..]].concat();
        assert_eq!(tokenizer.decode(&ids), "é<|end|>");
        assert_eq!(tokenizer.decode_text(&ids), "é");
        assert_eq!(tokenizer.decode(&ids[..1]), "\u{fffd}");
        assert_eq!(tokenizer.decode(&[]), "");
        assert_eq!(tokenizer.decode(&[9999]), "");
        assert_eq!(tokenizer.token_name(tokenizer.encode(" ")[0]), "Ġ");
    }
}
