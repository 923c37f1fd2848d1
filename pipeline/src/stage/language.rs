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
use datafusion::arrow::datatypes::Float64Type;
use datafusion::prelude::{DataFrame, col};
use filters::language::LanguageModel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Options of a `language` stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LanguageConfig {
    /// A fastText model (`.bin` or `.ftz`), relative to the manifest; none: the built-in model.
    pub model: Option<PathBuf>,
    /// Languages to keep, as ISO 639-1 codes (639-3 where there is none); empty: all.
    pub keep: Vec<String>,
    /// Least probability of the language, 0..1, higher is stricter. FineWeb (2024) uses 0.65.
    pub min_score: f64,
}

impl Default for LanguageConfig {
    fn default() -> Self {
        Self { model: None, keep: Vec::new(), min_score: 0.65 }
    }
}

impl Options for LanguageConfig {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = Vec::new();
        if !(0.0..=1.0).contains(&self.min_score) {
            faults.push(OptionFault::new("min_score", format!("expected 0 to 1, got {}", self.min_score)));
        }
        for code in
            self.keep.iter().filter(|c| !(2..=3).contains(&c.len()) || !c.bytes().all(|b| b.is_ascii_lowercase()))
        {
            faults.push(OptionFault::new("keep", format!("`{code}` is no language code such as \"en\"")));
        }
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
    let detect = udf::language(model, key);
    let plan =
        |frame: DataFrame| -> Result<DataFrame> { Ok(frame.with_column(FOUND, detect.call(vec![col("text")]))?) };
    let fragments = rowlocal::run(context, plan, |batch| decide(batch, config))?;
    let note = rowlocal::summary(&fragments);
    Ok(Output { fragments, note, ..Output::default() })
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
    let (codes, scores) = (found.column(0).clone(), found.column(1).clone());
    let (code, score) = (codes.as_string::<i32>(), scores.as_primitive::<Float64Type>());
    let ids = string_column(&batch, "id")?;
    let mut verdicts = Verdicts::default();
    let mut keep = Vec::with_capacity(batch.num_rows());
    for i in 0..batch.num_rows() {
        let name = if code.is_null(i) { "none" } else { code.value(i) };
        let value = (!score.is_null(i)).then(|| score.value(i));
        let mut findings = Vec::new();
        if !config.keep.is_empty() && !config.keep.iter().any(|k| k == name) {
            let reason = format!("{name} is not in keep = [{}]", config.keep.join(", "));
            findings.push(Finding { rule: "language.keep".into(), value, threshold: None, reason: Some(reason) });
        }
        if value.is_none_or(|v| v < config.min_score) {
            findings.push(Finding {
                rule: "language.min_score".into(),
                value,
                threshold: Some(config.min_score),
                reason: Some(format!("{name} is too uncertain")),
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
        }
        if !["language", "language_score", FOUND].contains(&f.name().as_str()) {
            columns.push((f.name().clone(), batch.column(i).clone()));
        }
    }
    let more = vec![
        (datafusion::arrow::datatypes::Field::new("language", codes.data_type().clone(), true), codes.clone()),
        (datafusion::arrow::datatypes::Field::new("language_score", scores.data_type().clone(), true), scores.clone()),
    ];
    let counts = std::mem::take(&mut verdicts.counts);
    Ok(Decided { rows: table(columns)?, keep: keep.into(), verdicts: verdicts.finish(more)?, counts })
}
