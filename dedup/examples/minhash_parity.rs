//! Agreement with datatrove on many texts: `cargo run --release -p dedup --example minhash_parity DUMP`, where DUMP is what
//! tests/parity/minhash.py wrote. Prints for each source, and for all, the share of texts with equal signatures: given
//! datatrove's words (must be all), and with our own normalisation and English splitter; then texts that differ.

use dedup::{FinewebHash, FinewebHasher, FinewebShingler, simplify};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::BufRead;

/// Texts: all, equal given the words, equal normalisation, equal words, equal signatures by our own words, with a signature.
type Counts = [u64; 6];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("expected the file that tests/parity/minhash.py wrote")?;
    let hasher = FinewebHasher::new(14, 8, 1);
    let mut counts: BTreeMap<String, Counts> = BTreeMap::new();
    let mut examples = Vec::new();
    for line in std::io::BufReader::new(std::fs::File::open(path)?).lines() {
        let row: Value = serde_json::from_str(&line?)?;
        let text = row["text"].as_str().ok_or("no text")?;
        let words: Vec<&str> = row["words"].as_array().ok_or("no words")?.iter().filter_map(Value::as_str).collect();
        let mut equal = [true; 6];
        for (name, hash) in [("xxhash", FinewebHash::Xxhash), ("sha1", FinewebHash::Sha1)] {
            let wanted: Vec<u64> = row[name].as_array().ok_or(name)?.iter().filter_map(Value::as_u64).collect();
            let mut shingler = FinewebShingler::new(5, hash);
            equal[5] = wanted.len() == 112;
            equal[1] &= hasher.signature(&shingler.shingles_of_words(words.iter().copied())) == wanted;
            equal[4] &= hasher.signature(&shingler.shingles(text)) == wanted;
            let mut ours = shingler.words().iter().map(|&(start, end)| &shingler.text()[start as usize..end as usize]);
            if let Some(at) = words.iter().position(|word| ours.next() != Some(word)) {
                if equal[3] && examples.len() < 20 {
                    let ours = simplify(text);
                    examples.push((
                        row["source"].to_string(),
                        words[at.saturating_sub(1)..(at + 2).min(words.len())].join("|"),
                        ours == row["simplified"],
                    ));
                }
                equal[3] = false;
            }
        }
        equal[2] = simplify(text) == row["simplified"];
        for source in [row["source"].as_str().unwrap_or_default(), "all"] {
            let count = counts.entry(source.to_owned()).or_default();
            count.iter_mut().zip(equal).for_each(|(count, equal)| *count += u64::from(equal));
        }
    }
    println!(
        "| source | texts | with a signature | equal, their words | same normalisation | same words | equal, our words |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (source, [texts, given, normalised, words, own, signed]) in &counts {
        let share = |count: &u64| format!("{:.2} %", 100.0 * *count as f64 / *texts as f64);
        println!(
            "| {source} | {texts} | {signed} | {} | {} | {} | {} |",
            share(given),
            share(normalised),
            share(words),
            share(own)
        );
    }
    for (source, words, normalised) in examples {
        println!("{source}: their words there: {words:?}, same normalisation: {normalised}");
    }
    Ok(())
}
