//! Scores the extractor on a benchmark of real pages: `cargo run --release -p filters --example extraction_eval -- DIR`.
//!
//! In: a directory with `html/ID.html` and either `ground-truth/ID.json` (WCXB) or `ground-truth.json`
//! (article-extraction-benchmark). Out: mean precision, recall and F1 over word multisets, overall and per page type,
//! and speed on one core. `--dump OUT` also writes each page's text and score there. Metric: WCXB `evaluate.py` (words are
//! runs of letters, digits and `_`, lower-cased). `texts FOLDER OUT` only extracts every `ID.html` of a folder and writes texts,
//! authors, dates and processor time as JSON, for `tests/peers/extraction.py`, which knows the metrics of three benchmarks.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::path::{Path, PathBuf};

use filters::charset;
use filters::extract::{ExtractConfig, Page, extract};
use serde_json::Value;

struct Case {
    id: String,
    page_type: String,
    html: PathBuf,
    url: Option<String>,
    truth: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if_eq("texts").is_some() {
        let usage = "usage: extraction_eval texts FOLDER OUT";
        return write_texts(Path::new(&args.next().ok_or(usage)?), Path::new(&args.next().ok_or(usage)?));
    }
    let dir = PathBuf::from(args.next().ok_or("usage: extraction_eval DIR [--dump OUT]")?);
    let dump = (args.next().as_deref() == Some("--dump")).then(|| args.next().map(PathBuf::from)).flatten();
    let mut scores: BTreeMap<String, Vec<[f64; 3]>> = BTreeMap::new();
    let cases = cases(&dir)?;
    let pages = cases.iter().map(|case| std::fs::read(&case.html)).collect::<Result<Vec<_>, _>>()?;
    // One interval around all pages: the kernel accounts processor time in steps of milliseconds.
    let started = processor_secs();
    let texts: Vec<String> = cases.iter().zip(&pages).map(|(case, page)| text_of(case, page)).collect();
    let elapsed = processor_secs() - started;
    let bytes: usize = pages.iter().map(Vec::len).sum();
    let mut lines = String::new();
    for (case, text) in cases.into_iter().zip(texts) {
        let score = word_score(&text, &case.truth);
        lines += &format!("{} {} {:.3} {:.3} {:.3}\n", case.id, case.page_type, score[2], score[0], score[1]);
        if let Some(dump) = &dump {
            std::fs::write(dump.join(format!("{}.txt", case.id)), &text)?;
        }
        scores.entry("all".to_owned()).or_default().push(score);
        scores.entry(case.page_type).or_default().push(score);
    }
    if let Some(dump) = &dump {
        std::fs::write(dump.join("scores"), lines)?;
    }
    println!("{:14} {:>5} {:>9} {:>9} {:>9}", "pages of type", "n", "precision", "recall", "F1");
    for (name, rows) in &scores {
        let mean = |i: usize| rows.iter().map(|row| row[i]).sum::<f64>() / rows.len() as f64;
        println!("{name:14} {:>5} {:>9.4} {:>9.4} {:>9.4}", rows.len(), mean(0), mean(1), mean(2));
    }
    let megabytes = bytes as f64 / 1e6;
    println!("{megabytes:.1} MB of HTML in {elapsed:.2} s of processor time: {:.1} MB/s", megabytes / elapsed);
    Ok(())
}

fn write_texts(folder: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let files =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, std::io::Error>>()?;
    let files: Vec<PathBuf> = files.into_iter().filter(|path| path.extension().is_some_and(|e| e == "html")).collect();
    let pages = files.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    let started = processor_secs();
    let extracted: Vec<_> = pages
        .iter()
        .map(|page| extract(&charset::decode(page, None).text, None, &ExtractConfig::default()).unwrap_or_default())
        .collect();
    let seconds = processor_secs() - started;
    let by_id = |value: fn(&Page) -> Value| -> serde_json::Map<String, Value> {
        let id = |path: &PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        files.iter().zip(&extracted).map(|(path, page)| (id(path), value(page))).collect()
    };
    let texts = by_id(|page| page.text.clone().into());
    let (authors, dates) = (by_id(|page| page.author.clone().into()), by_id(|page| page.date.clone().into()));
    let all = serde_json::json!({ "seconds": seconds, "texts": texts, "authors": authors, "dates": dates });
    Ok(std::fs::write(out, all.to_string())?)
}

fn text_of(case: &Case, page: &[u8]) -> String {
    let html = charset::decode(page, None).text;
    extract(&html, case.url.as_deref(), &ExtractConfig::default()).map(|page| page.text).unwrap_or_default()
}

/// Time this thread has run, so that a busy machine does not blur the figure. Linux only; 0 elsewhere.
fn processor_secs() -> f64 {
    let ran = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    ran.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

fn cases(dir: &Path) -> Result<Vec<Case>, Box<dyn Error>> {
    let html = |id: &str| dir.join("html").join(format!("{id}.html"));
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let mut out = Vec::new();
    if dir.join("ground-truth.json").exists() {
        let all: BTreeMap<String, Value> = serde_json::from_slice(&std::fs::read(dir.join("ground-truth.json"))?)?;
        for (id, truth) in all {
            let (html, truth, url) = (html(&id), text(&truth["articleBody"]), truth["url"].as_str().map(str::to_owned));
            out.push(Case { html, page_type: "article".to_owned(), url, truth, id });
        }
        return Ok(out);
    }
    for entry in std::fs::read_dir(dir.join("ground-truth"))? {
        let path = entry?.path();
        let json: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let id = path.file_stem().and_then(|stem| stem.to_str()).ok_or("file name is not text")?.to_owned();
        let page_type = text(&json["_internal"]["page_type"]["primary"]);
        let truth = text(&json["ground_truth"]["main_content"]);
        out.push(Case { html: html(&id), page_type, url: json["url"].as_str().map(str::to_owned), truth, id });
    }
    out.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(out)
}

/// Precision, recall and F1 of the word multisets.
fn word_score(predicted: &str, truth: &str) -> [f64; 3] {
    let (predicted, n_predicted) = words(predicted);
    let (truth, n_truth) = words(truth);
    if n_predicted == 0 || n_truth == 0 {
        return [f64::from(n_predicted == n_truth); 3];
    }
    let common: usize = truth.iter().map(|(word, n)| predicted.get(word).map_or(0, |m| *m.min(n))).sum();
    let (precision, recall) = (common as f64 / n_predicted as f64, common as f64 / n_truth as f64);
    let f1 = if common == 0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) };
    [precision, recall, f1]
}

fn words(text: &str) -> (HashMap<String, usize>, usize) {
    let mut counts = HashMap::new();
    let mut total = 0;
    let lower = text.to_lowercase();
    for word in lower.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()) {
        *counts.entry(word.to_owned()).or_insert(0) += 1;
        total += 1;
    }
    (counts, total)
}
