//! Method `bloom`: documents, paragraphs or lines that a Bloom filter has seen before go; the first in the order of the input stays.
//!
//! A: per input fragment, several at a time, the keys of its units into a side file. B: one filter over the fragments in their order,
//! which names the repeats of each in a side file of its own; a run that goes on takes the keys of decided fragments in once more, so
//! the filter itself is never written. C: per input fragment, the rows that are left. Memory: the filter alone, `expected_items` times
//! 1.44 log2(1 / `false_positive_rate`) bits. What is seen before is never missed; a new unit is taken for a seen one at most as often
//! as `false_positive_rate` says, as long as no more than `expected_items` are in.

use super::DedupStage;
use super::side::{Entry, half};
use super::sign::Flat;
use super::units::{shorten, units};
use crate::dataset::string_column;
use crate::error::{Error, Result};
use crate::progress::{Event, size};
use crate::stage::rowlocal::{self, Decided, summary};
use crate::stage::{Context, Output};
use crate::store::durable::{DurableFile, write_file};
use crate::store::{FragmentRecord, OutputDir};
use crate::verdict::{Finding, Status, Verdicts};
use datafusion::arrow::array::{Array, ArrayRef, Float64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::prelude::DataFrame;
use dedup::{Bloom, BloomConfig, Unit, UnitEntry, key_by, unit_entries, unit_spans};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// What the filter remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BloomUnit {
    /// Whole documents, by their keys of `exact_by`.
    #[default]
    Document,
    /// Paragraphs.
    Paragraph,
    /// Lines.
    Line,
}

/// Rule of its verdicts and edits.
const RULE: &str = "dedup.bloom";
/// Names of the phases and of their side files.
const KEYS: &str = "keys";
const SEEN: &str = "seen";
/// Entries read at a time.
const READ_ENTRIES: usize = 1 << 15;

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &DedupStage) -> Result<Output> {
    let parts = context.input().parts();
    let keyed = context.spread(KEYS, parts.len(), |at| keys(context, config, &parts[at], at))?;
    let total: u64 = keyed.iter().map(|record| record.counts["keys"]).sum();
    let bloom = config.bloom(total);
    let seen = see(context, config, &bloom, &keyed)?;
    let fragments = context.fragments("", parts.len(), |at| {
        let repeats = repeats_of(context, &seen[at])?;
        let mut before = 0;
        let mut record = rowlocal::rewrite(context, &parts[at], at, |batch| {
            let rows = batch.num_rows();
            let decided = decide(batch, config, &bloom, before, &repeats);
            before += rows as u32;
            decided
        })?;
        record.add("bloom:keys", keyed[at].counts["keys"]);
        record.add("bloom:items", seen[at].counts["items"]);
        Ok(record)
    })?;
    let items: u64 = seen.iter().map(|record| record.counts["items"]).sum();
    let rate = bloom.rate_after(items);
    if items > bloom.expected_items {
        context.progress.event(Event::Warning(&format!(
            "the filter of `{}` holds {items} items and was made for {}: a new one is now taken for a seen one at a rate of {rate:.2e}, not {:.2e} (raise expected_items)",
            context.name(),
            bloom.expected_items,
            bloom.false_positive_rate
        )));
    }
    let note =
        format!("{}, {items} items in a filter of {}, rate {rate:.1e}", summary(&fragments), size(bloom.bytes()));
    let metrics = json!({ "filter_bytes": bloom.bytes(), "items": items, "false_positive_rate": rate });
    Ok(Output { fragments, note, metrics })
}

/// What the stage makes of a table without rows.
pub fn dry(input: DataFrame, config: &DedupStage) -> Result<Decided> {
    rowlocal::dry(input, Ok, |batch| decide(batch, config, &config.bloom(0), 0, &[]))
}

/// Phase A: the keys of one fragment in order of row and unit; `document` of an entry is its row.
fn keys(context: &Context<'_>, config: &DedupStage, part: &Path, index: usize) -> Result<FragmentRecord> {
    let name = OutputDir::side_name(KEYS, &format!("{index:05}.bin"));
    let mut file = DurableFile::create(&context.out.path, &name)?;
    let by_url = config.unit() == BloomUnit::Document && context.input().schema()?.column_with_name("url").is_some();
    let columns: &[&str] = if by_url { &["text", "url"] } else { &["text"] };
    let (units, mut record, mut row) = (units(config), FragmentRecord::default(), 0_u32);
    record.add("keys", 0);
    context.input().each(part, columns, |batch| {
        let text = string_column(&batch, "text")?;
        let url = if by_url { Some(string_column(&batch, "url")?) } else { None };
        let mut bytes = Vec::new();
        for i in 0..batch.num_rows() {
            let text = if text.is_null(i) { "" } else { text.value(i) };
            let url = url.filter(|url| !url.is_null(i)).map(|url| url.value(i));
            let entries = match config.unit() {
                BloomUnit::Document => document_entries(config, text, url, row),
                BloomUnit::Paragraph | BloomUnit::Line => unit_entries(text, row, &units),
            };
            record.add("keys", entries.len() as u64);
            entries.iter().for_each(|entry| entry.write(&mut bytes));
            row += 1;
        }
        file.write_all(&bytes).map_err(Error::io("write", &context.out.path))
    })?;
    record.files.push(file.finish()?);
    Ok(record)
}

/// One entry for each kind of key that a document has, kept apart by kind.
fn document_entries(config: &DedupStage, text: &str, url: Option<&str>, row: u32) -> Vec<UnitEntry> {
    const APART: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    let entry = |(ordinal, by)| {
        let key = key_by(by, text, url)?.wrapping_add(APART.wrapping_mul(by as u128));
        Some(UnitEntry { key: [(key >> 64) as u64, key as u64], document: row, ordinal })
    };
    (0..).zip(config.exact_by.iter().copied()).filter_map(entry).collect()
}

/// Phase B: the repeats of every fragment, in side files of (row, unit) pairs.
fn see(
    context: &Context<'_>,
    config: &DedupStage,
    bloom: &BloomConfig,
    keyed: &[FragmentRecord],
) -> Result<Vec<FragmentRecord>> {
    let done: Vec<Option<FragmentRecord>> = (0..keyed.len()).map(|at| context.out.fragment(SEEN, at)).collect();
    if done.iter().all(Option::is_some) {
        return Ok(done.into_iter().flatten().collect());
    }
    let most = context.settings.memory_limit_bytes.unwrap_or(u64::MAX);
    let no_room = |why: String| {
        Error::Resources(format!(
            "the Bloom filter of stage `{}` takes {} for {} items at a rate of {:e}: {why}\nhint: raise false_positive_rate (each factor of ten saves 4.8 bits an item), give more memory, or use a method that works in partitions: `exact`, `paragraphs`, `lines`",
            context.name(),
            size(bloom.bytes()),
            bloom.expected_items,
            bloom.false_positive_rate
        ))
    };
    if bloom.bytes() > most {
        return Err(no_room(format!("more than --memory-limit {}", size(most))));
    }
    let mut filter = Bloom::new(bloom).map_err(|e| no_room(e.to_string()))?;
    let units = keyed.len() as u64;
    let mut records = Vec::with_capacity(keyed.len());
    for (index, (keys, done)) in keyed.iter().zip(done).enumerate() {
        context.check_stop()?;
        let before = filter.items();
        let whole = config.unit() == BloomUnit::Document;
        let repeats = pass(&mut filter, &Flat::open(context.out.path.join(&keys.files[0].path))?, keys, whole)?;
        let record = match done {
            Some(record) => record,
            None => {
                let name = OutputDir::side_name(SEEN, &format!("{index:05}.bin"));
                let mut record = FragmentRecord { index, ..FragmentRecord::default() };
                record.add("items", filter.items() - before);
                record.files.push(write_file(&context.out.path, &name, &repeats)?);
                context.out.commit_fragment(SEEN, &record)?;
                record
            }
        };
        records.push(record);
        context.progress.event(Event::Advanced { stage: context.name(), done: index as u64 + 1, units, note: SEEN });
    }
    Ok(records)
}

/// Shows the keys of a fragment to the filter; the repeats among them as they stand in a side file. A document is taken in if none of
/// its keys was there.
fn pass(filter: &mut Bloom, keys: &Flat, record: &FragmentRecord, whole: bool) -> Result<Vec<u8>> {
    let total = record.counts["keys"] as usize;
    let (mut repeats, mut held): (Vec<u8>, Vec<UnitEntry>) = (Vec::new(), Vec::new());
    let key = |entry: &UnitEntry| u128::from(entry.key[0]) << 64 | u128::from(entry.key[1]);
    let mut decide = |unit: &[UnitEntry]| {
        let is_repeat = match unit {
            [entry] => filter.insert(key(entry)),
            several => {
                let seen = several.iter().any(|entry| filter.contains(key(entry)));
                if !seen {
                    several.iter().for_each(|entry| _ = filter.insert(key(entry)));
                }
                seen
            }
        };
        if is_repeat {
            [unit[0].document, unit[0].ordinal].iter().for_each(|n| repeats.extend(n.to_le_bytes()));
        }
    };
    for from in (0..total).step_by(READ_ENTRIES) {
        let mut bytes = vec![0; READ_ENTRIES.min(total - from) * UnitEntry::BYTES];
        keys.read((from * UnitEntry::BYTES) as u64, &mut bytes)?;
        for entry in bytes.chunks_exact(UnitEntry::BYTES).map(UnitEntry::read) {
            if held.last().is_some_and(|last| !whole || last.document != entry.document) {
                decide(&held);
                held.clear();
            }
            held.push(entry);
        }
    }
    if !held.is_empty() {
        decide(&held);
    }
    Ok(repeats)
}

/// What phase B found in a fragment: (row, unit), ascending.
fn repeats_of(context: &Context<'_>, record: &FragmentRecord) -> Result<Vec<(u32, u32)>> {
    let path = context.out.path.join(&record.files[0].path);
    let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
    Ok(bytes.chunks_exact(8).map(|pair| (half(pair, 0), half(pair, 4))).collect())
}

/// Phase C: the rows of a batch, which are `before` and the following ones of their fragment.
fn decide(
    batch: RecordBatch,
    config: &DedupStage,
    bloom: &BloomConfig,
    before: u32,
    repeats: &[(u32, u32)],
) -> Result<Decided> {
    let own = |row: u32| {
        let from = repeats.partition_point(|repeat| repeat.0 < row);
        let to = repeats.partition_point(|repeat| repeat.0 <= row);
        &repeats[from..to]
    };
    let touched: Vec<bool> = (0..batch.num_rows() as u32).map(|row| !own(before + row).is_empty()).collect();
    let mut decided = match config.unit() {
        BloomUnit::Document => whole(batch, &touched, bloom)?,
        BloomUnit::Paragraph | BloomUnit::Line => {
            let unit: Unit = units(config).unit;
            shorten(batch, RULE, |row, _, text| {
                let ordinals: Vec<u32> = own(before + row as u32).iter().map(|repeat| repeat.1).collect();
                unit_spans(text, &ordinals, unit)
            })?
        }
    };
    let method: StringArray = touched.iter().map(|touched| touched.then_some("bloom")).collect();
    let rate = Float64Array::from(vec![bloom.false_positive_rate; touched.len()]);
    let more: [(Field, ArrayRef); 2] = [
        (Field::new("method", DataType::Utf8, true), Arc::new(method)),
        (Field::new("false_positive_rate", DataType::Float64, false), Arc::new(rate)),
    ];
    let schema = decided.verdicts.schema();
    let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    let mut columns = decided.verdicts.columns().to_vec();
    for (field, column) in more {
        fields.push(field);
        columns.push(column);
    }
    decided.verdicts = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    Ok(decided)
}

/// Documents that seem to have been seen go.
fn whole(batch: RecordBatch, seen: &[bool], bloom: &BloomConfig) -> Result<Decided> {
    let mut verdicts = Verdicts::default();
    for (id, seen) in string_column(&batch, "id")?.iter().flatten().zip(seen) {
        if *seen {
            let rate = bloom.false_positive_rate;
            let reason = Some(format!("seems to repeat an earlier document; so do {rate:e} of new ones at most"));
            verdicts.push(id, Status::Dropped, &[Finding { rule: RULE.into(), reason, ..Finding::default() }]);
        } else {
            verdicts.keep(id);
        }
    }
    let keep: Vec<bool> = seen.iter().map(|seen| !seen).collect();
    let counts = std::mem::take(&mut verdicts.counts);
    Ok(Decided { rows: batch, keep: keep.into(), verdicts: verdicts.finish(Vec::new())?, edits: None, counts })
}
