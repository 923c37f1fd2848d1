//! Speed of each step on one core: `cargo bench -p dedup [-- FILE…]`. Each file holds documents separated by NUL; without files a
//! seeded text is made up.
//!
//! MB of text and documents per second of CPU time, and the share of the speed at which memory is copied.

use dedup::{
    Bloom, BloomConfig, DedupConfig, ExactBy, Family, Signer, SpanVerifier, UnitConfig, anchors, canonical_url, key_by,
    merge_spans, nominate, surroundings, unit_entries,
};
use measure::Table;
use std::hint::black_box;
use xxhash_rust::xxh3::xxh3_128;

#[path = "../../tests/bench/measure.rs"]
#[allow(dead_code, reason = "shared with other benches, each of which uses a part")]
mod measure;

/// Window of the exact substrings.
const MIN_BYTES: usize = 200;

fn main() -> std::io::Result<()> {
    if !measure::is_bench() {
        return Ok(());
    }
    let mut documents = measure::documents_of_arguments()?;
    if documents.is_empty() {
        documents = measure::made_up(2_000, 8);
    }
    let texts: Vec<&str> = documents.iter().map(String::as_str).collect();
    let mut table = Table::new();
    table.group("texts", texts.iter().map(|text| text.as_bytes()));
    table.row("read once: xxh3-128", || texts.iter().for_each(|text| _ = black_box(xxh3_128(text.as_bytes()))));
    for by in [ExactBy::Text, ExactBy::Normalised] {
        table.row(&format!("exact key, {by:?}"), || {
            texts.iter().for_each(|text| _ = black_box(key_by(by, text, None)));
        });
    }
    for family in [Family::Gristmill, Family::FinewebCompat, Family::FinewebCompatSha1] {
        let mut signer = Signer::new(&DedupConfig::default().signatures(family)).expect("the default seed is small");
        table.row(&format!("signed, {family:?}"), || texts.iter().for_each(|text| _ = black_box(signer.sign(text))));
    }
    let config = UnitConfig::default();
    table.row("paragraph keys", || texts.iter().for_each(|text| _ = black_box(unit_entries(text, 0, &config))));
    let mut bloom =
        Bloom::new(&BloomConfig { expected_items: 10_000_000, false_positive_rate: 1e-6 }).expect("36 MB are there");
    table.row("paragraphs into a Bloom filter", || {
        for text in &texts {
            for entry in unit_entries(text, 0, &config) {
                black_box(bloom.insert(u128::from(entry.key[0]) << 64 | u128::from(entry.key[1])));
            }
        }
    });
    let mut found = Vec::new();
    table.row("anchors of exact substrings", || {
        found.clear();
        (0..).zip(&texts).for_each(|(n, text)| anchors(text.as_bytes(), n, MIN_BYTES, &mut found));
    });
    table.row("exact substrings, all steps", || _ = black_box(dedup::repeated_spans(&texts, MIN_BYTES)));
    nominate(&mut found);
    let (mut verifier, mut repeats) = (SpanVerifier::new(MIN_BYTES), Vec::new());
    for anchor in &found {
        let text = texts[anchor.document as usize].as_bytes();
        verifier.push(*anchor, &text[surroundings(anchor.position, text.len(), MIN_BYTES)], &mut repeats);
    }
    println!("{} anchors nominated, {} repeats", found.len(), repeats.len());
    let first = merge_spans(texts[0], &mut repeats.iter().copied().filter(|r| r.document == 0).collect::<Vec<_>>());
    println!("{} spans to remove from the first document", first.len());
    let urls: Vec<String> =
        (0..10_000).map(|n| format!("HTTPS://www.Example.org:443/a/{n}?b={n}&utm_source=x#y")).collect();
    table.group("URLs", urls.iter().map(|url| url.as_bytes()));
    table.row("canonical form", || urls.iter().for_each(|url| _ = black_box(canonical_url(url, true))));
    Ok(())
}
