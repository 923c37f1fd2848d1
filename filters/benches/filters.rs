//! Speed of each step on one core: `cargo bench -p filters [-- FILE…]`. Each file holds pages separated by NUL; without files, the
//! pages of `manifests/quickstart`.
//!
//! MB of the step's input and documents per second of CPU time, and the share of the speed at which memory is copied. Pages are bytes
//! for the charset, HTML for the extraction; what it writes is the input of all other steps.

use std::hint::black_box;
use std::io::Read;
use std::path::Path;

use filters::charset;
use filters::extract::{ExtractConfig, Format, extract};
use filters::language;
use filters::rules::{Document, FilterConfig, Lists, Measurer};
use filters::text::tokenize;
use measure::Table;

#[path = "../../tests/bench/measure.rs"]
#[allow(dead_code, reason = "shared with other benches, each of which uses a part")]
mod measure;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if !measure::is_bench() {
        return Ok(());
    }
    let mut html = measure::documents_of_arguments()?;
    if html.is_empty() {
        html = quickstart()?;
    }
    let mut table = Table::new();
    table.group("pages, UTF-8", html.iter().map(|page| page.as_bytes()));
    table.row("charset", || html.iter().for_each(|page| _ = black_box(charset::decode(page.as_bytes(), None))));
    for format in [Format::Text, Format::Markdown] {
        let config = ExtractConfig { format, ..ExtractConfig::default() };
        table.row(&format!("extract, {format:?}"), || {
            html.iter().for_each(|page| _ = black_box(extract(page, None, &config)));
        });
    }
    let cyrillic: Vec<Vec<u8>> =
        html.iter().map(|page| encoding_rs::WINDOWS_1251.encode(page).0.into_owned()).collect();
    table.group("pages, windows-1251", cyrillic.iter().map(Vec::as_slice));
    for (name, label) in [("declared", Some("text/html; charset=windows-1251")), ("as the page says, or guessed", None)]
    {
        table.row(&format!("charset, {name}"), || {
            cyrillic.iter().for_each(|page| _ = black_box(charset::decode(page, label)));
        });
    }
    let texts: Vec<String> =
        html.iter().filter_map(|page| Some(extract(page, None, &ExtractConfig::default()).ok()?.text)).collect();
    table.group("texts", texts.iter().map(|text| text.as_bytes()));
    table.row("words, lines and sentences", || texts.iter().for_each(|text| _ = black_box(tokenize(text))));
    let model = language::builtin();
    table.row("language", || texts.iter().for_each(|text| _ = black_box(model.predict(text))));
    let mut all = 0.0;
    for recipe in ["gopher_repetition", "gopher_quality", "c4", "fineweb_quality", "fineweb"] {
        let measurer = measurer(recipe)?;
        let mut values = vec![None; measurer.rules().len()];
        all = table.row(&format!("`{recipe}`, all {} rules", values.len()), || {
            texts.iter().for_each(|text| measurer.measure(&document(text), black_box(&mut values)));
        });
    }
    let measurer = measurer("fineweb")?;
    let first = table.row("`fineweb`, to the first rule missed", || {
        texts.iter().for_each(|text| _ = black_box(measurer.first_missed(&document(text))));
    });
    println!("all rules take {:.2} times as long as stopping at the first one missed", first / all);
    Ok(())
}

fn measurer(recipe: &str) -> Result<Measurer, filters::rules::RuleError> {
    Measurer::new(&FilterConfig { recipe: Some(recipe.to_owned()), ..Default::default() }, Lists::default())
}

fn document(text: &str) -> Document<'_> {
    Document { text, ..Document::default() }
}

/// The HTML pages of the quickstart's crawl. Only as much of WARC as these files have: for any other there is `pipeline::source`.
fn quickstart() -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/quickstart");
    let mut files: Vec<_> =
        std::fs::read_dir(&folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    let mut pages = Vec::new();
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "gz")) {
        let mut bytes = Vec::new();
        flate2::read::MultiGzDecoder::new(std::fs::File::open(path)?).read_to_end(&mut bytes)?;
        let mut rest = &bytes[..];
        while let Some((head, after)) = split_head(rest) {
            let length = header(&head, "content-length: ").and_then(|value| value.parse().ok()).unwrap_or(0);
            let (block, after) = after.split_at(after.len().min(length));
            rest = after.get(4..).unwrap_or_default();
            let Some((http, body)) = split_head(block) else { continue };
            let is_page = header(&http, "content-type: ").is_some_and(|value| value.starts_with("text/html"));
            if is_page {
                let mut body =
                    if http.contains("transfer-encoding: chunked") { dechunked(body) } else { body.to_vec() };
                if http.contains("content-encoding: gzip") {
                    let stored = std::mem::take(&mut body);
                    flate2::read::GzDecoder::new(&stored[..]).read_to_end(&mut body)?;
                }
                pages.push(charset::decode(&body, None).text);
            }
        }
    }
    Ok(pages)
}

/// What stands before the first empty line, in lower case, and what follows it.
fn split_head(bytes: &[u8]) -> Option<(String, &[u8])> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")?;
    Some((String::from_utf8_lossy(&bytes[..end]).to_lowercase(), &bytes[end + 4..]))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name))
}

fn dechunked(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = memchr::memmem::find(chunks, b"\r\n") {
        let size = std::str::from_utf8(&chunks[..line]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(chunk) = size.and_then(|size| chunks.get(line + 2..line + 2 + size)) else { break };
        body.extend_from_slice(chunk);
        chunks = chunks.get(line + 4 + chunk.len()..).unwrap_or_default();
    }
    body
}
