//! Lines, paragraphs and stretches of text that occur earlier are cut out; the first occurrence in survivor order stays.
//!
//! A: per input fragment, keys of units (or anchors of stretches and the texts themselves) into side files cut into partitions of the
//! key space. B: a partition at a time, which of them repeat. C: per input fragment, the shortened texts, with every cut in
//! `x_edits`. Memory: the entries of one partition, and 8 to 12 bytes for each repeat.

use super::DedupStage;
use super::ids::Ids;
use super::sign::Flat;
use crate::dataset::string_column;
use crate::error::{Error, Result};
use crate::stage::edit::{Edits, with_texts};
use crate::stage::rowlocal::{self, Decided, summary};
use crate::stage::{Context, Output};
use crate::store::durable::{DurableFile, write_file};
use crate::store::{FragmentRecord, OutputDir};
use crate::udf::hash_text;
use crate::verdict::{Finding, Status, Verdicts};
use datafusion::arrow::array::{Array, ArrayRef, Float64Builder, RecordBatch, StringBuilder};
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::prelude::DataFrame;
use dedup::{
    Anchor, ConfigError, Method, Repeat, SpanConfig, SpanVerifier, Unit, UnitConfig, UnitEntry, anchors, merge_spans,
    nominate, repeated_units, surroundings, unit_entries, unit_spans,
};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Name of the phase and of its side files.
const UNITS: &str = "units";
/// Partitions of the key space.
const PARTITIONS: usize = 64;

/// Faults of the options for these methods.
pub fn check(config: &DedupStage) -> Vec<ConfigError> {
    let found = match config.dedup.method {
        Method::Spans => spans(config).check(),
        Method::Lines | Method::Paragraphs => units(config).check(),
        Method::Exact | Method::Minhash => Ok(()),
    };
    found.err().unwrap_or_default()
}

fn units(config: &DedupStage) -> UnitConfig {
    let unit = if config.dedup.method == Method::Lines { Unit::Line } else { Unit::Paragraph };
    let min_bytes = config.min_bytes.unwrap_or(UnitConfig::default().min_bytes);
    UnitConfig { unit, min_bytes, normalise: config.normalise }
}

fn spans(config: &DedupStage) -> SpanConfig {
    SpanConfig { min_bytes: config.min_bytes.unwrap_or(SpanConfig::default().min_bytes) }
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &DedupStage) -> Result<Output> {
    let parts = context.input().parts();
    let ids = Ids::read(context, config)?;
    let keyed = context.fragments(UNITS, parts.len(), |at| key(context, config, &ids, &parts[at], at))?;
    context.check_stop()?;
    let cuts = Cuts::find(context, config, &ids, &keyed)?;
    let fragments = context.fragments("", parts.len(), |at| {
        rowlocal::rewrite(context, &parts[at], at, |batch| decide(batch, &ids, &cuts))
    })?;
    let sum = |name: &str| fragments.iter().filter_map(|f| f.counts.get(name)).sum::<u64>();
    let note = format!(
        "{}, {} cuts of {:.1} kB in {}",
        summary(&fragments),
        sum("cuts"),
        sum("cut_bytes") as f64 / 1e3,
        sum("changed")
    );
    Ok(Output { fragments, note, ..Output::default() })
}

/// What the stage makes of a table without rows.
pub fn dry(input: DataFrame) -> Result<Decided> {
    rowlocal::dry(input, Ok, |batch| decide(batch, &Ids::default(), &Cuts::Spans(Vec::new())))
}

/// An entry as it stands in a side file.
trait Entry: Copy + Ord {
    const BYTES: usize;
    fn partition(&self) -> usize;
    fn write(&self, into: &mut Vec<u8>);
    fn read(bytes: &[u8]) -> Self;
}

fn partition(key: u64) -> usize {
    (key >> (64 - PARTITIONS.trailing_zeros())) as usize
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut"))
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were cut"))
}

impl Entry for UnitEntry {
    const BYTES: usize = 24;

    fn partition(&self) -> usize {
        partition(self.key[0])
    }

    fn write(&self, into: &mut Vec<u8>) {
        self.key.iter().for_each(|k| into.extend(k.to_le_bytes()));
        [self.document, self.ordinal].iter().for_each(|n| into.extend(n.to_le_bytes()));
    }

    fn read(bytes: &[u8]) -> Self {
        Self { key: [word(bytes, 0), word(bytes, 8)], document: half(bytes, 16), ordinal: half(bytes, 20) }
    }
}

impl Entry for Anchor {
    const BYTES: usize = 16;

    fn partition(&self) -> usize {
        partition(self.key)
    }

    fn write(&self, into: &mut Vec<u8>) {
        into.extend(self.key.to_le_bytes());
        [self.document, self.position].iter().for_each(|n| into.extend(n.to_le_bytes()));
    }

    fn read(bytes: &[u8]) -> Self {
        Self { key: word(bytes, 0), document: half(bytes, 8), position: half(bytes, 12) }
    }
}

/// Phase A: the entries of one fragment, a file with one section a partition; for stretches the texts too.
fn key(context: &Context<'_>, config: &DedupStage, ids: &Ids, part: &Path, index: usize) -> Result<FragmentRecord> {
    let mut record = FragmentRecord::default();
    let is_spans = config.dedup.method == Method::Spans;
    let (units, min_bytes) = (units(config), spans(config).min_bytes);
    let (mut entries, mut stretches): (Vec<UnitEntry>, Vec<Anchor>) = (Vec::new(), Vec::new());
    let name = |ending: &str| OutputDir::side_name(UNITS, &format!("{index:05}.{ending}"));
    let mut texts = if is_spans { Some(DurableFile::create(&context.out.path, &name("text"))?) } else { None };
    let mut places: Vec<u8> = Vec::new();
    let mut at = 0_u64;
    context.input().each(part, &["id", "text"], |batch| {
        let (own, text) = (string_column(&batch, "id")?, string_column(&batch, "text")?);
        for row in (0..batch.num_rows()).filter(|row| !text.is_null(*row)) {
            let (document, text) = (ids.rank(own.value(row)), text.value(row));
            match &mut texts {
                None => entries.extend(unit_entries(text, document, &units)),
                Some(file) => {
                    anchors(text.as_bytes(), document, min_bytes, &mut stretches);
                    file.write_all(text.as_bytes()).map_err(Error::io("write", &context.out.path))?;
                    places.extend(document.to_le_bytes());
                    places.extend(at.to_le_bytes());
                    at += text.len() as u64;
                    places.extend(at.to_le_bytes());
                }
            }
        }
        Ok(())
    })?;
    if let Some(file) = texts {
        record.files.push(file.finish()?);
        record.files.push(write_file(&context.out.path, &name("places"), &places)?);
        record.files.push(sections(context, &name("bin"), stretches, &mut record.counts)?);
    } else {
        record.files.push(sections(context, &name("bin"), entries, &mut record.counts)?);
    }
    Ok(record)
}

/// Writes entries sorted, and counts those before each partition.
fn sections<E: Entry>(
    context: &Context<'_>,
    name: &str,
    mut entries: Vec<E>,
    counts: &mut crate::store::Counts,
) -> Result<crate::store::durable::FileEntry> {
    entries.sort_unstable_by_key(|e| (e.partition(), *e));
    for number in 0..=PARTITIONS {
        counts.insert(section(number), entries.partition_point(|e| e.partition() < number) as u64);
    }
    let mut bytes = Vec::with_capacity(entries.len() * E::BYTES);
    entries.iter().for_each(|e| e.write(&mut bytes));
    write_file(&context.out.path, name, &bytes)
}

fn section(number: usize) -> String {
    format!("section:{number:02}")
}

/// The side files of one fragment.
struct Side {
    entries: Flat,
    starts: Vec<u64>,
    texts: Option<Flat>,
}

impl Side {
    fn open(context: &Context<'_>, record: &FragmentRecord) -> Result<Self> {
        let open = |ending: &str| {
            let file = record.files.iter().find(|f| f.path.ends_with(ending));
            file.map(|f| Flat::open(context.out.path.join(&f.path))).transpose()
        };
        let starts = (0..=PARTITIONS).map(|n| record.counts[&section(n)]).collect();
        let entries = open(".bin")?.expect("phase A wrote one for every fragment");
        Ok(Self { entries, starts, texts: open(".text")? })
    }

    fn section<E: Entry>(&self, number: usize, into: &mut Vec<E>) -> Result<()> {
        let [from, to] = [self.starts[number], self.starts[number + 1]].map(|n| n as usize * E::BYTES);
        let mut bytes = vec![0; to - from];
        self.entries.read(from as u64, &mut bytes)?;
        into.extend(bytes.chunks_exact(E::BYTES).map(E::read));
        Ok(())
    }
}

/// What is cut out of every document.
enum Cuts {
    /// Numbers of lines or paragraphs, sorted by document.
    Units(Unit, Vec<(u32, u32)>),
    /// Stretches, sorted by document.
    Spans(Vec<Repeat>),
}

impl Cuts {
    /// Phase B.
    fn find(context: &Context<'_>, config: &DedupStage, ids: &Ids, keyed: &[FragmentRecord]) -> Result<Self> {
        let sides: Vec<Side> = keyed.iter().map(|record| Side::open(context, record)).collect::<Result<_>>()?;
        if config.dedup.method != Method::Spans {
            let mut repeats = Vec::new();
            for number in 0..PARTITIONS {
                context.check_stop()?;
                let mut entries = Vec::new();
                sides.iter().try_for_each(|side| side.section(number, &mut entries))?;
                repeats.extend(repeated_units(&mut entries));
            }
            repeats.sort_unstable();
            return Ok(Self::Units(units(config).unit, repeats));
        }
        // Where each document's text lies: fragment, start, end.
        let mut places = vec![(0_u32, 0_u64, 0_u64); ids.len()];
        for (fragment, record) in keyed.iter().enumerate() {
            let file = record.files.iter().find(|f| f.path.ends_with(".places")).expect("phase A wrote it");
            let path = context.out.path.join(&file.path);
            let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
            for place in bytes.chunks_exact(20) {
                places[half(place, 0) as usize] = (fragment as u32, word(place, 4), word(place, 12));
            }
        }
        let min_bytes = spans(config).min_bytes;
        let mut repeats: Vec<Repeat> = Vec::new();
        for number in 0..PARTITIONS {
            context.check_stop()?;
            let mut nominated: Vec<Anchor> = Vec::new();
            sides.iter().try_for_each(|side| side.section(number, &mut nominated))?;
            nominate(&mut nominated);
            let (mut verifier, mut around) = (SpanVerifier::new(min_bytes), Vec::new());
            for anchor in nominated {
                let (fragment, start, end) = places[anchor.document as usize];
                let place = surroundings(anchor.position, (end - start) as usize, min_bytes);
                around.resize(place.len(), 0);
                let texts = sides[fragment as usize].texts.as_ref().expect("phase A wrote texts for this method");
                texts.read(start + place.start as u64, &mut around)?;
                verifier.push(anchor, &around, &mut repeats);
            }
        }
        repeats.sort_unstable();
        Ok(Self::Spans(repeats))
    }

    /// Bytes to cut out of a document's text, ascending, with the rule's name.
    fn of(&self, document: u32, text: &str) -> Vec<Range<usize>> {
        match self {
            Self::Units(unit, repeats) => {
                let from = repeats.partition_point(|r| r.0 < document);
                let own = repeats[from..].iter().take_while(|r| r.0 == document);
                unit_spans(text, &own.map(|r| r.1).collect::<Vec<_>>(), *unit)
            }
            Self::Spans(repeats) => {
                let from = repeats.partition_point(|r| r.document < document);
                let to = repeats.partition_point(|r| r.document <= document);
                merge_spans(text, &mut repeats[from..to].to_vec())
            }
        }
    }

    fn rule(&self) -> &'static str {
        match self {
            Self::Units(Unit::Line, _) => "dedup.line",
            Self::Units(Unit::Paragraph, _) => "dedup.paragraph",
            Self::Spans(_) => "dedup.span",
        }
    }
}

/// Phase C: the shortened rows of a batch.
fn decide(batch: RecordBatch, ids: &Ids, cuts: &Cuts) -> Result<Decided> {
    let (own, texts) = (string_column(&batch, "id")?, string_column(&batch, "text")?);
    let mut verdicts = Verdicts::default();
    let (mut new_text, mut new_hash, mut share) = (StringBuilder::new(), StringBuilder::new(), Float64Builder::new());
    let mut edits = Edits::default();
    let mut keep = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let (id, text) = (own.value(row), if texts.is_null(row) { "" } else { texts.value(row) });
        let spans = cuts.of(ids.rank(id), text);
        let (mut short, mut from) = (String::with_capacity(text.len()), 0);
        for span in &spans {
            short.push_str(&text[from..span.start]);
            edits.push(id, cuts.rule(), short.len()..short.len(), &text[span.clone()]);
            from = span.end;
        }
        short.push_str(&text[from..]);
        let cut = text.len() - short.len();
        let removed = (!text.is_empty()).then(|| cut as f64 / text.len() as f64);
        share.append_option(removed);
        let stays = cut == 0 || !short.trim().is_empty();
        if stays {
            verdicts.keep(id);
        } else {
            let reason = Some("all of it occurs earlier".to_string());
            let finding = Finding { rule: cuts.rule().into(), value: removed, threshold: Some(1.0), reason };
            verdicts.push(id, Status::Dropped, &[finding]);
        }
        verdicts.counts.add("changed", u64::from(cut > 0));
        verdicts.counts.add("cuts", spans.len() as u64);
        verdicts.counts.add("cut_bytes", cut as u64);
        new_hash.append_value(hash_text(&short));
        new_text.append_value(short);
        keep.push(stays);
    }
    let rows = with_texts(&batch, Arc::new(new_text.finish()), Arc::new(new_hash.finish()))?;
    let more = vec![(Field::new("dedup.removed_share", DataType::Float64, true), Arc::new(share.finish()) as ArrayRef)];
    let counts = std::mem::take(&mut verdicts.counts);
    let verdicts = verdicts.finish(more)?;
    Ok(Decided { rows, keep: keep.into(), verdicts, edits: Some(edits.finish()?), counts })
}
