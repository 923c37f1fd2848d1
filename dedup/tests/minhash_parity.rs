//! FineWeb's signatures against those that datatrove 0.10.1 computed (tests/parity/minhash.py).

use dedup::{FinewebHash, FinewebHasher, FinewebShingler, simplify};
use serde_json::Value;

fn rows() -> Vec<Value> {
    let goldens = include_str!("../../tests/parity/minhash/goldens.jsonl");
    goldens.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect()
}

#[test]
fn signatures_of_datatroves_words_are_bit_equal() {
    let hasher = FinewebHasher::new(14, 8, 1);
    for (name, hash) in [("xxhash", FinewebHash::Xxhash), ("sha1", FinewebHash::Sha1)] {
        let mut shingler = FinewebShingler::new(5, hash);
        let mut signed = 0;
        for row in rows() {
            let words = row["words"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
            let signature = hasher.signature(&shingler.shingles_of_words(words));
            assert_eq!(signature, numbers(&row[name]), "{name}: {}", row["text"]);
            signed += usize::from(!signature.is_empty());
        }
        assert!(signed > 15, "{signed}");
    }
}

#[test]
fn our_normalisation_and_english_words_are_datatroves() {
    let hasher = FinewebHasher::new(14, 8, 1);
    let mut shingler = FinewebShingler::new(5, FinewebHash::Xxhash);
    for row in rows() {
        let text = row["text"].as_str().unwrap();
        assert_eq!(simplify(text), row["simplified"].as_str().unwrap());
        let shingles = shingler.shingles(text);
        let words: Vec<&str> =
            shingler.words().iter().map(|&(start, end)| &shingler.text()[start as usize..end as usize]).collect();
        let wanted: Vec<&str> = row["words"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        assert_eq!(words, wanted, "{text}");
        assert_eq!(hasher.signature(&shingles), numbers(&row["xxhash"]), "{text}");
    }
}
