//! `dedup`: which documents, lines, paragraphs or stretches of text repeat earlier ones, and what stays.
//!
//! Methods `minhash` and `exact` remove documents: A `sign` per input fragment, B and C `near` over all, D the verdicts per input
//! fragment. Methods `lines`, `paragraphs` and `spans` cut repeats out of texts (`units`, with `side` files). Method `bloom` does either,
//! in the order of the input (`bloom`). `ids` numbers documents in survivor order; `index` is what one run leaves for later crawls.

mod bloom;
mod ids;
mod index;
mod near;
mod side;
mod sign;
mod units;

use super::extract::table;
use super::rowlocal::{self, Decided, summary};
use super::{Context, Output};
use crate::dataset::string_column;
use crate::error::Result;
use crate::manifest::kinds::{OptionFault, Options};
use crate::verdict::{Finding, Status, Verdicts};
use bloom::BloomUnit;
use datafusion::arrow::array::{ArrayRef, Float64Builder, RecordBatch, StringBuilder, UInt32Builder, UInt64Builder};
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::prelude::{DataFrame, SessionContext};
use dedup::{BloomConfig, DedupConfig, ExactBy, FINEWEB2_WEIGHTS, Family, Method, rehydration_weight};
use ids::Ids;
use near::Fates;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sign::{SIGNATURES, Signatures};
use std::path::PathBuf;
use std::sync::Arc;

pub use index::files;

/// Options of a `dedup` stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DedupStage {
    /// How documents are compared.
    #[serde(flatten)]
    pub dedup: DedupConfig,
    /// When two documents are exact duplicates, tried in this order: `bytes`, `text` (white space and Unicode form do not count),
    /// `normalised` (case, accents, punctuation and numbers neither), `url`.
    pub exact_by: Vec<ExactBy>,
    /// Whose words, shingles and hash functions: `gristmill`, `fineweb-compat` (datatrove 0.10 and FineWeb 2, bit for bit) or
    /// `fineweb-compat-sha1` (FineWeb).
    pub signatures: Family,
    /// Indexes of earlier crawls, files or folders of a dedup stage with `write_index`, relative to the manifest: what they kept
    /// stays, and documents that repeat it go.
    pub against: Vec<PathBuf>,
    /// Leave an index of the kept documents for later crawls.
    pub write_index: bool,
    /// Add `rehydration_weight`, how often to repeat a kept document by the size of its cluster, as FineWeb 2 does.
    pub rehydrate: bool,
    /// Least bytes of a line or paragraph (default 40) or of a stretch (default 200) to be cut. For `lines`, `paragraphs`, `spans`, and
    /// `bloom` by paragraph or line.
    pub min_bytes: Option<usize>,
    /// Least words of a stretch to be cut, in place of `min_bytes`: 8 or more, e.g. 50. White space between words does not count; in
    /// scripts written without spaces each character is a word. For `spans`.
    pub min_words: Option<usize>,
    /// Compare lines and paragraphs in lower case, without accents and punctuation, numbers as `0`. For `lines`, `paragraphs`, and `bloom`
    /// by paragraph or line.
    pub normalise: bool,
    /// What the filter remembers: `document` (default, by `exact_by`), `paragraph` or `line`. For `bloom`, which keeps the first in the
    /// order of the input.
    pub unit: Option<BloomUnit>,
    /// Different units the filter is made for, 1 or more; default: as many as the input has units, so that the rate holds. More than
    /// that err more often. For `bloom`.
    pub expected_items: Option<u64>,
    /// Share of new units that may be taken for seen ones, above 0, at most 0.5; default 0.000001. The filter takes
    /// 1.44 log2(1 / rate) bits of memory an item: 1.2 bytes at 0.01, 3.6 at 0.000001. For `bloom`.
    pub false_positive_rate: Option<f64>,
}

impl Default for DedupStage {
    fn default() -> Self {
        Self {
            dedup: DedupConfig::default(),
            exact_by: vec![ExactBy::Text],
            signatures: Family::default(),
            against: Vec::new(),
            write_index: false,
            rehydrate: false,
            min_bytes: None,
            min_words: None,
            normalise: false,
            unit: None,
            expected_items: None,
            false_positive_rate: None,
        }
    }
}

impl DedupStage {
    /// Whether documents are removed whole and the kept one is known.
    fn whole(&self) -> bool {
        matches!(self.dedup.method, Method::Exact | Method::Minhash)
    }

    fn unit(&self) -> BloomUnit {
        self.unit.unwrap_or_default()
    }

    /// The filter over an input with so many units.
    fn bloom(&self, units: u64) -> BloomConfig {
        let default = BloomConfig::default();
        BloomConfig {
            expected_items: self.expected_items.unwrap_or(units.max(1)),
            false_positive_rate: self.false_positive_rate.unwrap_or(default.false_positive_rate),
        }
    }

    /// Options that the method does not read: key, and what it is for.
    fn unread(&self) -> Vec<(&'static str, &'static str)> {
        const WHOLE: &str = "is for the methods `minhash` and `exact`, which remove whole documents";
        const COMPARED: &str = "is for the methods `minhash` and `exact`, which compare whole documents";
        const KEYED: &str =
            "is for methods that compare whole documents: `minhash`, `exact`, and `bloom` with  unit = \"document\"";
        const CUT: &str = "is for the methods `lines`, `paragraphs` and `spans`, and for `bloom` by paragraph or line";
        let (default, method, whole) = (Self::default(), self.dedup.method, self.whole());
        let bloom = method == Method::Bloom;
        let by_document = whole || bloom && self.unit() == BloomUnit::Document;
        let rows = [
            ("against", !self.against.is_empty(), whole, WHOLE),
            ("write_index", self.write_index, whole, WHOLE),
            ("rehydrate", self.rehydrate, whole, WHOLE),
            // A run that compares shingles would find none in it, and say nothing.
            (
                "write_index",
                self.write_index,
                method != Method::Exact,
                "is for the method `minhash`: an index holds shingles",
            ),
            ("exact_by", self.exact_by != default.exact_by, by_document, KEYED),
            ("signatures", self.signatures != default.signatures, whole, COMPARED),
            (
                "survivor",
                self.dedup.survivor != default.dedup.survivor,
                !bloom,
                "is not for the method `bloom`, which keeps the first in the order of the input",
            ),
            ("min_bytes", self.min_bytes.is_some(), !by_document, CUT),
            ("min_words", self.min_words.is_some(), method == Method::Spans, "is for the method `spans`"),
            (
                "normalise",
                self.normalise,
                !by_document && method != Method::Spans,
                "is for lines and paragraphs; stretches are compared as they stand, documents by `exact_by`",
            ),
            ("unit", self.unit.is_some(), bloom, "is for the method `bloom`"),
            ("expected_items", self.expected_items.is_some(), bloom, "is for the method `bloom`"),
            ("false_positive_rate", self.false_positive_rate.is_some(), bloom, "is for the method `bloom`"),
        ];
        rows.into_iter().filter(|(_, given, read, _)| *given && !read).map(|(key, _, _, what)| (key, what)).collect()
    }
}

impl Options for DedupStage {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults: Vec<OptionFault> =
            self.dedup.check().err().unwrap_or_default().into_iter().map(fault).collect();
        if self.dedup.method == Method::Minhash
            && let Err(e) = dedup::Signer::new(&self.dedup.signatures(self.signatures))
        {
            faults.push(fault(e));
        }
        faults.extend(units::check(self).into_iter().map(fault));
        if self.dedup.method == Method::Bloom {
            faults.extend(self.bloom(0).check().err().unwrap_or_default().into_iter().map(fault));
        }
        faults.extend(self.unread().into_iter().map(|(key, what)| OptionFault::new(key, what)));
        if self.exact_by.is_empty() && (self.whole() || self.dedup.method == Method::Bloom) {
            faults.push(OptionFault::new("exact_by", "expected at least one of `bytes`, `text`, `normalised`, `url`"));
        }
        if self.min_bytes.is_some() && self.min_words.is_some() && self.dedup.method == Method::Spans {
            faults.push(OptionFault::new("min_words", "stands in place of `min_bytes`: give one of them"));
        }
        faults
    }
}

fn fault(f: dedup::ConfigError) -> OptionFault {
    OptionFault::new(f.field, format!("expected {}, got {}", f.expected, f.got))
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &DedupStage) -> Result<Output> {
    match config.dedup.method {
        Method::Exact | Method::Minhash => {}
        Method::Lines | Method::Paragraphs | Method::Spans => return units::run(context, config),
        Method::Bloom => return bloom::run(context, config),
    }
    let parts = context.input().parts();
    let mapped = index::map(context, config)?;
    let indexes = index::open(config, &mapped)?;
    let signed = context.spread(SIGNATURES, parts.len(), |at| sign::sign(context, config, &indexes, &parts[at], at))?;
    context.check_stop()?;
    let ids = Ids::read(context, config)?;
    let signatures = Signatures::open(&context.out.path, &signed)?;
    let fates = near::resolve(context, config, &ids, &signatures)?;
    let mut fragments = context.fragments("", parts.len(), |at| {
        let mut record = rowlocal::rewrite(context, &parts[at], at, |batch| decide(batch, config, &ids, &fates))?;
        if at == 0 {
            for counts in signed.iter().map(|r| &r.counts).chain([&fates.counts]) {
                counts.iter().for_each(|(name, n)| record.add(name, *n));
            }
        }
        Ok(record)
    })?;
    let note = summary(&fragments);
    if config.write_index {
        let written = context.fragments(INDEX, 1, |_| index::write(context, config, &ids, &fates, &signatures))?;
        fragments.extend(written);
    }
    Ok(Output { fragments, note, ..Output::default() })
}

/// Whether `survivor` can be planned over an input with these columns.
pub async fn check_survivor(
    session: &SessionContext,
    stage: &str,
    input: &SchemaRef,
    config: &DedupStage,
) -> Result<()> {
    session.register_table("input", super::shape::empty(session, input)?.into_view())?;
    ids::survivors(session, stage, input, config).await?.create_physical_plan().await?;
    Ok(())
}

/// What the stage makes of a table without rows.
pub fn dry(input: DataFrame, config: &DedupStage) -> Result<Decided> {
    match config.dedup.method {
        Method::Exact | Method::Minhash => {}
        Method::Lines | Method::Paragraphs | Method::Spans => return units::dry(input),
        Method::Bloom => return bloom::dry(input, config),
    }
    rowlocal::dry(input, Ok, |batch| decide(batch, config, &Ids::default(), &Fates::default()))
}

/// Name of the phase that writes the index.
const INDEX: &str = "index";

/// Phase D: the verdicts and the kept rows of a batch.
fn decide(batch: RecordBatch, config: &DedupStage, ids: &Ids, fates: &Fates) -> Result<Decided> {
    let names = string_column(&batch, "id")?.clone();
    let mut verdicts = Verdicts::default();
    let (mut kept_id, mut cluster_id, mut method) = (StringBuilder::new(), StringBuilder::new(), StringBuilder::new());
    let (mut similarity, mut shared, mut size) = (Float64Builder::new(), UInt32Builder::new(), UInt64Builder::new());
    let mut weight = UInt32Builder::new();
    let mut keep = Vec::with_capacity(batch.num_rows());
    for id in names.iter().flatten() {
        let document = ids.rank(id);
        let gone = fates.evidence.get(&document);
        let known = gone.and_then(|e| e.known_id.as_ref());
        let survivor = known.cloned().unwrap_or_else(|| ids.id(fates.kept[document as usize]));
        let members = match known {
            // The document of the earlier run counts too.
            Some(id) => fates.known_sizes[id] + 1,
            None => u64::from(fates.sizes[fates.kept[document as usize] as usize]),
        };
        match gone {
            None => verdicts.keep(id),
            Some(evidence) => {
                let whole = evidence.method != "minhash";
                let finding = Finding {
                    rule: format!("dedup.{}", evidence.method),
                    value: evidence.jaccard,
                    threshold: Some(if whole { 1.0 } else { config.dedup.min_jaccard }),
                    reason: Some(match known {
                        None => format!("repeats {survivor}"),
                        Some(_) => format!("repeats {survivor} of an earlier run"),
                    }),
                };
                verdicts.push(id, Status::Dropped, &[finding]);
            }
        }
        kept_id.append_option(gone.map(|_| &survivor));
        cluster_id.append_value(&survivor);
        method.append_option(gone.map(|e| e.method));
        similarity.append_option(gone.and_then(|e| e.jaccard));
        shared.append_option(gone.map(|e| e.shared_bands));
        size.append_value(members);
        weight.append_value(rehydration_weight(members, &FINEWEB2_WEIGHTS));
        keep.push(gone.is_none());
    }
    let (cluster_id, size): (ArrayRef, ArrayRef) = (Arc::new(cluster_id.finish()), Arc::new(size.finish()));
    let weight: ArrayRef = Arc::new(weight.finish());
    let more = vec![
        (Field::new("kept_id", DataType::Utf8, true), Arc::new(kept_id.finish()) as ArrayRef),
        (Field::new("cluster_id", DataType::Utf8, false), cluster_id),
        (Field::new("cluster_size", DataType::UInt64, false), size.clone()),
        (Field::new("method", DataType::Utf8, true), Arc::new(method.finish())),
        (Field::new("jaccard", DataType::Float64, true), Arc::new(similarity.finish())),
        (Field::new("shared_bands", DataType::UInt32, true), Arc::new(shared.finish())),
    ];
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if field.name() == "text" {
            columns.push(("cluster_size".into(), size.clone()));
            if config.rehydrate {
                columns.push(("rehydration_weight".into(), weight.clone()));
            }
        }
        if !["cluster_size", "rehydration_weight"].contains(&field.name().as_str()) {
            columns.push((field.name().clone(), column.clone()));
        }
    }
    let counts = std::mem::take(&mut verdicts.counts);
    let verdicts = verdicts.finish(more)?;
    Ok(Decided { rows: table(columns)?, keep: keep.into(), verdicts, edits: None, counts })
}
