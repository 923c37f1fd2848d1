//! A smaller vocabulary without the tokens that a text never uses.
//!
//! In: a tokenizer and how often each id was used. Out: a tokenizer with the ids that are needed, and which old id each new
//! one was. Special tokens and the 256 bytes stay, so it still encodes everything; so do the parts of every kept token, since
//! its merges go through them. A text whose old ids all stay is cut into the same tokens as before: a merge on the way to a
//! kept token builds a part of it. Leaves counting to `report`.

use crate::{Parts, Special, Tokenizer, TokenizerError};

/// A tokenizer and where its ids come from.
#[derive(Clone, Debug)]
pub struct Pruned {
    /// The smaller tokenizer; ids keep their order.
    pub tokenizer: Tokenizer,
    /// By new id: the old id, rising.
    pub old_ids: Vec<u32>,
}

/// Drops every token that was used less than `min_count` times and is no part of a token that stays. `usage` has one count
/// for each old id.
pub fn prune(tokenizer: &Tokenizer, usage: &[u64], min_count: u64) -> Result<Pruned, TokenizerError> {
    let parts = &tokenizer.parts;
    if usage.len() != parts.tokens.len() {
        return Err(TokenizerError::Usage { got: usage.len(), expected: parts.tokens.len() });
    }
    let mut kept: Vec<bool> = usage.iter().map(|&count| count >= min_count.max(1)).collect();
    parts.specials.iter().for_each(|special| kept[special.id as usize] = true);
    tokenizer.byte_ids.iter().for_each(|&id| kept[id as usize] = true);
    let mut changed = true;
    while changed {
        changed = false;
        // Parts are older than what they make, so that one pass is enough for a table that training made.
        for &(left, right, token) in parts.merges.iter().rev() {
            if kept[token as usize] && !(kept[left as usize] && kept[right as usize]) {
                (kept[left as usize], kept[right as usize]) = (true, true);
                changed = true;
            }
        }
    }
    let old_ids: Vec<u32> = (0..kept.len() as u32).filter(|&id| kept[id as usize]).collect();
    let mut new_ids = vec![u32::MAX; kept.len()];
    old_ids.iter().zip(0..).for_each(|(&old, new)| new_ids[old as usize] = new);
    let new = |old: u32| new_ids[old as usize];
    let stays = |&&(left, right, token): &&(u32, u32, u32)| [left, right, token].iter().all(|&id| kept[id as usize]);
    let tokenizer = Tokenizer::from_parts(Parts {
        splitter: parts.splitter.clone(),
        tokens: old_ids.iter().map(|&old| parts.tokens[old as usize].clone()).collect(),
        specials: parts.specials.iter().map(|s| Special { text: s.text.clone(), id: new(s.id) }).collect(),
        merges: parts.merges.iter().filter(stays).map(|&(a, b, token)| (new(a), new(b), new(token))).collect(),
        ignore_merges: parts.ignore_merges,
    })?;
    Ok(Pruned { tokenizer, old_ids })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TokenizerConfig, train};

    #[test]
    fn used_tokens_their_parts_bytes_and_specials_stay_and_the_text_is_cut_as_before() {
        let config = TokenizerConfig { vocab_size: 3000, ..TokenizerConfig::default() };
        let texts = [include_str!("../../fixtures/shakespeare.txt"), include_str!("../../fixtures/multilingual.txt")];
        let tokenizer = train(&crate::count_all(&texts, &config.splitter().unwrap()), &config).unwrap();
        let (ids, mut usage) = (tokenizer.encode(texts[0]), vec![0; tokenizer.vocab_size()]);
        ids.iter().for_each(|&id| usage[id as usize] += 1);
        for min_count in [0, 1, 20] {
            let pruned = prune(&tokenizer, &usage, min_count).unwrap();
            let size = pruned.tokenizer.vocab_size();
            assert!(size < 2900 && size > 261, "{size}");
            let read = Tokenizer::from_json(&pruned.tokenizer.to_json()).unwrap();
            let again = read.encode(texts[0]);
            assert_eq!(read.decode(&again), texts[0]);
            if min_count < 2 {
                let old: Vec<u32> = again.iter().map(|&id| pruned.old_ids[id as usize]).collect();
                assert_eq!(old, ids);
            }
            assert_eq!(read.decode(&read.encode(texts[1])), texts[1]);
            assert_eq!(read.special_id("<|end|>"), Some(4));
        }
        let everything = prune(&tokenizer, &vec![1; 3000], 1).unwrap();
        assert_eq!(everything.tokenizer.to_json(), tokenizer.to_json());
        assert_eq!(prune(&tokenizer, &vec![0; 3000], 1).unwrap().tokenizer.vocab_size(), 261);
        assert!(prune(&tokenizer, &[1, 2], 1).unwrap_err().to_string().contains("3000"));
    }
}
