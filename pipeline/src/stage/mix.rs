//! `mix`: a training mixture of several tables, by weights, temperature and per-domain caps.
//!
//! Every document has a place in a keyed order of its source, a hash of its id and the seed, so a larger budget only adds
//! documents. A source whose share exceeds what it has is repeated up to `max_epochs`. Sizes are bytes of text.
//!
//! Shares: p_i proportional to weight_i * bytes_i^(1 / temperature) (Conneau & Lample 2019 for languages, with
//! alpha = 1 / temperature): 1 keeps the sources' own proportions, larger values draw them together.

use super::rowlocal::{Files, summary};
use super::{Context, Output};
use crate::dataset::{Dataset, string_column};
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use crate::source::rows::derived_id;
use crate::store::FragmentRecord;
use crate::verdict::{Finding, Status, Verdicts};
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, StringArray, StringBuilder, UInt32Array, UInt32Builder};
use datafusion::arrow::compute::{cast, take};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Options of a `mix` stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MixConfig {
    /// Weight of each source, 0 or more; 1 where none is given. A source is an input, or a value of the column `by`.
    pub weights: BTreeMap<String, f64>,
    /// Column whose values are the sources, such as `"language"`; none: every input is one source.
    pub by: Option<String>,
    /// Draws sources of different size together, 1 or more: 1 keeps their proportions, large values make them equal.
    pub temperature: f64,
    /// Bytes of text in the mixture; none: as many as fit without repeating any source beyond `max_epochs`.
    pub budget_bytes: Option<u64>,
    /// Most times a document may be in the mixture, 1 or more; a part of an epoch takes a part of the documents.
    pub max_epochs: f64,
    /// Most bytes of text of one registrable domain, over all sources and before weights; none: no cap.
    pub domain_cap_bytes: Option<u64>,
}

impl Default for MixConfig {
    fn default() -> Self {
        Self {
            weights: BTreeMap::new(),
            by: None,
            temperature: 1.0,
            budget_bytes: None,
            max_epochs: 1.0,
            domain_cap_bytes: None,
        }
    }
}

impl Options for MixConfig {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = Vec::new();
        for (name, weight) in self.weights.iter().filter(|(_, w)| !(w.is_finite() && **w >= 0.0)) {
            faults.push(OptionFault::new("weights", format!("expected 0 or more for `{name}`, got {weight}")));
        }
        for (key, value) in [("temperature", self.temperature), ("max_epochs", self.max_epochs)] {
            if !(value.is_finite() && value >= 1.0) {
                faults.push(OptionFault::new(key, format!("expected 1 or more, got {value}")));
            }
        }
        for (key, value) in [("budget_bytes", self.budget_bytes), ("domain_cap_bytes", self.domain_cap_bytes)] {
            if value == Some(0) {
                faults.push(OptionFault::new(key, "expected at least 1, got 0"));
            }
        }
        faults
    }
}

/// What the choice needs to know of a document.
struct Document {
    order: u64,
    id: u128,
    source: u32,
    domain: u32,
    bytes: u32,
}

/// What becomes of a document.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Copies(u32),
    OverCap,
    NotSampled,
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &MixConfig) -> Result<Output> {
    let parts: Vec<(usize, PathBuf)> =
        context.inputs.iter().enumerate().flat_map(|(i, d)| d.parts().into_iter().map(move |p| (i, p))).collect();
    let (mut documents, sources) = scan(context, config, &parts)?;
    check_weights(context.name(), &sources, config)?;
    documents.sort_unstable_by_key(|d| (d.order, d.id));
    let fates = choose(&documents, &sources, config);
    let of: HashMap<u128, Fate> = documents.iter().zip(&fates).map(|(d, f)| (d.id, *f)).collect();
    if of.len() != documents.len() {
        return Err(Error::InputData(format!(
            "the inputs of stage `{}` hold an id twice\nhint: a document can be in one input only",
            context.name()
        )));
    }
    drop(documents);
    let schemas: Vec<SchemaRef> = context.inputs.iter().map(Dataset::schema).collect::<Result<_>>()?;
    let schema = common_columns(&schemas);
    let fragments = context.fragments("", parts.len(), |i| {
        let (input, part) = &parts[i];
        fragment(context, &context.inputs[*input], part, i, config, &of, &schema)
    })?;
    let sum = |name: &str| fragments.iter().filter_map(|f| f.counts.get(name)).sum::<u64>();
    let shares: Vec<String> = sources
        .iter()
        .map(|s| (s, sum(&format!("bytes:{s}"))))
        .map(|(s, bytes)| format!("{s} {:.1} %", 100.0 * bytes as f64 / sum("bytes").max(1) as f64))
        .collect();
    let shown = if shares.len() <= 6 { format!(": {}", shares.join(", ")) } else { String::new() };
    let note = format!("{}, {} rows{shown}", summary(&fragments), sum("rows"));
    Ok(Output { fragments, note, ..Output::default() })
}

fn check_weights(stage: &str, sources: &[String], config: &MixConfig) -> Result<()> {
    match config.weights.keys().find(|n| !sources.contains(n)) {
        None => Ok(()),
        Some(name) => Err(Error::Manifest(format!(
            "error: `weights` of stage `{stage}` names `{name}`, which is no source   (known: {})",
            sources.join(", ")
        ))),
    }
}

/// Whether the sources can be known from inputs with these columns; the values of a column are not known in advance.
pub fn check_sources(
    stage: &str,
    inputs: &[String],
    schemas: &[SchemaRef],
    config: &MixConfig,
) -> std::result::Result<(), (&'static str, Error)> {
    let Some(by) = &config.by else { return check_weights(stage, inputs, config).map_err(|e| ("weights", e)) };
    match inputs.iter().zip(schemas).find(|(_, s)| s.column_with_name(by).is_none()) {
        None => Ok(()),
        Some((input, schema)) => {
            let known: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            let message = format!("`{input}` has no column `{by}`   (known: {})", known.join(", "));
            Err(("by", Error::Manifest(message)))
        }
    }
}

/// Source of a row: its input, or its value of the column `by`.
fn source_column(batch: &RecordBatch, input: &Dataset, by: Option<&str>) -> Result<StringArray> {
    match by {
        None => Ok(vec![input.name.as_str(); batch.num_rows()].into()),
        Some(column) => {
            let values = cast(crate::dataset::column(batch, column)?, &DataType::Utf8)?;
            let values = values.as_any().downcast_ref::<StringArray>().expect("it was cast to strings");
            Ok(values.iter().map(|v| Some(v.unwrap_or("none"))).collect())
        }
    }
}

fn scan(context: &Context<'_>, config: &MixConfig, parts: &[(usize, PathBuf)]) -> Result<(Vec<Document>, Vec<String>)> {
    let mut documents = Vec::new();
    let mut sources: BTreeMap<String, u32> = BTreeMap::new();
    if config.by.is_none() {
        for input in &context.inputs {
            let next = sources.len() as u32;
            sources.entry(input.name.clone()).or_insert(next);
        }
    }
    let mut domains: HashMap<String, u32> = HashMap::new();
    for (input, part) in parts {
        let input = &context.inputs[*input];
        let has_url = input.schema()?.column_with_name("url").is_some();
        let mut columns = vec!["id", "text"];
        columns.extend(config.by.as_deref());
        columns.extend(has_url.then_some("url"));
        for batch in input.read(part, &columns)? {
            let (ids, texts) = (string_column(&batch, "id")?, string_column(&batch, "text")?);
            let urls = if has_url { Some(string_column(&batch, "url")?) } else { None };
            let names = source_column(&batch, input, config.by.as_deref())?;
            for i in 0..batch.num_rows() {
                let next = sources.len() as u32;
                let source = *sources.entry(names.value(i).to_string()).or_insert(next);
                let url = urls.filter(|u| !u.is_null(i)).map_or("", |u| u.value(i));
                let next = domains.len() as u32;
                let domain = match config.domain_cap_bytes.and_then(|_| filters::url::domain(url)) {
                    Some(domain) => *domains.entry(domain.into()).or_insert(next + 1),
                    None => 0,
                };
                documents.push(Document {
                    order: xxh3_64_with_seed(ids.value(i).as_bytes(), context.stage.seed),
                    id: number(ids.value(i)),
                    source,
                    domain,
                    bytes: if texts.is_null(i) { 0 } else { texts.value(i).len() as u32 },
                });
            }
        }
    }
    let mut names = vec![String::new(); sources.len()];
    sources.into_iter().for_each(|(name, i)| names[i as usize] = name);
    Ok((documents, names))
}

/// An id as a number; ids that are no 32 hex digits by their hash.
fn number(id: &str) -> u128 {
    let hex = if id.len() == 32 { u128::from_str_radix(id, 16).ok() } else { None };
    hex.unwrap_or_else(|| xxhash_rust::xxh3::xxh3_128(id.as_bytes()))
}

/// Copies of every document, which are in keyed order.
fn choose(documents: &[Document], sources: &[String], config: &MixConfig) -> Vec<Fate> {
    let mut fates = vec![Fate::Copies(0); documents.len()];
    let mut of_domain: HashMap<u32, u64> = HashMap::new();
    let mut sizes = vec![0u64; sources.len()];
    for (document, fate) in documents.iter().zip(&mut fates) {
        if let (Some(cap), true) = (config.domain_cap_bytes, document.domain > 0) {
            let held = of_domain.entry(document.domain).or_default();
            if *held + u64::from(document.bytes) > cap {
                *fate = Fate::OverCap;
                continue;
            }
            *held += u64::from(document.bytes);
        }
        sizes[document.source as usize] += u64::from(document.bytes);
    }
    let wanted = budgets(&sizes, sources, config);
    let mut taken = vec![0u64; sources.len()];
    for (document, fate) in documents.iter().zip(&mut fates).filter(|(_, f)| **f != Fate::OverCap) {
        let (size, wanted) = (sizes[document.source as usize].max(1), wanted[document.source as usize]);
        // Whole epochs for everyone, and one more for the first documents until the rest of the budget is spent.
        let (epochs, rest) = (wanted / size, wanted % size);
        let taken = &mut taken[document.source as usize];
        let extra = u64::from(*taken + u64::from(document.bytes) <= rest);
        *taken += u64::from(document.bytes);
        let copies = (epochs + extra) as u32;
        *fate = if copies == 0 { Fate::NotSampled } else { Fate::Copies(copies) };
    }
    fates
}

/// Bytes wanted of every source.
fn budgets(sizes: &[u64], sources: &[String], config: &MixConfig) -> Vec<u64> {
    let weights: Vec<f64> = sizes
        .iter()
        .zip(sources)
        .map(|(&n, name)| {
            let weight = config.weights.get(name).copied().unwrap_or(1.0);
            if n == 0 { 0.0 } else { weight * (n as f64).powf(1.0 / config.temperature) }
        })
        .collect();
    let total: f64 = weights.iter().sum();
    if total == 0.0 {
        return vec![0; sizes.len()];
    }
    let most = |n: u64| (n as f64 * config.max_epochs) as u64;
    match config.budget_bytes {
        // Without a budget: as many bytes as the source that runs out first allows.
        None => {
            let scale = sizes.iter().zip(&weights).filter(|(_, w)| **w > 0.0).map(|(&n, w)| most(n) as f64 / w);
            let scale = scale.fold(f64::INFINITY, f64::min);
            sizes.iter().zip(&weights).map(|(&n, w)| ((w * scale).round() as u64).min(most(n))).collect()
        }
        Some(budget) => share(budget, sizes, &weights, most),
    }
}

/// Splits a budget by weights; what a source cannot give goes to the others by their weights.
fn share(budget: u64, sizes: &[u64], weights: &[f64], most: impl Fn(u64) -> u64) -> Vec<u64> {
    let mut wanted = vec![0u64; sizes.len()];
    let mut open: Vec<usize> = (0..sizes.len()).filter(|i| weights[*i] > 0.0).collect();
    let mut left = budget;
    while !open.is_empty() {
        let total: f64 = open.iter().map(|i| weights[*i]).sum();
        let part = |i: usize| (left as f64 * weights[i] / total).round() as u64;
        let (full, rest): (Vec<usize>, Vec<usize>) = open.iter().partition(|i| part(**i) >= most(sizes[**i]));
        if full.is_empty() {
            rest.iter().for_each(|&i| wanted[i] = part(i));
            break;
        }
        for &i in &full {
            wanted[i] = most(sizes[i]);
            left = left.saturating_sub(wanted[i]);
        }
        open = rest;
    }
    wanted
}

/// Columns that all inputs have with one type, `id` first and `parent_id` second, `epoch` behind them.
pub fn common_columns(schemas: &[SchemaRef]) -> SchemaRef {
    let everywhere = |f: &Field| {
        schemas.iter().all(|s| s.field_with_name(f.name()).is_ok_and(|other| other.data_type() == f.data_type()))
    };
    let own = ["id", "parent_id", "epoch", "mix_source"];
    let mut fields = vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("parent_id", DataType::Utf8, true),
        Field::new("mix_source", DataType::Utf8, false),
        Field::new("epoch", DataType::UInt32, false),
    ];
    let shared = schemas[0].fields().iter().filter(|f| !own.contains(&f.name().as_str()) && everywhere(f));
    fields.extend(shared.map(|f| f.as_ref().clone().with_nullable(true)));
    Arc::new(Schema::new(fields))
}

fn fragment(
    context: &Context<'_>,
    input: &Dataset,
    part: &Path,
    index: usize,
    config: &MixConfig,
    fates: &HashMap<u128, Fate>,
    schema: &SchemaRef,
) -> Result<FragmentRecord> {
    let mut verdicts = Verdicts::default();
    let mut record = FragmentRecord::default();
    let empty = verdicts.finish(Vec::new())?;
    let mut files = Files::create(context, index, schema.clone(), empty.schema(), None)?;
    let mut columns: Vec<&str> = schema.fields().iter().skip(4).map(|f| f.name().as_str()).collect();
    columns.push("id");
    columns.extend(config.by.as_deref().filter(|by| schema.column_with_name(by).is_none()));
    for batch in input.read(part, &columns)? {
        let (ids, texts) = (string_column(&batch, "id")?, string_column(&batch, "text")?);
        let names = source_column(&batch, input, config.by.as_deref())?;
        let (mut rows, mut epochs) = (UInt32Builder::new(), UInt32Builder::new());
        let [mut id, mut parent, mut source]: [StringBuilder; 3] = Default::default();
        for i in 0..batch.num_rows() {
            let own = ids.value(i);
            let dropped = |rule: &str, reason: &str| Finding {
                rule: rule.into(),
                reason: Some(reason.into()),
                ..Finding::default()
            };
            let fate = fates.get(&number(own)).expect("every row was scanned because both passes read the same parts");
            match *fate {
                Fate::OverCap => {
                    let finding = dropped("mix.domain_cap_bytes", "its domain has reached its cap");
                    verdicts.push(own, Status::Dropped, &[finding]);
                }
                Fate::NotSampled => {
                    let finding = dropped("mix.not_sampled", "it is beyond its source's share");
                    verdicts.push(own, Status::Dropped, &[finding]);
                }
                Fate::Copies(copies) => {
                    verdicts.keep(own);
                    for epoch in 0..copies {
                        rows.append_value(i as u32);
                        epochs.append_value(epoch);
                        match epoch {
                            0 => id.append_value(own),
                            _ => id.append_value(derived_id(own, context.name(), u64::from(epoch))),
                        }
                        parent.append_option((epoch > 0).then_some(own));
                        source.append_value(names.value(i));
                        let bytes = if texts.is_null(i) { 0 } else { texts.value(i).len() as u64 };
                        record.add("rows", 1);
                        record.add("bytes", bytes);
                        record.add(&format!("bytes:{}", names.value(i)), bytes);
                    }
                }
            }
        }
        let rows: UInt32Array = rows.finish();
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(id.finish()),
            Arc::new(parent.finish()),
            Arc::new(source.finish()),
            Arc::new(epochs.finish()),
        ];
        for field in schema.fields().iter().skip(4) {
            arrays.push(take(crate::dataset::column(&batch, field.name())?, &rows, None)?);
        }
        files.kept.write(&RecordBatch::try_new(schema.clone(), arrays)?)?;
        files.verdicts.write(&verdicts.finish(Vec::new())?)?;
    }
    for (name, n) in &verdicts.counts.counts {
        record.add(name, *n);
    }
    record.files = vec![files.kept.finish()?, files.verdicts.finish()?];
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(weights: &[(&str, f64)]) -> MixConfig {
        MixConfig { weights: weights.iter().map(|(n, w)| (n.to_string(), *w)).collect(), ..MixConfig::default() }
    }

    fn names(n: usize) -> Vec<String> {
        ["a", "b", "c"][..n].iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn without_weights_or_budget_everything_is_in_once() {
        assert_eq!(budgets(&[100, 900], &names(2), &config(&[])), [100, 900]);
    }

    #[test]
    fn weights_scale_shares_and_the_first_source_to_run_out_sets_the_size() {
        assert_eq!(budgets(&[100, 900], &names(2), &config(&[("a", 3.0)])), [100, 300]);
        let twice = MixConfig { max_epochs: 3.0, ..config(&[("a", 3.0)]) };
        assert_eq!(budgets(&[100, 900], &names(2), &twice), [300, 900]);
    }

    #[test]
    fn temperature_draws_sources_together() {
        let warm = MixConfig { temperature: 2.0, budget_bytes: Some(400), ..config(&[]) };
        assert_eq!(budgets(&[10_000, 90_000], &names(2), &warm), [100, 300]);
    }

    #[test]
    fn what_a_source_cannot_give_goes_to_the_others() {
        let mixed = MixConfig { budget_bytes: Some(1000), ..config(&[("c", 2.0)]) };
        assert_eq!(budgets(&[100, 2000, 300], &names(3), &mixed), [37, 741, 222]);
        assert_eq!(budgets(&[10, 2000, 20], &names(3), &MixConfig { temperature: 50.0, ..mixed }), [10, 970, 20]);
    }

    #[test]
    fn a_larger_budget_only_adds_documents() {
        let documents: Vec<Document> = (0..1000)
            .map(|i| Document {
                order: i,
                id: i.into(),
                source: (i % 2) as u32,
                domain: (i % 7) as u32,
                bytes: 10 + (i % 13) as u32,
            })
            .collect();
        let copies = |budget: u64| -> Vec<u32> {
            let config =
                MixConfig { budget_bytes: Some(budget), max_epochs: 4.0, domain_cap_bytes: Some(1500), ..config(&[]) };
            let fates = choose(&documents, &names(2), &config);
            fates.iter().map(|f| if let Fate::Copies(n) = f { *n } else { 0 }).collect()
        };
        let mut before = vec![0; documents.len()];
        for budget in [100, 1000, 5000, 9000, 14_000, 30_000] {
            let now = copies(budget);
            assert!(before.iter().zip(&now).all(|(a, b)| a <= b), "budget {budget}");
            let bytes: u64 = documents.iter().zip(&now).map(|(d, n)| u64::from(d.bytes * n)).sum();
            assert!(bytes <= budget && bytes + 60 > budget, "{bytes} of {budget}");
            before = now;
        }
    }
}
