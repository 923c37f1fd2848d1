//! Superwords: a second training phase whose merges reach across the pieces of the first.
//!
//! In: a trained tokenizer, counts of longer pieces ("chunks": lines, say), a larger vocabulary size. Out: a tokenizer that
//! cuts texts into chunks, with all merges of the first and then the new ones, which may hold several words. SuperBPE (Liu et
//! al. 2025, arXiv 2503.13423), in the form of Schmidt et al. (arXiv 2604.05192) that counts equal chunks once. The chunks are
//! first merged by the old merges in their order, which is what encoding does, so training and encoding see the same symbols;
//! at edges that the first split drew and the second does not, an old merge can now apply. Leaves counting to `words`.

use std::collections::HashMap;

use super::{
    Ties, check_words,
    merges::{Merge, Request, learn},
};
use crate::{
    Parts, Tokenizer, TokenizerError,
    split::{Split, Splitter},
    words::WordCounts,
};

/// What the second phase learns.
#[derive(Clone, Debug, PartialEq)]
pub struct SuperwordConfig {
    /// Number of ids at the end, those of the first phase included. Fewer if the text runs out of pairs.
    pub vocab_size: usize,
    /// How texts are cut into chunks. The default ends chunks at line breaks and keeps groups of up to three numbers apart.
    pub split: Split,
    /// Which of two equally frequent pairs is merged first; best the rule of the first phase.
    pub ties: Ties,
    /// Most words in a token: spaces after its first character, plus one.
    pub max_words: usize,
}

impl Default for SuperwordConfig {
    fn default() -> Self {
        let split = Split::Regex(r"[^\r\n\p{N}]+|\p{N}{1,3}|[\r\n]+".to_owned());
        Self { vocab_size: 40_960, split, ties: Ties::default(), max_words: 4 }
    }
}

impl SuperwordConfig {
    /// The splitter that counting must use.
    pub fn splitter(&self) -> Result<Splitter, TokenizerError> {
        Ok(Splitter::new(&self.split, false)?)
    }
}

/// Goes on from `base` on counted chunks. Ids of `base` keep their meaning; the new ones follow. No merge builds the text of a
/// special token. Memory grows with the unique chunks: about 12 bytes for each of theirs, and 72 for each different pair.
pub fn superwords(
    base: &Tokenizer,
    chunks: &WordCounts,
    config: &SuperwordConfig,
) -> Result<Tokenizer, TokenizerError> {
    let parts = &base.parts;
    let (least, most) = (parts.tokens.len(), crate::MAX_VOCAB);
    if config.vocab_size < least || config.vocab_size > most {
        return Err(TokenizerError::VocabSize { vocab_size: config.vocab_size, least, most });
    }
    check_words(chunks)?;
    let order = config.ties.byte_order();
    let mut ids: Vec<u32> = order.iter().map(|&byte| base.byte_ids[usize::from(byte)]).collect(); // by symbol
    let mut symbols: HashMap<u32, u32> = ids.iter().copied().zip(0..).collect();
    let mut merges = Vec::with_capacity(parts.merges.len());
    for &(left, right, id) in &parts.merges {
        let token = *symbols.entry(id).or_insert_with(|| {
            ids.push(id);
            ids.len() as u32 - 1
        });
        let known = |id| symbols.get(&id).copied().ok_or_else(|| unordered(base, id));
        merges.push(Merge { left: known(left)?, right: known(right)?, token });
    }
    let is_special = |bytes: &[u8]| parts.specials.iter().any(|special| special.text.as_bytes() == bytes);
    let spaces = |bytes: &[u8]| bytes.iter().skip(1).filter(|byte| **byte == b' ').count();
    let request = Request {
        order: &order,
        ties: config.ties,
        forbidden: &|bytes| is_special(bytes) || spaces(bytes) >= config.max_words,
        n_symbols: ids.len() + config.vocab_size - least,
        base: &merges,
    };
    let (new_merges, spelled) = learn(chunks, request, None)?;
    let new_symbols = ids.len() as u32..spelled.len() as u32;
    ids.extend((least as u32..).take(new_symbols.len()));
    let mut tokens = parts.tokens.clone();
    tokens.extend(new_symbols.map(|symbol| spelled.get(symbol).to_vec()));
    let id = |symbol: u32| ids[symbol as usize];
    let new_merges = new_merges.iter().map(|merge| (id(merge.left), id(merge.right), id(merge.token)));
    Tokenizer::from_parts(Parts {
        splitter: config.splitter()?,
        tokens,
        specials: parts.specials.clone(),
        merges: parts.merges.iter().copied().chain(new_merges).collect(),
        ignore_merges: false,
    })
}

fn unordered(base: &Tokenizer, id: u32) -> TokenizerError {
    let name = base.token_name(id);
    TokenizerError::Inconsistent { what: format!("a merge uses `{name}` before a merge makes it: train the base here") }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{TokenizerConfig, count_all, train};

    const TEXTS: [&str; 2] =
        [include_str!("../../fixtures/shakespeare.txt"), include_str!("../../fixtures/multilingual.txt")];

    fn base(texts: &[&str], vocab_size: usize, ties: Ties) -> Tokenizer {
        let config = TokenizerConfig { vocab_size, ties, ..TokenizerConfig::default() };
        train(&count_all(texts, &config.splitter().unwrap()), &config).unwrap()
    }

    fn extended(base: &Tokenizer, texts: &[&str], config: &SuperwordConfig) -> Tokenizer {
        superwords(base, &count_all(texts, &config.splitter().unwrap()), config).unwrap()
    }

    /// The definition: cut into chunks, encode with the base, and count every pair anew before each merge.
    fn recounted(base: &Tokenizer, texts: &[&str], config: &SuperwordConfig) -> Vec<Vec<u8>> {
        let chunked = Parts { splitter: config.splitter().unwrap(), ..base.parts.clone() };
        let chunked = Tokenizer::from_parts(chunked).unwrap();
        let mut chunks: Vec<Vec<u32>> = Vec::new();
        for text in texts {
            config.splitter().unwrap().pieces(text, &mut |piece| chunks.push(chunked.encode(piece)));
        }
        let mut tokens = base.parts.tokens.clone();
        while tokens.len() < config.vocab_size {
            let mut counts: HashMap<(u32, u32), u64> = HashMap::new();
            chunks.iter().flat_map(|chunk| chunk.windows(2)).for_each(|pair| {
                *counts.entry((pair[0], pair[1])).or_default() += 1;
            });
            let spell = |(a, b): (u32, u32)| [&*tokens[a as usize], &tokens[b as usize]].concat();
            let words = |bytes: &[u8]| bytes[1..].split(|byte| *byte == b' ').count();
            let best = counts.into_iter().filter(|(pair, _)| words(&spell(*pair)) <= config.max_words);
            let Some((pair, _)) = best.max_by_key(|&(pair, count)| (count, std::cmp::Reverse(pair))) else { break };
            let token = spell(pair);
            let id = tokens.iter().position(|known| *known == token).unwrap_or(tokens.len()) as u32;
            if id as usize == tokens.len() {
                tokens.push(token);
            }
            for chunk in &mut chunks {
                let mut i = 0;
                while i + 1 < chunk.len() {
                    if (chunk[i], chunk[i + 1]) == pair {
                        chunk[i] = id;
                        chunk.remove(i + 1);
                    }
                    i += 1;
                }
            }
        }
        tokens
    }

    #[test]
    fn the_second_phase_equals_a_full_recount_of_encoded_chunks() {
        let texts: Vec<&str> = TEXTS.iter().map(|text| &text[..text.floor_char_boundary(12_000)]).collect();
        let base = base(&texts, 600, Ties::Hf);
        for max_words in [1, 2, 9] {
            let config = SuperwordConfig { vocab_size: 760, max_words, ..SuperwordConfig::default() };
            let expected = recounted(&base, &texts, &config);
            assert_eq!(extended(&base, &texts, &config).parts.tokens, expected, "{max_words}");
        }
    }

    #[test]
    fn superwords_make_texts_shorter_than_as_many_words_and_keep_old_ids() {
        let first = base(&TEXTS, 2000, Ties::Raw);
        let config = SuperwordConfig { vocab_size: 3000, ties: Ties::Raw, ..SuperwordConfig::default() };
        let longer = extended(&first, &TEXTS, &config);
        assert_eq!(longer.vocab_size(), 3000);
        assert!((0..2000).all(|id| first.token_bytes(id) == longer.token_bytes(id)));
        let across = |id: &u32| longer.token_bytes(*id)[1..].contains(&b' ');
        let n = (2000..3000).filter(across).count();
        assert!(n > 50, "{n} tokens hold a space");
        let read = Tokenizer::from_json(&longer.to_json()).unwrap();
        let ids = read.encode(TEXTS[0]);
        assert_eq!(read.decode(&ids), TEXTS[0]);
        assert!(ids.len() < base(&TEXTS, 3000, Ties::Raw).encode(TEXTS[0]).len());
        let theirs = tokenizers::Tokenizer::from_bytes(longer.to_json()).unwrap();
        assert_eq!(theirs.encode_fast(TEXTS[0], false).unwrap().get_ids(), ids);
    }

    #[test]
    fn no_chunks_and_a_smaller_vocabulary() {
        let base = base(&TEXTS[..1], 300, Ties::Hf);
        let config = SuperwordConfig { vocab_size: 400, ..SuperwordConfig::default() };
        assert_eq!(superwords(&base, &WordCounts::new(), &config).unwrap().vocab_size(), 300);
        let config = SuperwordConfig { vocab_size: 299, ..config };
        assert!(superwords(&base, &WordCounts::new(), &config).unwrap_err().to_string().contains("300"));
    }
}
