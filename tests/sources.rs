//! Where documents come from: every format gives the same documents, and an object store the same bytes as a folder.

use crate::support::{arg, fails_with, gristmill, manifest, root, stdout, text};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

const ROWS: [(&str, &str); 3] = [
    ("one", "A first text, with a \"quoted\" word."),
    ("two", "A second text\nof two lines."),
    ("three", "Третий текст."),
];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut packed = lz4_flex::frame::FrameEncoder::new(Vec::new());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn csv(delimiter: char) -> String {
    let quote = |s: &str| format!("\"{}\"", s.replace('"', "\"\""));
    let rows = ROWS.iter().map(|(id, text)| format!("{id}{delimiter}{}\r\n", quote(text)));
    format!("id{delimiter}body\r\n{}", rows.collect::<String>())
}

/// `source_id, text` of a run over one file.
fn documents(folder: &Path, source: &str, more: &str) -> String {
    let path = manifest(
        folder,
        &format!("name = \"source\"\n[stage]\ncrawl = {{ kind = \"ingest\", source = \"{source}\"{more} }}\n"),
    );
    stdout(&["run", arg(&path), "--root", arg(folder)]);
    let query = "SELECT source_id, text FROM crawl ORDER BY source.\"offset\"";
    stdout(&["sql", arg(&folder.join("source")), query, "--format", "csv"])
}

#[test]
fn every_line_format_gives_the_same_documents() {
    let folder = tempfile::tempdir().unwrap();
    let json: String =
        ROWS.iter().map(|(id, text)| serde_json::json!({ "id": id, "body": text }).to_string() + "\n").collect();
    let fields = ", fields = { text = \"body\" }";
    let mut found = Vec::new();
    for (name, bytes) in [
        ("a.jsonl", json.clone().into_bytes()),
        ("marked.jsonl", format!("\u{feff}{json}").into_bytes()),
        ("a.jsonl.gz", gzip(json.as_bytes())),
        ("a.jsonl.zst", zstd::encode_all(json.as_bytes(), 1).unwrap()),
        ("a.jsonl.lz4", lz4(json.as_bytes())),
        ("a.csv", csv(',').into_bytes()),
        ("a.csv.lz4", lz4(csv(',').as_bytes())),
        ("a.tsv.gz", gzip(csv('\t').as_bytes())),
    ] {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        found.push((name, documents(folder.path(), name, fields)));
    }
    for (name, documents) in &found {
        assert_eq!(documents, &found[0].1, "{name}");
        assert!(documents.contains("Третий"), "{name}: {documents}");
    }
    // And a run's own Parquet is a source again.
    let parquet = found.last().map(|_| "source/crawl/part-00000.parquet").unwrap();
    std::fs::copy(folder.path().join(parquet), folder.path().join("again.parquet")).unwrap();
    let again = documents(folder.path(), "again.parquet", ", fields = { id = \"source_id\" }");
    assert_eq!(again, found[0].1);
}

#[test]
fn bad_csv_rows_are_refused_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = b"id,text\n1,good\n2\n3,also,too many\n4,".to_vec();
    bytes.extend(b"\xff\xfe bad\n5,\n6,good too\n");
    std::fs::write(folder.path().join("bad.csv"), bytes).unwrap();
    assert_eq!(documents(folder.path(), "bad.csv", "").lines().count(), 3);
    let query = "SELECT rule, count(*) FROM crawl_verdicts WHERE status <> 'kept' GROUP BY rule ORDER BY rule";
    let refused = stdout(&["sql", arg(&folder.path().join("source")), query, "--format", "csv"]);
    assert!(refused.contains("ingest.bad_csv,2") && refused.contains("ingest.bad_utf8,1"), "{refused}");
    assert!(refused.contains("ingest.no_text,1"), "{refused}");
}

/// A store with one bucket that answers listing, HEAD and ranged GET, until the process ends. Gives its address.
fn object_store(objects: Vec<(String, Vec<u8>)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let objects = Arc::new(objects);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let objects = objects.clone();
            std::thread::spawn(move || answer(stream, &objects));
        }
    });
    address
}

fn answer(mut stream: TcpStream, objects: &[(String, Vec<u8>)]) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut request, mut range, mut length) = (String::new(), None, 0usize);
    reader.read_line(&mut request).unwrap();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(bytes) = header.strip_prefix("range: bytes=") {
            let (from, to) = bytes.split_once('-').unwrap();
            range = Some((from.parse::<usize>().unwrap(), to.parse::<usize>().unwrap()));
        }
        if let Some(n) = header.strip_prefix("content-length: ") {
            length = n.parse().unwrap();
        }
    }
    reader.take(length as u64).read_to_end(&mut Vec::new()).unwrap();
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.trim_start_matches("/crawl").trim_start_matches('/');
    if query.contains("list-type=2") {
        let entries: String = objects
            .iter()
            .map(|(key, bytes)| {
                format!(
                    "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;{key}&quot;</ETag><Size>{}</Size></Contents>",
                    bytes.len()
                )
            })
            .collect();
        let body = format!(
            "<?xml version=\"1.0\"?><ListBucketResult><Name>crawl</Name><KeyCount>{}</KeyCount><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>",
            objects.len()
        );
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        return;
    }
    let Some((key, bytes)) = objects.iter().find(|(key, _)| key == path) else {
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        return;
    };
    let (from, to) = range.unwrap_or((0, bytes.len() - 1));
    let body = &bytes[from..(to + 1).min(bytes.len())];
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\nETag: \"{key}\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nAccept-Ranges: bytes\r\nConnection: close\r\n\r\n",
        body.len(),
        from + body.len() - 1,
        bytes.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    if method == "GET" {
        stream.write_all(body).unwrap();
    }
}

#[test]
fn an_object_store_gives_the_same_bytes_as_a_folder() {
    let fixtures = root().join("tests/fixtures/micro");
    let read = |name: &str| std::fs::read(fixtures.join(name)).unwrap();
    let mut objects: Vec<(String, Vec<u8>)> =
        ["a.warc.gz", "b.warc.gz"].iter().map(|n| (format!("2026/{n}"), read(n))).collect();
    objects.push(("2026/notes.txt".into(), b"not a crawl".to_vec()));
    objects.push(("other/c.warc.gz".into(), read("b.warc.gz")));
    let address = object_store(objects);
    let digests = |source: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = manifest(
            folder.path(),
            &format!(
                "name = \"store\"\n[stage]\ncrawl = {{ kind = \"ingest\", source = {source} }}\ntext = {{ kind = \"extract\", input = \"crawl\" }}\n"
            ),
        );
        let run = gristmill(&["run", arg(&path), "--root", arg(folder.path())])
            .env("AWS_ENDPOINT_URL", &address)
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_REGION", "here")
            .env("AWS_ALLOW_HTTP", "true")
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", text(&run.stderr));
        let run = folder.path().join("store");
        assert!(!run.join("crawl/side").exists());
        stdout(&["verify", arg(&run)])
    };
    let local = digests(&format!("\"{}/*.warc.gz\"", fixtures.display()));
    assert_eq!(digests("\"s3://crawl/2026/*.warc.gz\""), local);
    let both = format!("[\"{address}/crawl/2026/a.warc.gz\", \"{address}/crawl/2026/b.warc.gz\"]");
    assert_eq!(digests(&both), local);
}

#[test]
fn a_store_that_does_not_answer_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let path = manifest(
        folder.path(),
        &format!(
            "name = \"gone\"\n[stage]\ncrawl = {{ kind = \"ingest\", source = \"http://{address}/x.warc.gz\" }}\n"
        ),
    );
    let said = fails_with(&["run", arg(&path), "--root", arg(folder.path())], 2);
    assert!(said.contains("cannot read http://") && said.contains("hint:"), "{said}");
}

/// A run's own Parquet of documents numbered from 0 to `rows`, in row groups of the writer's.
fn parquet(folder: &Path, rows: usize) -> Vec<u8> {
    let lines: String = (0..rows)
        .map(|n| serde_json::json!({ "text": format!("Row {n}. ").repeat(40), "id": n.to_string() }).to_string() + "\n")
        .collect();
    std::fs::write(folder.join("made.jsonl"), lines).unwrap();
    documents(folder, "made.jsonl", "");
    std::fs::read(folder.join("source/crawl/part-00000.parquet")).unwrap()
}

/// Counts of (status, rule), and what was said.
fn outcome(folder: &Path, source: &str, more: &str) -> (String, String) {
    let path = manifest(
        folder,
        &format!("name = \"source\"\n[stage]\ncrawl = {{ kind = \"ingest\", source = \"{source}\"{more} }}\n"),
    );
    let said = gristmill(&["run", arg(&path), "--root", arg(folder)]).output().unwrap();
    assert!(said.status.success(), "{}", text(&said.stderr));
    let query = "SELECT status, rule, count(*), min(reason) FROM crawl_verdicts GROUP BY 1, 2 ORDER BY 1 DESC, 2";
    (stdout(&["sql", arg(&folder.join("source")), query, "--format", "csv"]), text(&said.stderr))
}

#[test]
fn a_truncated_parquet_file_is_one_failed_record_and_the_others_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let whole = parquet(folder.path(), 50);
    for (name, bytes) in [
        ("in-a.parquet", &whole[..]),
        ("in-b.parquet", &whole[..whole.len() / 2]),
        ("in-c.parquet", b"no Parquet at all"),
        ("in-d.parquet", b""),
    ] {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let (counts, said) = outcome(folder.path(), "in-*.parquet", "");
    let lines: Vec<&str> = counts.lines().collect();
    assert!(lines[1].starts_with("kept,,50,") && lines[2].starts_with("failed,ingest.bad_parquet,3,"), "{counts}");
    assert!(lines[2].contains("no readable Parquet file: ") && lines[2].contains(".parquet:0+0"), "{counts}");
    assert!(said.contains("warning: 3 of 53 records"), "{said}");
    let path = manifest(
        folder.path(),
        "name = \"source\"\n[stage]\ncrawl = { kind = \"ingest\", source = \"in-*.parquet\", max_bad_records = \"2\" }\n",
    );
    let said = fails_with(&["run", arg(&path), "--root", arg(folder.path())], 3);
    assert!(said.contains("3 of 53 records"), "{said}");
}

#[test]
fn damage_anywhere_in_a_parquet_file_loses_rows_and_never_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let whole = parquet(folder.path(), 300);
    let mut lost = 0;
    for n in 0..24 {
        let mut damaged = whole.clone();
        let at = whole.len() * (2 * n + 1) / 48;
        damaged[at..(at + 40).min(whole.len())].fill(0xa5);
        std::fs::write(folder.path().join(format!("dam-{n:02}.parquet")), damaged).unwrap();
    }
    let (counts, said) = outcome(folder.path(), "dam-*.parquet", "");
    assert!(!said.contains("panicked"), "{said}");
    for line in counts.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let n: usize = cells[2].parse().unwrap();
        lost += if cells[1] == "ingest.bad_parquet" { n } else { 0 };
        assert!(["", "ingest.bad_parquet", "ingest.no_text", "ingest.bad_utf8"].contains(&cells[1]), "{counts}");
    }
    assert!(lost >= 3, "{counts}");
}

#[test]
fn a_text_that_is_no_string_is_a_failed_row_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "{\"text\": \"fine\"}\n{\"text\": 7}\n{\"text\": [\"a\"]}\n{\"html\": {\"a\": 1}}\n{\"text\": null}\n{\"text\": 1, \"html\": \"<p>fine\"}\n{\"text\": true}\n";
    std::fs::write(folder.path().join("odd.jsonl"), lines).unwrap();
    let (counts, _) = outcome(folder.path(), "odd.jsonl", "");
    assert!(counts.contains("kept,,2,") && counts.contains("failed,ingest.no_text,1,"), "{counts}");
    assert!(counts.contains("failed,ingest.bad_text,4,"), "{counts}");
    let reasons = stdout(&[
        "sql",
        arg(&folder.path().join("source")),
        "SELECT reason FROM crawl_verdicts WHERE rule = 'ingest.bad_text' ORDER BY reason",
        "--format",
        "csv",
    ]);
    for part in
        ["`html` is an object, expected a string", "`text` is a boolean", "`text` is a list", "`text` is a number"]
    {
        assert!(reasons.contains(part), "{reasons}");
    }
    // A column of numbers is as many failed rows.
    parquet(folder.path(), 5);
    let table = folder.path().join("source");
    let query = "SELECT CAST(source_id AS BIGINT) AS text, source_id AS id FROM crawl ORDER BY id";
    stdout(&["sql", arg(&table), query, "--output", arg(&folder.path().join("numbers.parquet"))]);
    let (counts, _) = outcome(folder.path(), "numbers.parquet", "");
    assert!(
        counts.contains("failed,ingest.bad_text,5,") && counts.contains("`text` is of type Int64, expected a string"),
        "{counts}"
    );
}

#[test]
fn a_column_that_no_record_has_is_told_with_the_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("a.jsonl"),
        "{\"text\": \"one\", \"licence\": \"mit\"}\n{\"text\": \"two\", \"rare\": 1}\n",
    )
    .unwrap();
    std::fs::write(folder.path().join("a.csv"), "text,licence\none,mit\n").unwrap();
    parquet(folder.path(), 3);
    std::fs::copy(folder.path().join("source/crawl/part-00000.parquet"), folder.path().join("a.parquet")).unwrap();
    let (_, said) = outcome(folder.path(), "a.*", ", columns = [\"licens\", \"rare\", \"licence\"]");
    assert!(
        said.contains("no record of `crawl` has the column `licens`") && said.contains("did you mean `licence`?"),
        "{said}"
    );
    assert!(!said.contains("column `rare`") && !said.contains("column `licence`"), "{said}");
    let (_, said) = outcome(folder.path(), "a.csv", ", columns = [\"nope\"]");
    assert!(said.contains("the column `nope`") && said.contains("the records have licence"), "{said}");
    // The notes that fragments take for it are in no receipt.
    let receipt = std::fs::read_to_string(folder.path().join("source/crawl/receipt.json")).unwrap();
    assert!(!receipt.contains("missing:") && !receipt.contains("field:"), "{receipt}");
    let path = manifest(
        folder.path(),
        "name = \"source\"\n[stage]\ncrawl = { kind = \"ingest\", source = \"a.csv\", columns = [\"a\", \"b\", \"a\"] }\n",
    );
    let said = fails_with(&["check", arg(&path)], 2);
    assert!(said.contains("`columns` in stage `crawl`: `a` is named twice"), "{said}");
    stdout(&[
        "run",
        arg(&manifest(
            folder.path(),
            "name = \"source\"\n[stage]\ncrawl = { kind = \"ingest\", source = \"a.csv\" }\n",
        )),
        "--root",
        arg(folder.path()),
    ]);
    let said = fails_with(&["sql", arg(&folder.path().join("source")), "SELECT id, text, id FROM crawl"], 2);
    assert!(said.contains("the query gives two columns the name `id`") && said.contains("hint:"), "{said}");
}

#[test]
fn an_lz4_crawl_gives_the_documents_of_its_gzip_form() {
    let folder = tempfile::tempdir().unwrap();
    let packed = std::fs::read(root().join("tests/fixtures/micro/a.warc.gz")).unwrap();
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
    std::fs::write(folder.path().join("one.warc.lz4"), lz4(&plain)).unwrap();
    std::fs::write(folder.path().join("cut.warc.lz4"), &lz4(&plain)[..lz4(&plain).len() / 2]).unwrap();
    std::fs::write(folder.path().join("plain.warc"), &plain).unwrap();
    let pages = |source: &str| {
        outcome(folder.path(), source, "");
        let query = "SELECT url, payload_hash FROM crawl ORDER BY url, payload_hash";
        stdout(&["sql", arg(&folder.path().join("source")), query, "--format", "csv"])
    };
    let wanted = pages("plain.warc");
    assert_eq!(pages("one.warc.lz4"), wanted);
    let (counts, _) = outcome(folder.path(), "cut.warc.lz4", "");
    assert!(counts.contains("failed,ingest.truncated_member,1,"), "{counts}");
    std::fs::write(folder.path().join("cut.jsonl.lz4"), &lz4(b"{\"text\": \"one\"}\n{\"text\": \"two\"}\n")[..30])
        .unwrap();
    let (counts, _) = outcome(folder.path(), "cut.jsonl.lz4", "");
    assert!(counts.contains("failed,ingest.truncated_member,1,") && counts.contains("LZ4"), "{counts}");
}
