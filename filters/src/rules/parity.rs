//! Words, decisions and edits against datatrove 0.10.1 and spaCy 3.8 (`tests/parity/rules.py goldens`) on lines and texts of our own.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use serde_json::Value;

use super::{Document, FilterConfig, Lists, Measurer};
use crate::edit::{EditConfig, Step, edit};
use crate::text::tokenize;

fn golden(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/rules").join(name);
    std::fs::read_to_string(path).expect("the golden is committed")
}

fn ranges(list: &Value) -> Vec<Range<usize>> {
    let pairs = list.as_array().expect("a list of pairs");
    pairs
        .iter()
        .map(|pair| pair[0].as_u64().expect("a start") as usize..pair[1].as_u64().expect("an end") as usize)
        .collect()
}

/// Scripts without spaces are split into characters here and not by spaCy's English.
fn has_solos(text: &str) -> bool {
    text.contains(['我', '你'])
}

#[test]
fn words_of_english_lines_are_those_of_spacy() {
    let rows: Vec<(String, Vec<String>)> = serde_json::from_str(&golden("words.json")).expect("lines with words");
    assert!(rows.len() > 40);
    for (line, expected) in rows {
        let words: Vec<&str> = tokenize(&line).words.iter().map(|word| &line[word.range()]).collect();
        assert_eq!(words, expected, "{line}");
    }
}

#[test]
fn decisions_and_the_c4_edit_are_those_of_datatrove() {
    let config = FilterConfig {
        recipe: Some("fineweb".to_owned()),
        rules: BTreeMap::from([("c4.min_long_lines".to_owned(), 3.0)]),
        ..FilterConfig::default()
    };
    let measurer = Measurer::new(&config, Lists::default()).expect("known");
    let mut values = vec![None; measurer.rules().len()];
    let mut compared = 0;
    for row in golden("decisions.jsonl").lines() {
        let row: Value = serde_json::from_str(row).expect("JSON");
        let text = row["text"].as_str().expect("a text");
        let document = Document { text, ..Document::default() };
        for given in [true, false] {
            if given {
                measurer.measure_given(&document, &ranges(&row["words"]), &ranges(&row["sentences"]), &mut values);
            } else if !has_solos(text) {
                measurer.measure(&document, &mut values);
            }
            for (rule, value) in measurer.rules().iter().zip(&values) {
                let Some(kept) = row["kept"][&rule.name].as_bool() else { continue };
                assert_eq!(value.is_none_or(|value| rule.keeps(value)), kept, "{} is {value:?}: {text:?}", rule.name);
                compared += 1;
            }
        }
        let edited = edit(text, &EditConfig { steps: vec![Step::C4Lines], pii: None });
        assert_eq!(Some(edited.text.as_str()), row["c4"].as_str(), "{text:?}");
    }
    assert!(compared > 900, "{compared}");
}
