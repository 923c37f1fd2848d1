//! Bad input: counted, kept aside with a reason, or a clear error. Nothing lost, nothing hung, no panic.

use crate::support::{arg, fails_with, manifest, root, run, stdout, text};
use std::io::Write;
use std::path::Path;

/// A manifest that ingests and extracts one file.
fn two_stages(folder: &Path, source: &str) -> std::path::PathBuf {
    manifest(
        folder,
        &format!(
            "name = \"bad\"\n[stage]\ncrawl = {{ kind = \"ingest\", source = \"{source}\" }}\ntext = {{ kind = \"extract\", input = \"crawl\" }}\n"
        ),
    )
}

/// Runs it and gives rows of `status, rule, count` of the ingest stage.
fn ingest(folder: &Path, source: &str) -> String {
    let path = two_stages(folder, source);
    let said = run(&["run", arg(&path), "--root", arg(folder)]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let query = "SELECT status, coalesce(rule, ''), count(*) FROM crawl_verdicts GROUP BY 1, 2 ORDER BY 1, 2";
    stdout(&["sql", arg(&folder.join("bad")), query, "--format", "csv"])
}

fn micro(name: &str) -> Vec<u8> {
    std::fs::read(root().join("tests/fixtures/micro").join(name)).unwrap()
}

/// Pages kept in a run of [`ingest`].
fn kept(counts: &str) -> usize {
    counts.lines().find_map(|l| l.strip_prefix("kept,,")).map_or(0, |n| n.parse().unwrap())
}

#[test]
fn a_warc_cut_anywhere_keeps_every_record_before_the_cut() {
    let whole = micro("b.warc.gz");
    let folder = tempfile::tempdir().unwrap();
    let mut before = 0;
    // The reader's own test cuts at every byte; here the whole program runs, at every 4,000th.
    for cut in (1..whole.len()).step_by(4000).chain([whole.len()]) {
        std::fs::write(folder.path().join("cut.warc.gz"), &whole[..cut]).unwrap();
        let counts = ingest(folder.path(), "cut.warc.gz");
        assert!(kept(&counts) >= before, "cut at {cut}: {counts}");
        before = kept(&counts);
        if cut < whole.len() {
            assert!(
                counts.contains("failed,ingest.") || counts.lines().count() == 1 + usize::from(before > 0),
                "cut at {cut}: {counts}"
            );
        }
    }
    assert_eq!(before, 9);
}

#[test]
fn garbage_between_records_costs_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = micro("b.warc.gz");
    let good = micro("a.warc.gz");
    bytes.extend((0..5000u32).map(|i| (i.wrapping_mul(2654435761) >> 13) as u8));
    bytes.extend(&good);
    std::fs::write(folder.path().join("garbage.warc.gz"), &bytes).unwrap();
    let counts = ingest(folder.path(), "garbage.warc.gz");
    assert_eq!(kept(&counts), 19, "{counts}");
    assert!(counts.contains("failed,ingest."), "{counts}");
}

#[test]
fn a_wrong_content_length_is_counted_and_the_next_record_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let page = |length: usize, name: &str| {
        let http = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html><body><p>The page called {name} has a few words of text in it.</p></body></html>"
        );
        let length = if length == 0 { http.len() } else { length };
        format!(
            "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://{name}.test/\r\nContent-Type: application/http\r\nContent-Length: {length}\r\n\r\n{http}\r\n\r\n"
        )
    };
    std::fs::write(folder.path().join("length.warc"), page(0, "first") + &page(20, "short") + &page(0, "last"))
        .unwrap();
    let counts = ingest(folder.path(), "length.warc");
    let urls =
        stdout(&["sql", arg(&folder.path().join("bad")), "SELECT url FROM crawl ORDER BY url", "--format", "csv"]);
    assert!(urls.contains("first") && urls.contains("last"), "{urls}\n{counts}");
    assert!(counts.contains("failed,ingest."), "{counts}");
}

/// A WARC record of the page `http://NAME.test/`.
fn response(name: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let http = format!("HTTP/1.1 200 OK\r\n{headers}\r\n");
    let warc = format!(
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://{name}.test/\r\nContent-Type: application/http\r\n\
         Content-Length: {}\r\n\r\n",
        http.len() + body.len()
    );
    [warc.as_bytes(), http.as_bytes(), body, b"\r\n\r\n"].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn one_hostile_page_of_each_kind_stops_no_run_and_costs_no_other_page() {
    let html = "Content-Type: text/html\r\n";
    let prose =
        "<p>The quick brown fox jumps over the lazy dog, and then it rests in the shade for a while.</p>".repeat(5);
    let with = |front: String| format!("<html><body>{front}{prose}</body></html>").into_bytes();
    let entities: String = (b'b'..=b'z')
        .map(|c| format!("<!ENTITY {} \"{}\">", c as char, format!("&{};", (c - 1) as char).repeat(10)))
        .collect();
    let bomb = gzip(&vec![b'a'; 40 << 20]);
    let pages: [(&str, String, Vec<u8>); 9] = [
        ("first", html.to_owned(), with(String::new())),
        ("nested", html.to_owned(), with("<div><span><ul><li>".repeat(50_000))),
        ("tables", html.to_owned(), with(format!("<table><tr>{}<td>", "<td>x".repeat(50)).repeat(2_000))),
        (
            "entities",
            html.to_owned(),
            with(format!("<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\">{entities}]>&z;&amp;amp;amp;")),
        ),
        ("nul", html.to_owned(), with("\0".repeat(1 << 19))),
        ("attribute", html.to_owned(), with(format!("<div class=\"{}\">", "nav ".repeat(200_000)))),
        ("bodybomb", format!("{html}Content-Encoding: gzip\r\n"), bomb),
        ("memberbomb", html.to_owned(), vec![b'a'; 40 << 20]),
        ("last", html.to_owned(), with(String::new())),
    ];
    let folder = tempfile::tempdir().unwrap();
    let members = pages.iter().map(|(name, headers, body)| gzip(&response(name, headers, body)));
    std::fs::write(folder.path().join("hostile.warc.gz"), members.collect::<Vec<_>>().concat()).unwrap();
    let counts = ingest(folder.path(), "hostile.warc.gz");
    assert!(counts.contains("failed,ingest.decompression_bomb,1") && kept(&counts) == 8, "{counts}");
    let sql = |query: &str| stdout(&["sql", arg(&folder.path().join("bad")), query, "--format", "csv"]);
    let rows = sql("SELECT status, coalesce(rule, ''), count(*) FROM text_verdicts GROUP BY 1, 2 ORDER BY 1, 2");
    let counted: usize =
        rows.lines().skip(1).map(|row| row.rsplit(',').next().unwrap().parse::<usize>().unwrap()).sum();
    assert_eq!(counted, 8, "{rows}");
    let read = sql("SELECT url FROM text WHERE text LIKE '%lazy dog%' ORDER BY url");
    for name in ["first", "nested", "entities", "nul", "attribute", "last"] {
        assert!(read.contains(&format!("http://{name}.test/")), "{read}{rows}");
    }
    let longest = sql("SELECT max(length(text)) FROM text WHERE url NOT LIKE '%bomb%'");
    assert!(longest.lines().nth(1).unwrap().parse::<usize>().unwrap() < 4 << 20, "{longest}");
}

#[test]
fn undecodable_bytes_and_half_a_megabyte_of_nested_lists_become_rows() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(folder.path().join("pages.warc")).unwrap();
    let mut page = |name: &str, kind: &str, body: &[u8]| {
        file.write_all(&response(name, &format!("Content-Type: {kind}\r\n"), body)).unwrap();
    };
    let mut bytes = b"<html><body><p>Words before ".to_vec();
    bytes.extend([0xff, 0xfe, 0x80, 0x81, 0xc3, 0x28]);
    bytes.extend(b" and words after the bytes that no charset explains.</p></body></html>");
    page("bytes", "text/html; charset=utf-8", &bytes);
    page(
        "unknown",
        "text/html; charset=x-no-such-charset",
        b"<html><body><p>A page with a charset that does not exist in any list.</p></body></html>",
    );
    page("deep", "text/html", "<ul><li>".repeat(64 * 1024).as_bytes());
    page("empty", "text/html", b"");
    drop(file);
    let started = std::time::Instant::now();
    let counts = ingest(folder.path(), "pages.warc");
    assert!(started.elapsed().as_secs() < 60, "it hung");
    assert!(counts.contains("kept,,3") && counts.contains("dropped,ingest.empty_body,1"), "{counts}");
    let rows =
        stdout(&["sql", arg(&folder.path().join("bad")), "SELECT count(*) FROM text_verdicts", "--format", "csv"]);
    assert!(rows.ends_with("\n3\n"), "{rows}");
    let text = stdout(&[
        "sql",
        arg(&folder.path().join("bad")),
        "SELECT text FROM text WHERE url LIKE '%bytes%'",
        "--format",
        "csv",
    ]);
    assert!(text.contains("Words before") && text.contains("words after"), "{text}");
}

#[test]
fn a_line_of_fifty_megabytes_and_lines_that_are_no_documents_are_refused_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut lines = b"{\"text\": \"the first document\", \"id\": 7}\n".to_vec();
    lines.extend(b"{\"text\": \"");
    lines.extend(vec![b'x'; 50 << 20]);
    lines.extend(b"\"}\nnot json\n{\"title\": \"no text\"}\n\n[1, 2]\n{\"text\": \"the last document\"}");
    std::fs::write(folder.path().join("lines.jsonl"), &lines).unwrap();
    let counts = ingest(folder.path(), "lines.jsonl");
    for part in ["kept,,2", "failed,ingest.bad_json,2", "failed,ingest.line_too_long,1", "failed,ingest.no_text,1"] {
        assert!(counts.contains(part), "no {part} in {counts}");
    }
    let rows = stdout(&[
        "sql",
        arg(&folder.path().join("bad")),
        "SELECT text, source_id, source['offset'] AS at FROM crawl ORDER BY at",
        "--format",
        "csv",
    ]);
    assert!(rows.contains("the first document,7,0\n"), "{rows}");
}

#[test]
fn an_empty_crawl_passes_through_and_training_on_it_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("empty.warc.gz"), b"").unwrap();
    assert_eq!(ingest(folder.path(), "empty.warc.gz").lines().count(), 1);
    let path = manifest(
        folder.path(),
        "name = \"none\"\n[stage]\ncrawl = { kind = \"ingest\", source = \"empty.warc.gz\" }\ntext = { kind = \"extract\", input = \"crawl\" }\n\
         unique = { kind = \"dedup\", input = \"text\" }\nbpe = { kind = \"tokenizer\", input = \"unique\", vocab_size = 300 }\n",
    );
    let said = fails_with(&["run", arg(&path), "--root", arg(folder.path())], 3);
    assert!(said.contains("no text to learn from") && said.contains("hint:"), "{said}");
}

#[test]
fn more_bad_records_than_allowed_stop_the_run() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("lines.jsonl"), "{\"text\": \"good\"}\nbad\nbad\n").unwrap();
    let with = |limit: &str| {
        manifest(
            folder.path(),
            &format!(
                "name = \"limit\"\n[stage.crawl]\nkind = \"ingest\"\nsource = \"lines.jsonl\"\nmax_bad_records = \"{limit}\"\n"
            ),
        )
    };
    let said = fails_with(&["run", arg(&with("1")), "--root", arg(folder.path())], 3);
    assert!(said.contains("2 of 3 records"), "{said}");
    let said = run(&["run", arg(&with("70%")), "--root", arg(folder.path())]);
    assert!(said.status.success() && text(&said.stderr).contains("warning: 2 of 3"), "{}", text(&said.stderr));
}

#[test]
fn a_full_disk_stops_with_code_four_and_the_run_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let command = |limit: &str| {
        let program = env!("CARGO_BIN_EXE_gristmill");
        let line = format!(
            "ulimit -f {limit}; trap '' XFSZ; exec {program} run tests/micro.toml --root {} --only unique",
            arg(folder.path())
        );
        std::process::Command::new("bash").args(["-c", &line]).current_dir(root()).output().unwrap()
    };
    // A limit on file size makes writes fail as a full disk does, without filling one.
    let full = command("8");
    assert_eq!(full.status.code(), Some(4), "{}", text(&full.stderr));
    assert!(text(&full.stderr).contains("no space left"), "{}", text(&full.stderr));
    let roomy = command("unlimited");
    assert!(roomy.status.success(), "{}", text(&roomy.stderr));
    stdout(&["verify", arg(&folder.path().join("micro"))]);
}
