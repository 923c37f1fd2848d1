//! Rank files of tiktoken: reading and writing.
//!
//! In: lines `BASE64 RANK`, one a token, where the rank is the id; the split and the special tokens stand elsewhere, so the
//! caller names them. Out: a tokenizer with the same ids, or the file. tiktoken merges the neighbours whose joined bytes have
//! the lowest rank, and takes a piece that is a token as that token. Here every token is taken apart once by the ranks below
//! its own: two parts are its merge. A token that does not come apart in two (no merge order made it) gets all its pairs.

use crate::{
    Parts, Special, Tokenizer, TokenizerError,
    added::{Added, AddedToken},
    ranks::{NONE, Ranks},
    split::Splitter,
};

fn inconsistent(what: String) -> TokenizerError {
    TokenizerError::Inconsistent { what }
}

impl Tokenizer {
    /// Reads the bytes of a rank file. `specials` are (text, id) beside its ranks; one must end documents
    /// ([`crate::END_OF_TEXT`] or a usual other name).
    pub fn from_ranks(file: &[u8], splitter: Splitter, specials: &[(&str, u32)]) -> Result<Self, TokenizerError> {
        let mut tokens = read(file)?;
        let (merges, ranks) = merges(&tokens)?;
        for &(text, id) in specials {
            let at = id as usize;
            if at >= crate::MAX_VOCAB || text.is_empty() || tokens.get(at).is_some_and(|token| !token.is_empty()) {
                return Err(inconsistent(format!("special token `{text}` cannot have the id {id}")));
            }
            if tokens.iter().any(|token| token == text.as_bytes()) {
                return Err(inconsistent(format!("special token `{text}` is an ordinary token too")));
            }
            if tokens.len() <= at {
                tokens.resize(at + 1, Vec::new());
            }
            tokens[at] = text.as_bytes().to_vec();
        }
        let added = specials.iter().map(|&(text, id)| AddedToken {
            text: text.to_owned(),
            id,
            special: true,
            ..AddedToken::default()
        });
        let added = Added::new(added.collect(), None);
        let specials = specials.iter().map(|&(text, id)| Special { text: text.to_owned(), id }).collect();
        Self::assemble(Parts { splitter, tokens, specials, merges, ignore_merges: true }, ranks, added)
    }

    /// The rank file with which tiktoken gives the same ids. Refuses a vocabulary whose merges do not follow from its ids.
    pub fn to_ranks(&self) -> Result<Vec<u8>, TokenizerError> {
        let refuse =
            |what: &str| Err(inconsistent(format!("not writable as a rank file: {what}; write tokenizer.json")));
        if self.added.form.is_some() {
            return refuse("it normalises texts, which tiktoken does not");
        }
        let parts = &self.parts;
        if !parts.merges.is_sorted_by_key(|merge| merge.2) {
            return refuse("its ids do not rise with the ranks of its merges");
        }
        let mut out = Vec::new();
        for (token, id) in parts.tokens.iter().zip(0..).filter(|(token, id)| !token.is_empty() && !self.is_special(*id))
        {
            base64(token, &mut out);
            out.extend_from_slice(format!(" {id}\n").as_bytes());
        }
        let (merges, _) = merges(&read(&out)?)?;
        let whole =
            |id: u32| self.vocab.get(self.token_bytes(id), &parts.tokens).is_none_or(|found| found.by_name_only);
        let foreign = (0..parts.tokens.len() as u32)
            .filter(|&id| !self.token_bytes(id).is_empty() && !self.is_special(id))
            .any(whole);
        let mut ours: Vec<_> = parts.merges.clone();
        ours.sort_unstable();
        let known = merges.iter().all(|merge| ours.binary_search(merge).is_ok());
        if !known || foreign && (!parts.ignore_merges || merges.len() != ours.len()) {
            return refuse("a token is not made by the merges that its bytes suggest");
        }
        Ok(out)
    }
}

/// Bytes by id.
fn read(file: &[u8]) -> Result<Vec<Vec<u8>>, TokenizerError> {
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    for (line, number) in file.split(|&byte| byte == b'\n').zip(1_usize..) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let fault = |what: &str| inconsistent(format!("line {number} of the rank file {what}"));
        let space = line.iter().position(|&byte| byte == b' ').ok_or_else(|| fault("is not `BASE64 RANK`"))?;
        let token = unbase64(&line[..space]).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| fault("has no base64 before its space"))?;
        let rank = str::from_utf8(&line[space + 1..]).ok().and_then(|rank| rank.trim().parse::<usize>().ok());
        let rank = rank.filter(|&rank| rank < crate::MAX_VOCAB);
        let rank = rank.ok_or_else(|| fault(&format!("has no rank below {} after its space", crate::MAX_VOCAB)))?;
        if tokens.len() <= rank {
            tokens.resize(rank + 1, Vec::new());
        }
        if !tokens[rank].is_empty() {
            return Err(fault(&format!("gives rank {rank} again")));
        }
        tokens[rank] = token;
    }
    Ok(tokens)
}

type Merges = (Vec<(u32, u32, u32)>, Ranks);

/// The merges that the ranks mean, and the rank of each pair.
fn merges(tokens: &[Vec<u8>]) -> Result<Merges, TokenizerError> {
    let mut ids = std::collections::HashMap::with_capacity(tokens.len());
    for (token, id) in tokens.iter().zip(0_u32..).filter(|(token, _)| !token.is_empty()) {
        if let Some(other) = ids.insert(token.as_slice(), id) {
            return Err(inconsistent(format!("ranks {other} and {id} are the same bytes")));
        }
    }
    let mut byte_ids = [0; 256];
    for (byte, slot) in (0..=255_u8).zip(&mut byte_ids) {
        let id = ids.get([byte].as_slice());
        *slot = *id.ok_or_else(|| inconsistent(format!("the vocabulary has no token for byte 0x{byte:02x}")))?;
    }
    let mut ranks = Ranks::with_capacity(tokens.len() + tokens.len() / 8);
    let mut merges: Vec<(u32, u32, u32)> = Vec::with_capacity(tokens.len());
    let (mut parts, mut before) = (Vec::new(), Vec::new());
    for (token, id) in tokens.iter().zip(0_u32..).filter(|(token, _)| token.len() > 1) {
        apart(token, &byte_ids, &ranks, &merges, &mut parts, &mut before);
        let rank = merges.len() as u32;
        if let [left, right] = parts[..] {
            merges.push((left, right, id));
            ranks.insert(left, right, rank);
            continue;
        }
        for cut in 1..token.len() {
            if let (Some(&left), Some(&right)) = (ids.get(&token[..cut]), ids.get(&token[cut..])) {
                merges.push((left, right, id));
                if merges.len() >= crate::MAX_VOCAB {
                    return Err(inconsistent("the ranks follow from no merges".to_owned()));
                }
                ranks = grown(ranks, &merges);
                ranks.insert(left, right, rank); // all pairs of a token are worth the same
            }
        }
    }
    Ok((merges, ranks))
}

/// A table with room for one more; the pairs of one token share the first one's rank.
fn grown(ranks: Ranks, merges: &[(u32, u32, u32)]) -> Ranks {
    if ranks.has_room_for(merges.len()) {
        return ranks;
    }
    let mut larger = Ranks::with_capacity(2 * merges.len());
    for &(left, right, _) in &merges[..merges.len() - 1] {
        larger.insert(left, right, ranks.get(left, right));
    }
    larger
}

/// Ids of a token's bytes merged by the ranks known so far.
fn apart(
    token: &[u8],
    byte_ids: &[u32; 256],
    ranks: &Ranks,
    merges: &[(u32, u32, u32)],
    ids: &mut Vec<u32>,
    pairs: &mut Vec<u32>,
) {
    ids.clear();
    ids.extend(token.iter().map(|&byte| byte_ids[usize::from(byte)]));
    pairs.clear();
    pairs.extend(ids.windows(2).map(|pair| ranks.get(pair[0], pair[1])));
    while let Some((&rank, at)) = pairs.iter().zip(0..).min() {
        if rank == NONE {
            return;
        }
        ids[at] = merges[rank as usize].2;
        ids.remove(at + 1);
        pairs.remove(at);
        if at < pairs.len() {
            pairs[at] = ranks.get(ids[at], ids[at + 1]);
        }
        if at > 0 {
            pairs[at - 1] = ranks.get(ids[at - 1], ids[at]);
        }
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, with padding.
fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.chunks(3) {
        let mut three = [0; 4];
        three[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(three);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= chunk.len() { digit } else { b'=' });
        }
    }
}

fn unbase64(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.iter().rposition(|&byte| byte != b'=').map_or(&[][..], |last| &text[..=last]);
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() * 3 / 4);
    for chunk in digits.chunks(4) {
        let mut bits = 0_u32;
        for &digit in chunk {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - chunk.len());
        out.extend_from_slice(&bits.to_be_bytes()[1..chunk.len()]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{END_OF_TEXT, Split, TokenizerConfig, count_all, train};

    const TEXT: &str = include_str!("../fixtures/multilingual.txt");

    fn trained(ties: crate::Ties) -> Tokenizer {
        let config = TokenizerConfig { vocab_size: 2000, ties, ..TokenizerConfig::default() };
        train(&count_all(&[TEXT], &config.splitter().unwrap()), &config).unwrap()
    }

    #[test]
    fn what_was_trained_comes_back_from_its_rank_file_with_equal_ids() {
        for ties in [crate::Ties::Hf, crate::Ties::Raw, crate::Ties::Greatest] {
            let ours = trained(ties);
            let file = ours.to_ranks().unwrap();
            let specials: Vec<(&str, u32)> = ours.special_tokens().collect();
            let back = Tokenizer::from_ranks(&file, ours.splitter().clone(), &specials).unwrap();
            assert_eq!(back.to_ranks().unwrap(), file);
            assert_eq!(back.parts.merges, ours.parts.merges);
            assert_eq!(back.encode(TEXT), ours.encode(TEXT));
            let json = Tokenizer::from_json(&back.to_json()).unwrap();
            assert_eq!(json.to_ranks().unwrap(), file);
        }
    }

    /// What tiktoken does, by its definition: the lowest rank of joined neighbours, leftmost first.
    fn by_definition(tokens: &[Vec<u8>], piece: &[u8]) -> Vec<u32> {
        let rank = |bytes: &[u8]| tokens.iter().position(|token| token == bytes);
        if let Some(id) = rank(piece) {
            return vec![id as u32];
        }
        let mut parts: Vec<Vec<u8>> = piece.iter().map(|&byte| vec![byte]).collect();
        loop {
            let joined = parts.windows(2).map(|two| rank(&two.concat()));
            let Some((best, i)) = joined.enumerate().filter_map(|(i, rank)| rank.map(|rank| (rank, i))).min() else {
                break;
            };
            parts.splice(i..i + 2, [tokens[best].clone()]);
        }
        parts.iter().map(|part| rank(part).unwrap() as u32).collect()
    }

    #[test]
    fn ranks_that_no_merging_made_are_followed_by_the_definition() {
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        // "cab" comes before what it is made of, "abcabc" in no two parts; "ca" and "bc" overlap.
        for token in ["bc", "cab", "ca", "ab", "abc", "abcabc", "aa", "aaaa", "aaa", "bcaab"] {
            tokens.push(token.as_bytes().to_vec());
        }
        let mut file = Vec::new();
        for (token, rank) in tokens.iter().zip(0..) {
            base64(token, &mut file);
            file.extend_from_slice(format!(" {rank}\n").as_bytes());
        }
        let splitter = Splitter::new(&Split::Gpt2, false).unwrap();
        let tokenizer = Tokenizer::from_ranks(&file, splitter, &[(END_OF_TEXT, 400)]).unwrap();
        let mut state = 3_u64;
        for len in 0..600_usize {
            let piece: String = (0..1 + len % 40)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(11);
                    char::from(b'a' + (state >> 33) as u8 % 3)
                })
                .collect();
            assert_eq!(tokenizer.encode(&piece), by_definition(&tokens, piece.as_bytes()), "{piece}");
        }
        assert_eq!(tokenizer.vocab_size(), 401);
        assert_eq!(tokenizer.to_ranks().unwrap(), file);
    }

    #[test]
    fn a_long_token_that_no_merging_makes_is_found_as_a_whole_piece_only() {
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        tokens.extend(["э", "л", "е", "к", "т", "р", "о", "н", "ж"].map(|t| t.as_bytes().to_vec()));
        // Its neighbours can be joined, so it is one segment of a longer piece, but the pairs never become the whole.
        let pairs = ["эл", "ек", "тр", "он", " э", "ле", "кт", "ро", " электрон"];
        tokens.extend(pairs.map(|t| t.as_bytes().to_vec()));
        let mut file = Vec::new();
        for (token, rank) in tokens.iter().zip(0..) {
            base64(token, &mut file);
            file.extend_from_slice(format!(" {rank}\n").as_bytes());
        }
        let splitter = Splitter::new(&Split::Gpt2, false).unwrap();
        let tokenizer = Tokenizer::from_ranks(&file, splitter, &[(END_OF_TEXT, 400)]).unwrap();
        for piece in [" электрон", " электронж", " электрон", "ж электронж"] {
            let pieces = piece.strip_prefix("ж").map_or(vec![piece], |rest| vec!["ж", rest]);
            let expected: Vec<u32> = pieces.iter().flat_map(|p| by_definition(&tokens, p.as_bytes())).collect();
            assert_eq!(tokenizer.encode(piece), expected, "{piece}");
        }
    }

    #[test]
    fn damaged_rank_files_are_refused_with_their_line() {
        let splitter = || Splitter::new(&Split::Gpt2, false).unwrap();
        let good = trained(crate::Ties::Hf).to_ranks().unwrap();
        let fault = |file: &[u8], specials: &[(&str, u32)]| {
            Tokenizer::from_ranks(file, splitter(), specials).unwrap_err().to_string()
        };
        for (line, expected) in [
            ("x", "BASE64 RANK"),
            ("A=A= 9", "base64"),
            ("QQ== x", "rank"),
            ("QUJD 7", "again"),
            ("IQ== 999999", "same bytes"),
        ] {
            let file = [line.as_bytes(), b"\n", &good].concat();
            assert!(fault(&file, &[]).contains(expected), "{line}: {}", fault(&file, &[]));
        }
        assert!(fault(b"", &[]).contains("0x00"));
        assert!(fault(&good, &[]).contains(END_OF_TEXT));
        assert!(fault(&good, &[(END_OF_TEXT, 7)]).contains("cannot have the id 7"));
        assert!(fault(&good, &[(END_OF_TEXT, 5000), ("a", 5001)]).contains("an ordinary token too"));
    }

    #[test]
    fn base64_comes_back_at_every_length() {
        for len in 0..20_u8 {
            let bytes: Vec<u8> = (0..len).map(|i| i.wrapping_mul(91).wrapping_add(200)).collect();
            let mut text = Vec::new();
            base64(&bytes, &mut text);
            assert_eq!(unbase64(&text), Some(bytes));
        }
        let mut text = Vec::new();
        base64(b"any carnal pleas", &mut text);
        assert_eq!(text, b"YW55IGNhcm5hbCBwbGVhcw==");
    }
}
