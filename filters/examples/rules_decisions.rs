//! What the rules decide on texts that datatrove has decided on: `cargo run --release -p filters --example rules_decisions -- DUMP MODE`.
//!
//! In: JSON lines of `tests/parity/rules.py dump`; `given` uses their words and sentences, `own` ours. Out: for each a line with the
//! value of each rule, whether it keeps the text, the text that the C4 edit leaves, and the words.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;

use filters::edit::{EditConfig, Step, edit, rebuild};
use filters::rules::{Document, FilterConfig, Lists, Measurer};
use filters::text::tokenize;
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let input = arguments.next().ok_or("usage: rules_decisions DUMP.jsonl given|own")?;
    let given = arguments.next().as_deref() == Some("given");
    let config = FilterConfig {
        recipe: Some("fineweb".to_owned()),
        rules: BTreeMap::from([("c4.min_long_lines".to_owned(), 3.0)]),
        ..FilterConfig::default()
    };
    let measurer = Measurer::new(&config, Lists::default())?;
    let c4 = EditConfig { steps: vec![Step::C4Lines], pii: None };
    let mut values = vec![None; measurer.rules().len()];
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in BufReader::new(std::fs::File::open(input)?).lines() {
        let row: Value = serde_json::from_str(&line?)?;
        let text = row["text"].as_str().ok_or("a row without `text`")?;
        let document = Document { text, ..Document::default() };
        let mut words = ranges(&row["words"]);
        if given {
            measurer.measure_given(&document, &words, &ranges(&row["sentences"]), &mut values);
        } else {
            measurer.measure(&document, &mut values);
            words = tokenize(text).words.iter().map(|word| word.range()).collect();
        }
        let rules = measurer.rules().iter().zip(&values);
        let kept: BTreeMap<&str, bool> =
            rules.map(|(rule, value)| (rule.name.as_str(), value.is_none_or(|value| rule.keeps(value)))).collect();
        let named: BTreeMap<&str, Option<f64>> =
            measurer.rules().iter().zip(&values).map(|(rule, value)| (rule.name.as_str(), *value)).collect();
        let edited = edit(text, &c4);
        assert_eq!(rebuild(&edited.text, &edited.edits), text, "the edits lead back");
        let words: Vec<[usize; 2]> = words.into_iter().map(|word| [word.start, word.end]).collect();
        writeln!(out, "{}", json!({"kept": kept, "values": named, "c4": edited.text, "words": words}))?;
    }
    Ok(())
}

fn ranges(list: &Value) -> Vec<Range<usize>> {
    let place = |pair: &Value, at: usize| pair[at].as_u64().unwrap_or(0) as usize;
    list.as_array().map(|pairs| pairs.iter().map(|pair| place(pair, 0)..place(pair, 1)).collect()).unwrap_or_default()
}
