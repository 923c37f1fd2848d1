//! `language`: adds `language` and `language_score`, then keeps the wanted languages.

use super::rowlocal::{self, Decided};
use super::{Context, Output};
use crate::dataset::string_column;
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use crate::source::files::Asset;
use crate::stage::extract::table;
use crate::udf;
use crate::verdict::{Finding, Status, Verdicts};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{Field, Float64Type};
use datafusion::prelude::{DataFrame, col};
use filters::language::{Keep, LanguageModel};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Options of a `language` stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LanguageConfig {
    /// A fastText model (`.bin` or `.ftz`), relative to the manifest; none: the built-in model.
    pub model: Option<PathBuf>,
    /// Languages to keep, as ISO 639-1 codes (639-3 where there is none): `["en", "de"]`, or with a score for each,
    /// `{ en = 0.65, de = 0.5 }`; empty: all.
    pub keep: Keep,
    /// Least probability of the language, 0..1, higher is stricter, where `keep` gives none. FineWeb (2024) uses 0.65.
    pub min_score: f64,
    /// Judge every line of at least this many characters on its own as well, and give the share of their characters that are in
    /// another language than the document as `language_mixed`; 60 to 100 is a good start.
    pub paragraph_chars: Option<usize>,
    /// Greatest `language_mixed` to keep, 0..1; needs `paragraph_chars`.
    pub max_mixed: Option<f64>,
}

impl Default for LanguageConfig {
    fn default() -> Self {
        Self { model: None, keep: Keep::default(), min_score: 0.65, paragraph_chars: None, max_mixed: None }
    }
}

impl Options for LanguageConfig {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = Vec::new();
        for (key, value) in [("min_score", Some(self.min_score)), ("max_mixed", self.max_mixed)] {
            if let Some(value) = value.filter(|v| !(0.0..=1.0).contains(v)) {
                faults.push(OptionFault::new(key, format!("expected 0 to 1, got {value}")));
            }
        }
        if self.max_mixed.is_some() && self.paragraph_chars.is_none() {
            faults.push(OptionFault::new("max_mixed", "needs `paragraph_chars`, by which it is measured"));
        }
        faults.extend(self.keep.faults().into_iter().map(|message| OptionFault::new("keep", message)));
        faults
    }
}

const FOUND: &str = "language_found";

/// The model file, if one is named.
pub fn files(config: &LanguageConfig, folder: &Path) -> Vec<(String, Asset)> {
    config.model.iter().map(|m| (format!("model {}", m.display()), Asset::Local(folder.join(m)))).collect()
}

/// The built-in model's digest, if it is used.
pub fn builtin_digest(config: &LanguageConfig) -> Option<(String, String)> {
    config
        .model
        .is_none()
        .then(|| ("model built in".to_string(), blake3::hash(filters::language::BUILTIN).to_hex().to_string()))
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &LanguageConfig) -> Result<Output> {
    let (model, key) = match (&config.model, context.reference("classifier")) {
        (Some(_), Some(_)) => {
            return Err(Error::Manifest(format!(
                "error: stage `{}` names both `model` and `classifier`",
                context.name()
            )));
        }
        (Some(path), None) => load(&context.folder.join(path))?,
        (None, Some(stage)) => load(&stage.path.join(super::classifier::MODEL))?,
        (None, None) => (filters::language::builtin(), "builtin".to_string()),
    };
    check_keep(config, model, context.name())?;
    let fragments = rowlocal::run(context, plan(config, model, key), |batch| decide(batch, config))?;
    let note = rowlocal::summary(&fragments);
    Ok(Output { fragments, note, ..Output::default() })
}

/// What the stage makes of a table without rows; the languages are looked for in the built-in model if that is its own.
pub fn dry(input: DataFrame, config: &LanguageConfig, stage: &str, builtin: bool) -> Result<Decided> {
    let model = filters::language::builtin();
    if builtin {
        check_keep(config, model, stage)?;
    }
    rowlocal::dry(input, plan(config, model, "builtin".into()), |batch| decide(batch, config))
}

fn plan(
    config: &LanguageConfig,
    model: &'static LanguageModel,
    key: String,
) -> impl Fn(DataFrame) -> Result<DataFrame> + Sync {
    let detect = udf::language(model, key, config.paragraph_chars);
    move |frame| Ok(frame.with_column(FOUND, detect.call(vec![col("text")]))?)
}

fn check_keep(config: &LanguageConfig, model: &LanguageModel, stage: &str) -> Result<()> {
    let unknown = config.keep.unknown_to(model);
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Error::Manifest(format!(
        "error: `keep` of stage `{stage}`: the model does not know {}   (known: {})",
        unknown.join(", "),
        model.codes().join(" ")
    )))
}

/// Loads a model for the rest of the process: plans need it for as long as they live.
fn load(path: &Path) -> Result<(&'static LanguageModel, String)> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let key = blake3::hash(&bytes).to_hex().to_string();
    let model = LanguageModel::from_bytes(bytes)
        .map_err(|e| Error::Manifest(format!("error: {} is no fastText model: {e}", path.display())))?;
    Ok((Box::leak(Box::new(model)), key))
}

fn decide(batch: RecordBatch, config: &LanguageConfig) -> Result<Decided> {
    let found = batch.column_by_name(FOUND).expect("the plan added it").as_struct().clone();
    let [codes, scores, mixes] = [0, 1, 2].map(|i| found.column(i).clone());
    let (code, score) = (codes.as_string::<i32>(), scores.as_primitive::<Float64Type>());
    let mix = mixes.as_primitive::<Float64Type>();
    let ids = string_column(&batch, "id")?;
    let mut verdicts = Verdicts::default();
    let mut keep = Vec::with_capacity(batch.num_rows());
    for i in 0..batch.num_rows() {
        let name = if code.is_null(i) { "none" } else { code.value(i) };
        let value = (!score.is_null(i)).then(|| score.value(i));
        let mut findings = Vec::new();
        let wanted = config.keep.threshold(name, config.min_score);
        if wanted.is_none() {
            let reason = format!("{name} is not in keep = [{}]", config.keep.codes().join(", "));
            findings.push(Finding { rule: "language.keep".into(), value, threshold: None, reason: Some(reason) });
        }
        let threshold = wanted.unwrap_or(config.min_score);
        if value.is_none_or(|v| v < threshold) {
            findings.push(Finding {
                rule: "language.min_score".into(),
                value,
                threshold: Some(threshold),
                reason: Some(format!("{name} is too uncertain")),
            });
        }
        let share = (!mix.is_null(i)).then(|| mix.value(i));
        if let (Some(share), Some(most)) = (share, config.max_mixed)
            && share > most
        {
            findings.push(Finding {
                rule: "language.max_mixed".into(),
                value: Some(share),
                threshold: Some(most),
                reason: Some(format!("{:.0} % of its paragraphs are not {name}", 100.0 * share)),
            });
        }
        let status = if findings.is_empty() { Status::Kept } else { Status::Dropped };
        verdicts.push(ids.value(i), status, &findings);
        verdicts.counts.add(&format!("language:{name}"), 1);
        keep.push(findings.is_empty());
    }
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for (i, f) in batch.schema().fields().iter().enumerate() {
        if f.name() == "text" {
            columns.push(("language".into(), codes.clone()));
            columns.push(("language_score".into(), scores.clone()));
            if config.paragraph_chars.is_some() {
                columns.push(("language_mixed".into(), mixes.clone()));
            }
        }
        if !["language", "language_score", "language_mixed", FOUND].contains(&f.name().as_str()) {
            columns.push((f.name().clone(), batch.column(i).clone()));
        }
    }
    let named = [("language", &codes), ("language_score", &scores), ("language_mixed", &mixes)];
    let shown = named.into_iter().take(if config.paragraph_chars.is_some() { 3 } else { 2 });
    let more = shown.map(|(n, a)| (Field::new(n, a.data_type().clone(), true), a.clone())).collect();
    let counts = std::mem::take(&mut verdicts.counts);
    Ok(Decided { rows: table(columns)?, keep: keep.into(), verdicts: verdicts.finish(more)?, edits: None, counts })
}
