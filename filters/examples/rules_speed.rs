//! Measures how fast the rules are: `cargo run --release -p filters --example rules_speed -- TEXTS.jsonl [recipe]`.
//!
//! In: JSON lines with `text`. Out: megabytes of text per second of CPU time on one thread, best of five passes, and documents kept: for
//! all rules, for taking the text apart alone, and for stopping at the first rule that a document misses.

use std::error::Error;

use filters::rules::{Document, FilterConfig, Lists, Measurer};
use filters::text::tokenize;
use serde_json::Value;

#[path = "../../tests/bench/measure.rs"]
#[allow(dead_code, reason = "shared with benches, each of which uses a part")]
mod measure;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let input = arguments.next().ok_or("usage: rules_speed TEXTS.jsonl [recipe]")?;
    let recipe = arguments.next().unwrap_or_else(|| "fineweb".to_owned());
    let mut texts = Vec::new();
    for line in std::fs::read_to_string(input)?.lines() {
        let row: Value = serde_json::from_str(line)?;
        texts.push(row["text"].as_str().ok_or("a row without `text`")?.to_owned());
    }
    let config = FilterConfig { recipe: Some(recipe.clone()), ..Default::default() };
    let measurer = Measurer::new(&config, Lists::default())?;
    let rules = measurer.rules();
    let bytes: usize = texts.iter().map(String::len).sum();
    let mut values = vec![None; rules.len()];
    let document = |text| Document { text, ..Document::default() };
    let (mut kept, mut kept_first) = (0, 0);
    let all = best_of_five(|| {
        kept = 0;
        for text in &texts {
            measurer.measure(&document(text), &mut values);
            let keeps = rules.iter().zip(&values).all(|(rule, value)| value.is_none_or(|value| rule.keeps(value)));
            kept += usize::from(keeps);
        }
    });
    let first = best_of_five(|| {
        kept_first = texts.iter().filter(|text| measurer.first_missed(&document(text)).is_none()).count();
    });
    assert_eq!(kept, kept_first, "both ways decide alike");
    let words_only = best_of_five(|| texts.iter().for_each(|text| assert!(tokenize(text).chars <= text.len())));
    let megabytes = bytes as f64 / 1e6;
    println!("{} texts, {megabytes:.1} MB, recipe {recipe}, {} rules: {kept} kept", texts.len(), rules.len());
    println!(
        "all rules {:.1} MB/s, first miss {:.1} MB/s ({:.2} times the time for all), tokenizing alone {:.1} MB/s",
        megabytes / all,
        megabytes / first,
        all / first,
        megabytes / words_only
    );
    Ok(())
}

fn best_of_five(mut pass: impl FnMut()) -> f64 {
    let seconds = |_| {
        let start = measure::cpu_secs();
        pass();
        measure::cpu_secs() - start
    };
    (0..5).map(seconds).fold(f64::INFINITY, f64::min)
}
