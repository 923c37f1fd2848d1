//! Prints the label and the score of each line: `cargo run --release -p filters --example language_labels -- MODEL LINES.txt`.
//!
//! In: a fastText model (`builtin`: the shipped one) and a text file. Out: `label<TAB>score` a line, nothing before the tab for a blank line.
//! `tests/parity/language.py check` compares it with fastText's own C++.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use filters::language::{BUILTIN, LanguageModel};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, input] = arguments.as_slice() else {
        return Err("usage: language_labels MODEL LINES.txt".into());
    };
    let model = match model.as_str() {
        "builtin" => LanguageModel::from_bytes(BUILTIN.to_vec())?,
        path => LanguageModel::load(Path::new(path))?,
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let text = std::fs::read_to_string(input)?;
    for line in text.strip_suffix('\n').unwrap_or(&text).split('\n') {
        match model.predict_label(line) {
            Some((label, score)) => writeln!(out, "{label}\t{score:.8}")?,
            None => writeln!(out, "\t")?,
        }
    }
    Ok(out.flush()?)
}
