//! No file may make a reader of tokenizers panic, and what it accepts encodes any text back to itself.
//!
//! In: any bytes, read as `tokenizer.json`, as a rank file, and as piece counts. What is accepted must write a file that it
//! reads again, and give back the bytes that it encodes (a normaliser may change them).

#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenizer::{END_OF_TEXT, Split, Splitter, Tokenizer, WordCounts};

fn check(tokenizer: &Tokenizer, bytes: &[u8], exact: bool) {
    let mut ids: Vec<u32> = Vec::new();
    tokenizer.encoder().encode_bytes(bytes, &mut ids);
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
    if exact {
        assert_eq!(tokenizer.decode_bytes(&ids), bytes);
    }
    tokenizer.encode_with_specials(&String::from_utf8_lossy(bytes));
    let again = Tokenizer::from_json(&tokenizer.to_json()).expect("what we write we read");
    assert_eq!(again.encode("a b\n漢字"), tokenizer.encode("a b\n漢字"));
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tokenizer) = Tokenizer::from_json(bytes) {
        check(&tokenizer, bytes, false);
    }
    let splitter = Splitter::new(&Split::O200k, false).expect("a named split needs nothing");
    // A whole byte alphabet in front, so that the fuzzer need not find it.
    let alphabet = include_bytes!("../../../tokenizer/fixtures/tiktoken.ranks");
    let lines = alphabet.split_inclusive(|&byte| byte == b'\n').take(256).flatten().copied();
    let ranks: Vec<u8> = lines.chain(bytes.iter().copied()).collect();
    if let Ok(tokenizer) = Tokenizer::from_ranks(&ranks, splitter, &[(END_OF_TEXT, 5_000)]) {
        check(&tokenizer, bytes, true);
    }
    if let Ok(counts) = WordCounts::from_bytes(bytes) {
        let again = counts.to_bytes();
        assert_eq!(WordCounts::from_bytes(&again).expect("what we write we read").to_bytes(), again);
    }
});
