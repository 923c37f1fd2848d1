//! Tests against Hugging Face `tokenizers`, the crate: the same merges from the same text, the same ids from the same file.

use std::collections::HashMap;

use tokenizers::{
    AddedToken, Tokenizer as Theirs, TokenizerImpl,
    decoders::DecoderWrapper,
    models::bpe::{BPE, BpeTrainerBuilder},
    normalizers::NormalizerWrapper,
    pre_tokenizers::{
        PreTokenizerWrapper,
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split as TheirSplit, SplitPattern},
    },
    processors::PostProcessorWrapper,
    tokenizer::normalizer::SplitDelimiterBehavior,
};

use crate::{
    Tokenizer, bytes,
    split::{Split, Splitter},
    train::{TokenizerConfig, train},
    words::{WordCounts, count, count_all},
};

const TEXTS: [&str; 3] = [
    include_str!("../fixtures/shakespeare.txt"),
    include_str!("../fixtures/multilingual.txt"),
    include_str!("../fixtures/peps.txt"),
];
const SPLITS: [(&str, bool); 6] =
    [("gpt2", false), ("gpt2", true), ("cl100k", false), ("llama3", true), ("o200k", false), ("o200k", true)];
/// A user's own regex, with a look-ahead and text that it does not match.
const OWN: (&str, bool) = (r"\p{L}+(?!\p{L})|\p{N}|[^\s\p{L}\p{N}]+", false);

fn config(split: &str, single_digits: bool, vocab_size: usize) -> TokenizerConfig {
    TokenizerConfig { vocab_size, split: split.parse().unwrap(), single_digits, ..TokenizerConfig::default() }
}

fn ours(config: &TokenizerConfig) -> Tokenizer {
    train(&count_all(&TEXTS, &config.splitter().unwrap()), config).unwrap()
}

/// Trains with `tokenizers` on the same texts.
fn theirs(config: &TokenizerConfig) -> Theirs {
    type Trainable = TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;
    let mut tokenizer = Trainable::new(BPE::default());
    let pattern = SplitPattern::Regex(config.splitter().unwrap().pattern().to_owned());
    let split = TheirSplit::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
    let byte_level = ByteLevel::new(false, true, false);
    let sequence = Sequence::new(vec![split.into(), byte_level.into()]);
    tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(sequence)));
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(config.vocab_size)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(config.special_tokens.iter().map(|text| AddedToken::from(text.clone(), true)).collect())
        .build();
    tokenizer.train(&mut trainer, TEXTS.iter()).unwrap();
    serde_json::from_str(&tokenizer.to_string(false).unwrap()).unwrap()
}

fn vocab(tokenizer: &Theirs) -> HashMap<String, u32> {
    tokenizer.get_vocab(true).into_iter().collect()
}

fn their_ids(tokenizer: &Theirs, text: &str) -> Vec<u32> {
    tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec()
}

#[test]
fn merges_and_ids_equal_those_of_hugging_face_on_real_text() {
    for (split, single_digits) in SPLITS.into_iter().chain([OWN]) {
        let config = config(split, single_digits, 6000);
        let (ours, theirs) = (ours(&config), theirs(&config));
        let file: serde_json::Value = serde_json::from_str(&theirs.to_string(false).unwrap()).unwrap();
        let our_file: serde_json::Value = serde_json::from_slice(&ours.to_json()).unwrap();
        assert_eq!(our_file["model"]["merges"], file["model"]["merges"], "{split} {single_digits}");
        assert_eq!(our_file["model"]["vocab"], file["model"]["vocab"], "{split} {single_digits}");
        assert_eq!(ours.vocab_size(), 6000);
        let read = Tokenizer::from_json(theirs.to_string(false).unwrap().as_bytes()).unwrap();
        for text in TEXTS.map(beginning) {
            for line in text.split_inclusive("\n\n") {
                let ids = ours.encode(line);
                assert_eq!(ids, their_ids(&theirs, line), "{split} {line:?}");
                assert_eq!(read.encode(line), ids);
                assert_eq!(ours.decode(&ids), line);
            }
        }
    }
}

#[test]
fn our_file_loads_in_hugging_face_with_equal_ids_specials_included() {
    for (split, single_digits) in SPLITS.into_iter().chain([(r"\p{L}+|\s", false)]) {
        let ours = ours(&config(split, single_digits, 3000));
        let theirs = Theirs::from_bytes(ours.to_json()).unwrap();
        assert_eq!(vocab(&theirs).len(), ours.vocab_size());
        for text in [
            "",
            "one",
            "<|user|>What's 12345 + 6?<|end|><|assistant|> It's\n\n 12,351 <|end|><|endoftext|>",
            "<|<|user|>|> <|END|> <|end|<|end|>>",
            "漢字かな交じり文  ﷽ \u{200d}👩‍👩‍👧 e\u{301}\u{301} ſ'ſ DON'T",
            "\r\n\t \u{a0}\u{3000} \u{85}\n \n  x\n",
        ] {
            let ids = ours.encode_with_specials(text);
            assert_eq!(ids, their_ids(&theirs, text), "{split} {text:?}");
            assert_eq!(theirs.decode(&ids, false).unwrap(), ours.decode(&ids));
            assert_eq!(theirs.decode(&ids, true).unwrap(), ours.decode_text(&ids));
        }
        for text in TEXTS.map(beginning) {
            assert_eq!(ours.encode(text), their_ids(&theirs, text), "{split}");
        }
    }
}

/// The first 20,000 characters.
fn beginning(text: &str) -> &str {
    text.char_indices().nth(20_000).map_or(text, |(end, _)| &text[..end])
}

/// Inside the large blocks of one class (ideographs, Hangul, private use, unassigned planes) every 61st scalar is taken;
/// `unicode` checks the class of every single one.
fn is_sampled(code: u32) -> bool {
    let uniform =
        matches!(code, 0x3400..=0x9fff | 0xac00..=0xd7a3 | 0xe000..=0xf8ff | 0x1_7000..=0x1_8cff | 0x2_0000..);
    !uniform || code.is_multiple_of(61)
}

#[test]
fn ids_equal_hugging_face_around_every_kind_of_scalar() {
    let scalars: Vec<char> = (0..=0x10_ffff).filter(|&code| is_sampled(code)).filter_map(char::from_u32).collect();
    for (split, single_digits) in [("gpt2", false), ("cl100k", false), ("o200k", true)] {
        let ours = ours(&config(split, single_digits, 1500));
        let theirs = Theirs::from_bytes(ours.to_json()).unwrap();
        for group in scalars.chunks(64) {
            let around = |c: &char| format!("{c}\n{c}{c} {c}7{c}'{c}'s{c}B \n{c} {c}");
            let text: String = group.iter().map(around).collect();
            assert_eq!(ours.encode(&text), their_ids(&theirs, &text), "{split} {text:?}");
        }
    }
}

#[test]
fn a_merge_table_in_which_late_merges_have_low_ranks_is_followed_as_hugging_face_does() {
    // Not a table that training makes: "b c" is worth more than "a b", and "abc" can be spelled in two ways.
    let base = train(&WordCounts::new(), &config("gpt2", false, 261)).unwrap();
    let text = String::from_utf8(base.to_json()).unwrap();
    let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (id, token) in (261..).zip(["bc", "ab", "abc", "cab", "abcab", "aa", "aaa"]) {
        file["model"]["vocab"][token] = id.into();
    }
    file["model"]["merges"] = serde_json::json!([
        ["a", "bc"],
        ["a", "a"],
        ["b", "c"],
        ["ab", "c"],
        ["a", "b"],
        ["c", "ab"],
        ["abc", "ab"],
        ["aa", "a"]
    ]);
    let bytes = file.to_string();
    let (ours, theirs) = (Tokenizer::from_json(bytes.as_bytes()).unwrap(), Theirs::from_bytes(&bytes).unwrap());
    let mut state = 3_u64;
    for len in 0..400_usize {
        let piece: String = (0..len % 90)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(11);
                char::from(b'a' + (state >> 33) as u8 % 3)
            })
            .collect();
        assert_eq!(ours.encode(&piece), their_ids(&theirs, &piece), "{piece}");
    }
}

#[test]
fn the_order_of_texts_and_the_tie_rule_show_only_where_they_should() {
    let config = config("cl100k", false, 3000);
    let splitter = config.splitter().unwrap();
    let mut backwards = WordCounts::new();
    TEXTS.iter().rev().flat_map(|text| text.lines()).for_each(|line| count(line, &splitter, &mut backwards));
    let mut forwards = WordCounts::new();
    TEXTS.iter().flat_map(|text| text.lines()).for_each(|line| count(line, &splitter, &mut forwards));
    let read = WordCounts::from_bytes(&forwards.to_bytes()).unwrap();
    let file = train(&forwards, &config).unwrap().to_json();
    assert_eq!(train(&backwards, &config).unwrap().to_json(), file);
    assert_eq!(train(&read, &config).unwrap().to_json(), file);
    let raw = train(&forwards, &TokenizerConfig { ties: crate::Ties::Raw, ..config }).unwrap();
    let (hf, raw): (Vec<_>, Vec<_>) = (spelled(&Tokenizer::from_json(&file).unwrap()), spelled(&raw));
    assert_ne!(hf, raw);
    let shared = hf.iter().filter(|token| raw.contains(token)).count();
    assert!(shared * 100 > hf.len() * 98, "{shared} of {}", hf.len()); // another order, nearly the same tokens
}

fn spelled(tokenizer: &Tokenizer) -> Vec<Vec<u8>> {
    (0..tokenizer.vocab_size() as u32).map(|id| tokenizer.token_bytes(id).to_vec()).collect()
}

#[test]
fn named_splits_are_found_again_in_files_of_others() {
    let named = Splitter::new(&Split::Llama3, false).unwrap();
    assert_eq!(*Splitter::from_pattern(named.pattern()).unwrap().split(), Split::Cl100k); // the same pattern
    assert_eq!(bytes::symbol_order().len(), 256);
}
