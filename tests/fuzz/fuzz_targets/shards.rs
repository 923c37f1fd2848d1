//! Any bytes as an index and as a receipt of token shards: no panic, and what is accepted holds together.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenizer::shard::{Index, Receipt};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(index) = Index::parse(bytes.to_vec(), "index") {
        let starts: Vec<u64> = (0..=index.n_docs()).map(|i| index.start(i)).collect();
        assert!(starts.is_sorted() && starts[index.n_docs()] == index.n_tokens());
        for &start in starts.iter().filter(|start| **start < index.n_tokens()) {
            assert!(index.doc_range(index.doc_of_token(start)).contains(&start));
        }
    }
    if let Ok(receipt) = Receipt::parse(bytes, "receipt") {
        assert_eq!(Receipt::parse(&receipt.to_bytes(), "again").expect("it was accepted"), receipt);
    }
});
