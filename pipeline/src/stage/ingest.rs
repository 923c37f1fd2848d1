//! `ingest`: files in, a table of documents out, and a verdict row for every record that is none.

use super::{Context, Output};
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use crate::progress::Event;
use crate::source::files::{self, Asset};
use crate::source::lines::{self, Lines};
use crate::source::parquet::{self, Groups};
use crate::source::records::Shape;
use crate::source::remote::{self, Remote};
use crate::source::rows::{Document, Place, Rows};
use crate::source::takedown::Takedown;
use crate::source::warc::{self, Item, Limits, Record};
use crate::source::{Fields, Format, Mapped, http, is_packed, spool};
use crate::stage::rowlocal::{Files, summary};
use crate::store::{FragmentRecord, OutputDir};
use crate::verdict::Status;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A compressed stream that is too large to be one fragment is cut where it has so many decoded bytes for one of a fragment's stored.
const PIECE: u64 = 4;

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
    /// Files to read, as paths or patterns (`*`, `**`, `?`) relative to the manifest, or as `s3://bucket/...` and
    /// `https://host/...`: `.warc .arc .wet .jsonl .csv .tsv` (plain, `.gz`, `.zst`, `.lz4`) and `.parquet`.
    pub source: Patterns,
    /// Patterns of files to leave out.
    pub exclude: Vec<String>,
    /// Most damaged records before the stage fails: a count (`"100"`) or a share of all records (`"5%"`).
    pub max_bad_records: String,
    /// Further fields of JSONL, CSV or Parquet input to carry along as text columns, e.g. `["lang"]`.
    pub columns: Vec<String>,
    /// Names under which JSONL, CSV or Parquet input keeps `text`, `html`, `id`, `url` and `date`, where they differ, e.g.
    /// `{ text = "content" }`.
    pub fields: Fields,
    /// Files that list what must not be used, relative to the manifest: an id, a URL or a domain a line, `#` for comments.
    pub takedown: Vec<String>,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            source: Patterns::Many(Vec::new()),
            exclude: Vec::new(),
            max_bad_records: "100%".into(),
            columns: Vec::new(),
            fields: Fields::default(),
            takedown: Vec::new(),
        }
    }
}

impl IngestConfig {
    fn all_fields(&self) -> Fields {
        Fields { columns: self.columns.clone(), ..self.fields.clone() }
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
        let twice = self.columns.iter().enumerate().find(|(i, name)| self.columns[..*i].contains(name));
        if let Some((_, name)) = twice {
            faults.push(OptionFault::new("columns", format!("`{name}` is named twice, expected each column once")));
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

/// The take-down lists, by name.
pub fn takedown_files(config: &IngestConfig, folder: &Path) -> Vec<(String, Asset)> {
    config.takedown.iter().map(|name| (format!("takedown {name}"), Asset::Local(folder.join(name)))).collect()
}

/// Files of the source, by name; a fault if a pattern finds none.
pub fn files(config: &IngestConfig, folder: &Path) -> std::result::Result<Vec<(String, Asset)>, OptionFault> {
    files::find(config.source.all(), &config.exclude, folder)
}

/// A part of a file that is one fragment.
struct Range {
    /// Name of the file in the documents' identities.
    name: String,
    /// Where its bytes are.
    path: PathBuf,
    part: Part,
}

enum Part {
    /// Records of a WARC file that start in this range of stored offsets.
    Warc { start: u64, end: u64 },
    /// Records of a line format that start in this range of decoded offsets.
    Lines { lines: Lines, start: u64, end: u64 },
    /// The same, in a piece of their own, and where and why the stream broke behind it.
    Piece { lines: Lines, start: u64, end: u64, broken: Option<(u64, String)> },
    /// Rows of these row groups.
    Groups(Groups),
    /// A file that is no readable Parquet, and why.
    Unreadable(String),
}

/// Objects are copied here first, and large compressed streams are cut into pieces.
const FETCH: &str = "fetch";
const SPOOL: &str = "spool";

/// The files of the source on this machine.
fn local(context: &Context<'_>, config: &IngestConfig) -> Result<Vec<(String, PathBuf)>> {
    let files = files(config, context.folder).map_err(|f| Error::Manifest(f.message))?;
    let remotes: Vec<&Remote> =
        files.iter().filter_map(|(_, a)| if let Asset::Remote(r) = a { Some(r) } else { None }).collect();
    let fetched = if remotes.is_empty() {
        Vec::new()
    } else {
        context.fragments(FETCH, remotes.len(), |i| {
            let file = remote::fetch(remotes[i], &context.out.path, &OutputDir::side_name(FETCH, &format!("{i:05}")))?;
            Ok(FragmentRecord { files: vec![file], ..FragmentRecord::default() })
        })?
    };
    let mut fetched = fetched.iter().map(|record| context.out.path.join(&record.files[0].path));
    let here = |asset: Asset| match asset {
        Asset::Local(path) => path,
        Asset::Remote(_) => fetched.next().expect("there is a copy of every object because each is a fragment"),
    };
    let (names, assets): (Vec<String>, Vec<Asset>) = files.into_iter().unzip();
    Ok(names.into_iter().zip(assets.into_iter().map(here)).collect())
}

/// Cuts every file into ranges, in file order.
fn ranges(context: &Context<'_>, files: Vec<(String, PathBuf)>) -> Result<Vec<Range>> {
    let length = |path: &Path| Ok::<u64, Error>(std::fs::metadata(path).map_err(Error::io("look at", path))?.len());
    let fragment_bytes = context.settings.cut.fragment_bytes;
    let mut large = Vec::new();
    for (name, path) in &files {
        let lines = matches!(Format::of(name), Some(Format::Jsonl | Format::Csv | Format::Tsv));
        let cut = is_packed(name) || Format::of(name).is_some_and(|f| f.delimiter().is_some());
        if lines && cut && length(path)? > fragment_bytes {
            large.push((name, path));
        }
    }
    let spooled = match large.len() {
        0 => Vec::new(),
        n => context.fragments(SPOOL, n, |i| spool_file(context, large[i].0, large[i].1, i))?,
    };
    let mut spooled = large.iter().map(|(name, _)| *name).zip(&spooled).collect::<std::collections::BTreeMap<_, _>>();
    let mut ranges = Vec::new();
    for (name, path) in &files {
        let format = Format::of(name).expect("`files` refuses names of no format");
        let mut push = |path: &Path, part: Part| ranges.push(Range { name: name.clone(), path: path.into(), part });
        match format {
            Format::Warc => {
                let length = length(path)?;
                for start in (0..length.max(1)).step_by(fragment_bytes as usize) {
                    let last = start + fragment_bytes >= length;
                    push(path, Part::Warc { start, end: if last { u64::MAX } else { start + fragment_bytes } });
                }
            }
            Format::Parquet => match parquet::ranges(path, fragment_bytes)? {
                Ok(groups) => groups.into_iter().for_each(|g| push(path, Part::Groups(g))),
                Err(why) => push(path, Part::Unreadable(why)),
            },
            Format::Jsonl | Format::Csv | Format::Tsv => {
                let (lines, first) = lines_of(name, path)?;
                match spooled.remove(name) {
                    Some(record) => {
                        let broken =
                            record.counts.iter().find_map(|(k, at)| Some((*at, k.strip_prefix("broken:")?.into())));
                        let starts: Vec<u64> =
                            (0..record.files.len()).map(|i| record.counts[&format!("piece:{i:05}")]).collect();
                        for (i, file) in record.files.iter().enumerate() {
                            let last = i + 1 == starts.len();
                            push(
                                &context.out.path.join(&file.path),
                                Part::Piece {
                                    lines: lines.clone(),
                                    start: starts[i],
                                    end: if last { u64::MAX } else { starts[i + 1] },
                                    broken: if last { broken.clone() } else { None },
                                },
                            );
                        }
                    }
                    None if is_packed(name) || first > 0 => {
                        push(path, Part::Lines { lines, start: first, end: u64::MAX });
                    }
                    None => {
                        let length = length(path)?;
                        for start in (0..length.max(1)).step_by(fragment_bytes as usize) {
                            let last = start + fragment_bytes >= length;
                            let end = if last { u64::MAX } else { start + fragment_bytes };
                            push(path, Part::Lines { lines: lines.clone(), start, end });
                        }
                    }
                }
            }
        }
    }
    Ok(ranges)
}

/// How a line format's file is read, and the decoded offset of its first record.
fn lines_of(name: &str, path: &Path) -> Result<(Lines, u64)> {
    let Some(delimiter) = Format::of(name).and_then(Format::delimiter) else { return Ok((Lines::Json, 0)) };
    let mapped = Mapped::open(path)?;
    let reader = lines::decoded(name, mapped.bytes(), path)?;
    // A stream that breaks inside its first record has no names; reading it says so.
    Ok(Lines::csv(delimiter, reader).unwrap_or((Lines::Csv { delimiter, names: Vec::new() }, 0)))
}

/// Decodes a large compressed stream once and cuts it between records.
fn spool_file(context: &Context<'_>, name: &str, path: &Path, index: usize) -> Result<FragmentRecord> {
    let (lines, first) = lines_of(name, path)?;
    let mapped = Mapped::open(path)?;
    let mut reader = lines::decoded(name, mapped.bytes(), path)?;
    std::io::copy(&mut Read::take(&mut reader, first), &mut std::io::sink()).map_err(Error::io("decode", path))?;
    let side = |i: usize| OutputDir::side_name(SPOOL, &format!("{index:05}-{i:05}.zst"));
    let (pieces, broken) = spool::spool(
        reader,
        lines.shape(),
        first,
        PIECE * context.settings.cut.fragment_bytes,
        &context.out.path,
        side,
    )?;
    let mut record = FragmentRecord::default();
    for (i, piece) in pieces.into_iter().enumerate() {
        record.add(&format!("piece:{i:05}"), piece.start);
        record.files.push(piece.file);
    }
    if let Some((at, why)) = broken {
        record.add(&format!("broken:{why}"), at);
    }
    Ok(record)
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &IngestConfig) -> Result<Output> {
    let ranges = ranges(context, local(context, config)?)?;
    let mut takedown = Takedown::default();
    config.takedown.iter().try_for_each(|name| takedown.read(&context.folder.join(name)))?;
    let takedown = Arc::new(takedown);
    let work = |i: usize, entry: Option<u64>| fragment(context, config, &takedown, &ranges[i], i, entry);
    let mut fragments = context.spread("", ranges.len(), |i| work(i, None))?;
    mend_chain(context, &ranges, &mut fragments, work)?;
    warn_of_missing(context, config, &fragments);
    for fragment in &mut fragments {
        fragment.counts.retain(|name, _| ![CHAIN, MISSING, FIELD].iter().any(|own| name.starts_with(own)));
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

/// Starts of the names of counts that are notes from a fragment to the end of the stage.
const CHAIN: &str = "chain:";
const MISSING: &str = "missing:";
const FIELD: &str = "field:";

/// Says which of the carried columns no record has, with the name they may have been meant for.
fn warn_of_missing(context: &Context<'_>, config: &IngestConfig, fragments: &[FragmentRecord]) {
    let own = crate::schema::ingested(&[]);
    let fields: std::collections::BTreeSet<&str> =
        fragments.iter().flat_map(|f| f.counts.keys()).filter_map(|name| name.strip_prefix(FIELD)).collect();
    let more: Vec<String> =
        fields.into_iter().filter(|name| own.column_with_name(name).is_none()).map(String::from).collect();
    for name in &config.columns {
        let missing = format!("{MISSING}{name}");
        if fragments.is_empty() || !fragments.iter().all(|f| f.counts.contains_key(&missing)) {
            continue;
        }
        let way_out = match crate::manifest::nearest(name, &more) {
            Some(near) => format!("did you mean `{near}`?"),
            None if more.is_empty() => "the records have no further fields".into(),
            None => format!("the records have {}", more.join(", ")),
        };
        context.progress.event(Event::Warning(&format!(
            "no record of `{}` has the column `{name}` that `columns` asks for: {way_out}",
            context.name()
        )));
    }
}

/// A range of a gzip WARC finds its first member by looking; where that was not the member the range before ended at,
/// it is read again from there, so that all ranges together are the whole-file scan.
fn mend_chain(
    context: &Context<'_>,
    ranges: &[Range],
    fragments: &mut [FragmentRecord],
    work: impl Fn(usize, Option<u64>) -> Result<FragmentRecord>,
) -> Result<()> {
    for i in 1..fragments.len() {
        if !matches!(ranges[i].part, Part::Warc { start: 1.., .. }) {
            continue;
        }
        let exit = fragments[i - 1].counts["chain:exit"];
        if fragments[i].counts["chain:entry"] != exit {
            let mut again = work(i, Some(exit))?;
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
    takedown: &Arc<Takedown>,
    range: &Range,
    index: usize,
    entry: Option<u64>,
) -> Result<FragmentRecord> {
    let mut rows = Rows::new(&range.name, &config.columns, takedown.clone());
    let (documents, verdicts) = rows.take()?;
    let mut files = Files::create(context, index, documents.schema(), verdicts.schema(), None)?;
    let mut record = FragmentRecord::default();
    let mut flush = |rows: &mut Rows| -> Result<()> {
        let (documents, verdicts) = rows.take()?;
        files.kept.write(&documents)?;
        files.verdicts.write(&verdicts)
    };
    let fields = config.all_fields();
    match &range.part {
        Part::Warc { start, end } => read_warc(range, (*start, *end), entry, &mut rows, &mut record, &mut flush)?,
        Part::Lines { lines, start, end } => {
            let mapped = Mapped::open(&range.path)?;
            let mut reader = lines::decoded(&range.name, mapped.bytes(), &range.path)?;
            let mut from = *start;
            if is_packed(&range.name) || lines.shape() != Shape::Lines {
                let skipped = std::io::copy(&mut Read::take(&mut reader, from), &mut std::io::sink());
                skipped.map_err(Error::io("decode", &range.path))?;
            } else {
                let bytes;
                (bytes, from) = line_start(mapped.bytes(), from);
                reader = Box::new(bytes);
            }
            lines::read(&mut *reader, lines, (from, *end), &fields, &mut rows, &mut flush)?;
        }
        Part::Piece { lines, start, end, broken } => {
            let mapped = Mapped::open(&range.path)?;
            let mut reader = lines::decoded("piece.zst", mapped.bytes(), &range.path)?;
            lines::read(&mut *reader, lines, (*start, *end), &fields, &mut rows, &mut flush)?;
            if let Some((at, why)) = broken {
                lines::broken_stream(*at, why, &mut rows);
            }
        }
        Part::Groups(groups) => parquet::read(&range.path, groups, &fields, &mut rows, &mut flush)?,
        Part::Unreadable(why) => parquet::unreadable(why, &mut rows),
    }
    flush(&mut rows)?;
    let (missing, names) = rows.missing_columns();
    let mut notes: Vec<String> = missing.map(|name| format!("{MISSING}{name}")).collect();
    if !notes.is_empty() {
        notes.extend(names.iter().map(|name| format!("{FIELD}{name}")));
    }
    notes.iter().for_each(|note| record.add(note, 1));
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
    (start, end): (u64, u64),
    entry: Option<u64>,
    rows: &mut Rows,
    record: &mut FragmentRecord,
    flush: &mut dyn FnMut(&mut Rows) -> Result<()>,
) -> Result<()> {
    let mapped = Mapped::open(&range.path)?;
    let limits = Limits::default();
    let mut items = match entry {
        Some(entry) => warc::records_from(mapped.bytes(), entry, end, &limits),
        None => warc::records(mapped.bytes(), start, end, &limits),
    };
    let mut released = start as usize;
    for item in items.by_ref() {
        let at = match &item {
            Item::Record(r) => r.offset,
            Item::Damaged(d) => d.offset,
        } as usize;
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
            mapped.release(released.min(at)..at);
            released = at;
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
