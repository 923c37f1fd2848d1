//! `ingest`: files in, a table of documents out, and a verdict row for every record that is none.

use super::{Context, Output};
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use crate::progress::Event;
use crate::source::http;
use crate::source::rows::{Document, Place, Rows};
use crate::source::warc::{self, Item, Limits, Record};
use crate::source::{Format, Mapped, jsonl, parquet};
use crate::stage::rowlocal::{Pair, summary};
use crate::store::FragmentRecord;
use crate::verdict::Status;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Compressed bytes of a file that make one fragment.
const FRAGMENT_BYTES: u64 = 64 << 20;

/// One pattern or several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Patterns {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Patterns {
    fn all(&self) -> &[String] {
        match self {
            Patterns::One(p) => std::slice::from_ref(p),
            Patterns::Many(ps) => ps,
        }
    }
}

/// Options of an `ingest` stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// Files to read, as paths or patterns (`*`, `**`, `?`) relative to the manifest: `.warc .arc .jsonl` (plain, `.gz`,
    /// `.zst`) and `.parquet`.
    pub source: Patterns,
    /// Patterns of files to leave out.
    pub exclude: Vec<String>,
    /// Most damaged records before the stage fails: a count (`"100"`) or a share of all records (`"5%"`).
    pub max_bad_records: String,
    /// Further text fields of JSONL or Parquet input to carry along as columns, e.g. `["lang"]`.
    pub columns: Vec<String>,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            source: Patterns::Many(Vec::new()),
            exclude: Vec::new(),
            max_bad_records: "100%".into(),
            columns: Vec::new(),
        }
    }
}

impl Options for IngestConfig {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = Vec::new();
        if self.source.all().is_empty() {
            faults.push(OptionFault::new("source", "expected at least one file or pattern"));
        }
        for (key, pattern) in
            self.source.all().iter().map(|p| ("source", p)).chain(self.exclude.iter().map(|p| ("exclude", p)))
        {
            if let Err(e) = glob::Pattern::new(pattern) {
                faults.push(OptionFault::new(key, format!("`{pattern}` is no pattern: {e}")));
            }
        }
        if limit(&self.max_bad_records, 0).is_none() {
            faults.push(OptionFault::new(
                "max_bad_records",
                format!("expected a count or a percentage, got \"{}\"", self.max_bad_records),
            ));
        }
        let own = crate::schema::ingested(&[]);
        for name in self.columns.iter().filter(|n| own.column_with_name(n).is_some()) {
            faults.push(OptionFault::new("columns", format!("`{name}` is a column of every document already")));
        }
        faults
    }
}

/// The limit on bad records in a run of `total`.
fn limit(text: &str, total: u64) -> Option<u64> {
    match text.strip_suffix('%') {
        Some(share) => share
            .trim()
            .parse::<f64>()
            .ok()
            .filter(|s| (0.0..=100.0).contains(s))
            .map(|s| (total as f64 * s / 100.0).floor() as u64),
        None => text.trim().parse().ok(),
    }
}

/// Files of the source, by name relative to each pattern's fixed prefix, sorted; a fault if a pattern finds none.
pub fn files(config: &IngestConfig, folder: &Path) -> std::result::Result<Vec<(String, PathBuf)>, OptionFault> {
    let excluded: Vec<glob::Pattern> = config.exclude.iter().filter_map(|p| glob::Pattern::new(p).ok()).collect();
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for pattern in config.source.all() {
        let prefix = fixed_prefix(pattern);
        let whole = format!("{}/{pattern}", glob::Pattern::escape(&folder.to_string_lossy()));
        let whole =
            if folder.as_os_str().is_empty() || Path::new(pattern).is_absolute() { pattern.clone() } else { whole };
        let before = found.len();
        let matches = glob::glob(&whole).map_err(|e| OptionFault::new("source", e.to_string()))?;
        for path in matches.flatten().filter(|p| p.is_file()) {
            let relative = path.strip_prefix(folder).unwrap_or(&path).to_path_buf();
            if excluded.iter().any(|p| p.matches_path(&relative)) {
                continue;
            }
            let name = relative.strip_prefix(&prefix).unwrap_or(&relative).to_string_lossy().into_owned();
            if Format::of(&name).is_none() {
                return Err(OptionFault {
                    key: "source".into(),
                    message: format!("{} is of no kind that ingest reads", path.display()),
                    hint: Some(
                        "it reads .warc .arc .jsonl (plain, .gz, .zst) and .parquet; leave others out with `exclude`"
                            .into(),
                    ),
                });
            }
            found.push((name, path));
        }
        if found.len() == before {
            return Err(OptionFault {
                key: "source".into(),
                message: format!("no file matches \"{pattern}\""),
                hint: Some(format!(
                    "paths are relative to the manifest, in {}",
                    std::path::absolute(folder).unwrap_or_default().display()
                )),
            });
        }
    }
    found.sort();
    found.dedup();
    if let Some(pair) = found.windows(2).find(|w| w[0].0 == w[1].0) {
        return Err(OptionFault::new(
            "source",
            format!(
                "{} and {} have the same name \"{}\" below their patterns, so their documents could not be told apart",
                pair[0].1.display(),
                pair[1].1.display(),
                pair[0].0
            ),
        ));
    }
    Ok(found)
}

/// The folders of a pattern before its first wildcard; identities do not depend on them.
fn fixed_prefix(pattern: &str) -> PathBuf {
    let parts: Vec<&str> = pattern.split('/').collect();
    let wild = parts.iter().position(|p| p.contains(['*', '?', '['])).unwrap_or(parts.len() - 1);
    parts[..wild].join("/").into()
}

/// A part of a file that is one fragment.
struct Range {
    name: String,
    path: PathBuf,
    format: Format,
    start: u64,
    end: u64,
}

fn ranges(files: Vec<(String, PathBuf)>) -> Result<Vec<Range>> {
    let mut ranges = Vec::new();
    for (name, path) in files {
        let format = Format::of(&name).expect("`files` refuses names of no format");
        let length = std::fs::metadata(&path).map_err(Error::io("look at", &path))?.len();
        let packed = [".gz", ".zst"].iter().any(|e| name.ends_with(e));
        let cut = format == Format::Warc || (format == Format::Jsonl && !packed);
        let step = if cut { FRAGMENT_BYTES } else { u64::MAX };
        let mut start = 0u64;
        loop {
            let end = start.saturating_add(step);
            let last = end >= length;
            ranges.push(Range {
                name: name.clone(),
                path: path.clone(),
                format,
                start,
                end: if last { u64::MAX } else { end },
            });
            if last {
                break;
            }
            start = end;
        }
    }
    Ok(ranges)
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &IngestConfig) -> Result<Output> {
    let ranges = ranges(files(config, context.folder).map_err(|f| Error::Manifest(f.message))?)?;
    let mut fragments = context.fragments("", ranges.len(), |i| fragment(context, config, &ranges[i], i, None))?;
    mend_chain(context, config, &ranges, &mut fragments)?;
    for fragment in &mut fragments {
        fragment.counts.retain(|name, _| !name.starts_with("chain:"));
    }
    let sum = |name: &str| fragments.iter().filter_map(|f| f.counts.get(name)).sum::<u64>();
    let (total, bad) = (sum("in"), sum("failed"));
    let most = limit(&config.max_bad_records, total).expect("checked with the manifest");
    if bad > most {
        return Err(Error::InputData(format!(
            "{bad} of {total} records of stage `{}` are damaged, more than max_bad_records = \"{}\" allows\n\
             hint: look at them with  SELECT reason, count(*) FROM {}_verdicts GROUP BY reason  after raising the limit",
            context.name(),
            config.max_bad_records,
            context.name()
        )));
    }
    if bad * 100 > total {
        context.progress.event(Event::Warning(&format!(
            "{bad} of {total} records of `{}` are damaged (see {}_verdicts)",
            context.name(),
            context.name()
        )));
    }
    let note = summary(&fragments);
    Ok(Output { fragments, note, ..Output::default() })
}

/// A range of a gzip WARC finds its first member by looking; where that was not the member the range before ended at,
/// it is read again from there, so that all ranges together are the whole-file scan.
fn mend_chain(
    context: &Context<'_>,
    config: &IngestConfig,
    ranges: &[Range],
    fragments: &mut [FragmentRecord],
) -> Result<()> {
    for i in 1..fragments.len() {
        if ranges[i].start == 0 || ranges[i].format != Format::Warc {
            continue;
        }
        let exit = fragments[i - 1].counts["chain:exit"];
        if fragments[i].counts["chain:entry"] != exit {
            let mut again = fragment(context, config, &ranges[i], i, Some(exit))?;
            again.index = i;
            context.out.commit_fragment("", &again)?;
            fragments[i] = again;
        }
    }
    Ok(())
}

fn fragment(
    context: &Context<'_>,
    config: &IngestConfig,
    range: &Range,
    index: usize,
    entry: Option<u64>,
) -> Result<FragmentRecord> {
    let mut rows = Rows::new(&range.name, &config.columns);
    let (documents, verdicts) = rows.take()?;
    let mut files = Pair::create(context, index, documents.schema(), verdicts.schema())?;
    let mut record = FragmentRecord::default();
    let mut flush = |rows: &mut Rows| -> Result<()> {
        let (documents, verdicts) = rows.take()?;
        files.kept.write(&documents)?;
        files.verdicts.write(&verdicts)
    };
    match range.format {
        Format::Warc => read_warc(range, entry, &mut rows, &mut record, &mut flush)?,
        Format::Jsonl => {
            let mapped = Mapped::open(&range.path)?;
            let (bytes, start) = line_start(mapped.bytes(), range.start);
            jsonl::read(
                &mut *jsonl::decoded(&range.path, bytes)?,
                start,
                range.end,
                &config.columns,
                &mut rows,
                &mut flush,
            )?;
        }
        Format::Parquet => parquet::read(&range.path, &config.columns, &mut rows, &mut flush)?,
    }
    flush(&mut rows)?;
    for (name, n) in &rows.verdicts.counts.counts {
        record.add(name, *n);
    }
    record.files = vec![files.kept.finish()?, files.verdicts.finish()?];
    Ok(record)
}

/// The bytes from the first line that starts at or after `start`, and its offset.
fn line_start(bytes: &[u8], start: u64) -> (&[u8], u64) {
    if start == 0 {
        return (bytes, 0);
    }
    let before = (start as usize - 1).min(bytes.len());
    let at = memchr::memchr(b'\n', &bytes[before..]).map_or(bytes.len(), |n| before + n + 1);
    (&bytes[at..], at as u64)
}

fn read_warc(
    range: &Range,
    entry: Option<u64>,
    rows: &mut Rows,
    record: &mut FragmentRecord,
    flush: &mut dyn FnMut(&mut Rows) -> Result<()>,
) -> Result<()> {
    let mapped = Mapped::open(&range.path)?;
    let limits = Limits::default();
    let mut items = match entry {
        Some(entry) => warc::records_from(mapped.bytes(), entry, range.end, &limits),
        None => warc::records(mapped.bytes(), range.start, range.end, &limits),
    };
    for item in items.by_ref() {
        match item {
            Item::Record(r) => {
                record.add(&format!("record:{}", r.warc_type), 1);
                page(&r, rows);
            }
            Item::Damaged(d) => {
                let place = Place { offset: d.offset, offset_in_member: d.offset_in_member, length: d.length };
                rows.refuse(&place, Status::Failed, d.rule, None, d.detail);
            }
        }
        if rows.is_full() {
            flush(rows)?;
        }
    }
    record.add("chain:entry", items.entry());
    record.add("chain:exit", items.exit().unwrap_or_default());
    Ok(())
}

/// One record: a page, a text, something that is never a document, or a page refused with a reason.
fn page(record: &Record<'_>, rows: &mut Rows) {
    let place = Place { offset: record.offset, offset_in_member: record.offset_in_member, length: record.length };
    let url = record.target_uri.as_deref();
    let shown = url.unwrap_or("no URL");
    match record.warc_type.as_str() {
        "response" | "resource" => {}
        "conversion" => {
            let text = String::from_utf8_lossy(&record.block);
            return rows.keep(
                &place,
                &Document {
                    url,
                    date: record.date.as_deref(),
                    content_type: record.content_type.as_deref(),
                    text: Some(&text),
                    ..Document::default()
                },
            );
        }
        "revisit" => {
            return rows.refuse(
                &place,
                Status::Dropped,
                "revisit",
                None,
                format!("{shown} repeats an earlier capture"),
            );
        }
        _ => return,
    }
    let is_http = record.warc_type == "response"
        && record.content_type.as_deref().is_none_or(|t| t.starts_with("application/http"));
    let mut document = Document {
        url,
        date: record.date.as_deref(),
        content_type: record.content_type.as_deref(),
        html: Some(&record.block),
        ..Document::default()
    };
    let response;
    if is_http {
        response = http::parse_http(&record.block, &http::BodyLimits::default());
        document.http_status = Some(response.status);
        document.content_type = response.content_type();
        document.html = Some(&response.body);
        if response.damage.undecodable {
            return rows.refuse(
                &place,
                Status::Failed,
                "undecodable_body",
                None,
                format!("the body of {shown} cannot be decoded"),
            );
        }
        if !(200..300).contains(&response.status) {
            return rows.refuse(
                &place,
                Status::Dropped,
                "http_status",
                Some(f64::from(response.status)),
                format!("{shown} answered {}", response.status),
            );
        }
    }
    let body = document.html.unwrap_or_default();
    if !http::is_html(document.content_type, record.identified_payload_type.as_deref(), body) {
        let kind = document.content_type.unwrap_or("no content type");
        return rows.refuse(&place, Status::Dropped, "not_html", None, format!("{shown} is {kind}"));
    }
    if body.is_empty() {
        return rows.refuse(&place, Status::Dropped, "empty_body", Some(0.0), format!("{shown} has no body"));
    }
    rows.keep(&place, &document);
}
