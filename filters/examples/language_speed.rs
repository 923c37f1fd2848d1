//! Measures how fast languages are told: `cargo run --release -p filters --example language_speed -- LINES.txt [MODEL] [PASSES]`.
//!
//! In: a text file, one document a line, and a fastText model (none or `builtin`: the shipped one). Out: megabytes of text per second of CPU
//! time on one thread, each pass and the median; the ceiling is reading the text once to find its tokens. `tests/peers/language.py`
//! runs it in turn with fastText's own C++.

use std::error::Error;
use std::hint::black_box;
use std::path::Path;

use filters::language::{BUILTIN, LanguageModel};

#[path = "../../tests/bench/measure.rs"]
#[allow(dead_code, reason = "shared with benches, each of which uses a part")]
mod measure;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, rest @ ..] = arguments.as_slice() else {
        return Err("usage: language_speed LINES.txt [MODEL] [PASSES]".into());
    };
    let text = std::fs::read_to_string(input)?;
    let lines: Vec<&str> = text.lines().collect();
    let model = match rest.first().map(String::as_str) {
        None | Some("builtin") => LanguageModel::from_bytes(BUILTIN.to_vec())?,
        Some(path) => LanguageModel::load(Path::new(path))?,
    };
    let passes = rest.get(1).map_or(Ok(5), |passes| passes.parse())?;
    let megabytes = text.len() as f64 / 1e6;
    let speed = |name: &str, pass: &mut dyn FnMut()| {
        let mut speeds: Vec<f64> = (0..passes).map(|_| megabytes / seconds(pass)).collect();
        speeds.sort_by(f64::total_cmp);
        println!(
            "{name}: {:.1} MB/s (median of {passes}; {:.1} to {:.1})",
            speeds[passes / 2],
            speeds[0],
            speeds[passes - 1]
        );
    };
    println!("{} lines, {megabytes:.2} MB", lines.len());
    speed("ceiling, tokens only", &mut || {
        black_box(lines.iter().map(|line| line.split_ascii_whitespace().count()).sum::<usize>());
    });
    speed("predict", &mut || lines.iter().for_each(|line| drop(black_box(model.predict(line)))));
    Ok(())
}

fn seconds(pass: &mut dyn FnMut()) -> f64 {
    let start = measure::cpu_secs();
    pass();
    measure::cpu_secs() - start
}
