//! Lines, paragraphs and stretches of text that occur earlier are cut out; the first occurrence in survivor order stays.
//!
//! A: per input fragment, keys of units (or anchors of stretches and the texts themselves) into side files cut into partitions of the
//! key space. B: a partition at a time, which of them repeat. C: per input fragment, the shortened texts, with every cut in
//! `x_edits`. Memory: the entries of one partition, and 8 to 12 bytes for each repeat.

use super::DedupStage;
use super::bloom::BloomUnit;
use super::ids::Ids;
use super::side::{PARTITIONS, Side, half, sections, word};
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
    Anchor, ConfigError, Method, Repeat, SpanConfig, SpanVerifier, Symbol, Unit, UnitConfig, UnitEntry, anchors,
    merge_spans, merge_word_spans, nominate, repeated_units, surroundings, unit_entries, unit_spans, word_hashes,
};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Name of the phase and of its side files.
const UNITS: &str = "units";

/// Faults of the options for these methods.
pub fn check(config: &DedupStage) -> Vec<ConfigError> {
    let found = match config.dedup.method {
        Method::Spans => spans(config).check(),
        Method::Lines | Method::Paragraphs => units(config).check(),
        Method::Bloom if config.unit() != BloomUnit::Document => units(config).check(),
        Method::Exact | Method::Minhash | Method::Bloom => Ok(()),
    };
    found.err().unwrap_or_default()
}

/// What is cut into, for `lines`, `paragraphs` and `bloom`.
pub fn units(config: &DedupStage) -> UnitConfig {
    let by_line = config.dedup.method == Method::Lines || config.unit() == BloomUnit::Line;
    let unit = if by_line { Unit::Line } else { Unit::Paragraph };
    let min_bytes = config.min_bytes.unwrap_or(UnitConfig::default().min_bytes);
    UnitConfig { unit, min_bytes, normalise: config.normalise }
}

fn spans(config: &DedupStage) -> SpanConfig {
    let default = SpanConfig::default();
    SpanConfig { min_bytes: config.min_bytes.unwrap_or(default.min_bytes), min_words: config.min_words }
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
    rowlocal::dry(input, Ok, |batch| {
        decide(batch, &Ids::default(), &Cuts::Spans { by_word: false, repeats: Vec::new() })
    })
}

/// Phase A: the entries of one fragment, a file with one section a partition; for stretches the texts too.
fn key(context: &Context<'_>, config: &DedupStage, ids: &Ids, part: &Path, index: usize) -> Result<FragmentRecord> {
    let mut record = FragmentRecord::default();
    let is_spans = config.dedup.method == Method::Spans;
    let (units, spans) = (units(config), spans(config));
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
                    let words = spans.min_words.map(|_| word_hashes(text));
                    let written = match &words {
                        None => {
                            anchors(text.as_bytes(), document, spans.size(), &mut stretches);
                            file.write_all(text.as_bytes())
                        }
                        Some(words) => {
                            anchors(words, document, spans.size(), &mut stretches);
                            file.write_all(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>())
                        }
                    };
                    written.map_err(Error::io("write", &context.out.path))?;
                    places.extend(document.to_le_bytes());
                    places.extend(at.to_le_bytes());
                    at += words.map_or(text.len(), |words| words.len()) as u64;
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

/// What is cut out of every document.
enum Cuts {
    /// Numbers of lines or paragraphs, sorted by document.
    Units(Unit, Vec<(u32, u32)>),
    /// Stretches of bytes or words, sorted by document.
    Spans { by_word: bool, repeats: Vec<Repeat> },
}

/// Where a document's text lies: fragment, start and end in symbols.
type TextPlace = (u32, u64, u64);

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
        let mut places: Vec<TextPlace> = vec![(0, 0, 0); ids.len()];
        for (fragment, record) in keyed.iter().enumerate() {
            let file = record.files.iter().find(|f| f.path.ends_with(".places")).expect("phase A wrote it");
            let path = context.out.path.join(&file.path);
            let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
            for place in bytes.chunks_exact(20) {
                places[half(place, 0) as usize] = (fragment as u32, word(place, 4), word(place, 12));
            }
        }
        let spans = spans(config);
        let repeats = match spans.min_words {
            None => stretches(context, &sides, &places, spans.size(), 1, |bytes| bytes.to_vec()),
            Some(size) => {
                let words = |bytes: &[u8]| bytes.chunks_exact(8).map(|bytes| word(bytes, 0)).collect();
                stretches::<u64>(context, &sides, &places, size, 8, words)
            }
        }?;
        Ok(Self::Spans { by_word: spans.min_words.is_some(), repeats })
    }

    /// Bytes to cut out of a document's text, ascending, with the rule's name.
    fn of(&self, document: u32, text: &str) -> Vec<Range<usize>> {
        match self {
            Self::Units(unit, repeats) => {
                let from = repeats.partition_point(|r| r.0 < document);
                let own = repeats[from..].iter().take_while(|r| r.0 == document);
                unit_spans(text, &own.map(|r| r.1).collect::<Vec<_>>(), *unit)
            }
            Self::Spans { by_word, repeats } => {
                let from = repeats.partition_point(|r| r.document < document);
                let to = repeats.partition_point(|r| r.document <= document);
                let merge = if *by_word { merge_word_spans } else { merge_spans };
                merge(text, &mut repeats[from..to].to_vec())
            }
        }
    }

    fn rule(&self) -> &'static str {
        match self {
            Self::Units(Unit::Line, _) => "dedup.line",
            Self::Units(Unit::Paragraph, _) => "dedup.paragraph",
            Self::Spans { .. } => "dedup.span",
        }
    }
}

/// Repeated stretches of symbols that take `width` bytes each in the files of texts.
fn stretches<S: Symbol>(
    context: &Context<'_>,
    sides: &[Side],
    places: &[TextPlace],
    size: usize,
    width: usize,
    read: impl Fn(&[u8]) -> Vec<S>,
) -> Result<Vec<Repeat>> {
    let mut repeats: Vec<Repeat> = Vec::new();
    for number in 0..PARTITIONS {
        context.check_stop()?;
        let mut nominated: Vec<Anchor> = Vec::new();
        sides.iter().try_for_each(|side| side.section(number, &mut nominated))?;
        nominate(&mut nominated);
        let (mut verifier, mut around) = (SpanVerifier::new(size), Vec::new());
        for anchor in nominated {
            let (fragment, start, end) = places[anchor.document as usize];
            let place = surroundings(anchor.position, (end - start) as usize, size);
            around.resize(place.len() * width, 0);
            let texts = sides[fragment as usize].texts.as_ref().expect("phase A wrote texts for this method");
            texts.read((start + place.start as u64) * width as u64, &mut around)?;
            verifier.push(anchor, &read(&around), &mut repeats);
        }
    }
    repeats.sort_unstable();
    Ok(repeats)
}

/// Phase C: the shortened rows of a batch.
fn decide(batch: RecordBatch, ids: &Ids, cuts: &Cuts) -> Result<Decided> {
    shorten(batch, cuts.rule(), |_, id, text| cuts.of(ids.rank(id), text))
}

/// The rows of a batch without the spans that `cuts` gives for (row of the batch, id, text), each an edit of this rule; a row of which
/// nothing is left goes.
pub fn shorten(
    batch: RecordBatch,
    rule: &str,
    mut cuts: impl FnMut(usize, &str, &str) -> Vec<Range<usize>>,
) -> Result<Decided> {
    let (own, texts) = (string_column(&batch, "id")?, string_column(&batch, "text")?);
    let mut verdicts = Verdicts::default();
    let (mut new_text, mut new_hash, mut share) = (StringBuilder::new(), StringBuilder::new(), Float64Builder::new());
    let mut edits = Edits::default();
    let mut keep = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let (id, text) = (own.value(row), if texts.is_null(row) { "" } else { texts.value(row) });
        let spans = cuts(row, id, text);
        let (mut short, mut from) = (String::with_capacity(text.len()), 0);
        for span in &spans {
            short.push_str(&text[from..span.start]);
            edits.push(id, rule, short.len()..short.len(), &text[span.clone()]);
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
            let finding = Finding { rule: rule.into(), value: removed, threshold: Some(1.0), reason };
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
