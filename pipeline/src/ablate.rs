//! Which data is better to train on: the same small model on several branches of a manifest, several seeds each.
//!
//! The branches share one tokenizer, and documents are held out by a hash of their id, so what one branch holds out no branch
//! trains on. Seeds are paired: a difference between two branches is taken seed by seed. The noise floor is the spread of
//! one branch over its seeds. A near-duplicate of a held-out document in a branch that is not deduplicated counts in that
//! branch's favour: hold out documents of a deduplicated stage, and read such a gain as what it is.

use crate::error::{Error, Result};
use crate::execute;
use crate::manifest::Manifest;
use crate::report::rows;
use crate::session::block_on;
use crate::tables;
use serde_json::{Value, json};
use std::path::Path;

/// What to compare.
#[derive(Clone, Debug)]
pub struct Ablation {
    /// Stages with a `text` column; differences are taken to the first.
    pub branches: Vec<String>,
    /// Stage whose held-out documents the models are measured on.
    pub held_out: String,
    /// Models per branch.
    pub seeds: u64,
    /// Vocabulary of the shared tokenizer, trained on `held_out`'s stage.
    pub vocab_size: usize,
    /// Share of documents held out, 0..1.
    pub holdout_share: f64,
    /// Options of every `pretrain` stage, as TOML `key = value` lines.
    pub model: String,
}

/// Name of the last stage.
pub const SCORES: &str = "ablate_scores";

impl Ablation {
    /// The manifest with the stages of the ablation behind its own.
    pub fn extend(&self, manifest: &Manifest, sets: &[String]) -> Result<Manifest> {
        let mut text = manifest.text.clone();
        let unknown = self.branches.iter().chain([&self.held_out]).find(|n| manifest.stage(n).is_none());
        if let Some(name) = unknown {
            let known: Vec<String> = manifest.stages.iter().map(|s| s.name.clone()).collect();
            return Err(Error::Manifest(format!("error: no stage `{name}`   (known: {})", known.join(", "))));
        }
        let mut stage = |name: &str, body: String| text += &format!("\n[stage.{name}]\n{body}\n");
        stage(
            "ablate_bpe",
            format!("kind = \"tokenizer\"\ninput = \"{}\"\nvocab_size = {}", self.held_out, self.vocab_size),
        );
        let shards = |branch: &str| format!("ablate_{branch}_shards");
        let mut all: Vec<&String> = self.branches.iter().collect();
        if !self.branches.contains(&self.held_out) {
            all.push(&self.held_out);
        }
        for branch in all {
            stage(
                &shards(branch),
                format!(
                    "kind = \"tokenize\"\ninput = \"{branch}\"\ntokenizer = \"ablate_bpe\"\nholdout_share = {:?}",
                    self.holdout_share
                ),
            );
        }
        let mut models = Vec::new();
        for branch in &self.branches {
            for seed in 0..self.seeds {
                let name = model_name(branch, seed);
                stage(
                    &name,
                    format!("kind = \"pretrain\"\ninput = \"{}\"\nseed = {}\n{}", shards(branch), seed + 1, self.model),
                );
                models.push(format!("\"{name}\""));
            }
        }
        let held_out = shards(&self.held_out);
        stage(SCORES, format!("kind = \"eval\"\nmodels = [{}]\nshards = \"{held_out}\"", models.join(", ")));
        Manifest::parse(&text, &manifest.path, sets)
    }

    /// The stage whose held-out part is the test.
    pub fn test_shards(&self) -> String {
        format!("ablate_{}_shards", self.held_out)
    }

    /// An error if the finished shards hold no test documents, or nothing to train on.
    pub fn check_held_out(&self, run: &Path) -> Result<()> {
        let shards = self.test_shards();
        let finished = execute::datasets(run)?;
        let count = |name: &str| {
            let found = finished.iter().find(|(s, _)| s.name == shards);
            found.and_then(|(_, d)| d.receipt.counts.get(name).copied()).unwrap_or(0)
        };
        let (part, way_out) = match (count("tokens:holdout"), count("tokens:train")) {
            (0, _) => ("held-out", "more"),
            (_, 0) => ("training", "fewer"),
            _ => return Ok(()),
        };
        Err(Error::Manifest(format!(
            "error: `{}` has 0 {part} tokens of {} documents with --holdout-share {}, nothing was trained\n\
             hint: hold out {way_out} documents with --holdout-share, or give a larger stage with --held-out",
            self.held_out,
            count("documents"),
            self.holdout_share
        )))
    }

    /// Bits per byte of every branch, and its difference to the first one, from a finished run.
    pub fn result(&self, run: &Path) -> Result<Value> {
        let scores = block_on(async {
            let session = tables::open(run, None).await?;
            rows(&session, &format!("SELECT model, value FROM {SCORES} WHERE metric = 'bits_per_byte'")).await
        })?;
        let trained = execute::datasets(run)?;
        let value = |branch: &str, seed: u64| {
            let name = model_name(branch, seed);
            let found = scores.iter().find(|r| r["model"].as_str() == Some(&name)).and_then(|r| r["value"].as_f64());
            found.ok_or_else(|| Error::Integrity(format!("{SCORES} has no row of {name}\nhint: run it again")))
        };
        let mut values: Vec<Vec<f64>> = Vec::new();
        for branch in &self.branches {
            values.push((0..self.seeds).map(|s| value(branch, s)).collect::<Result<_>>()?);
        }
        let noise = pooled_deviation(&values);
        let branches = self.branches.iter().zip(&values).map(|(branch, own)| {
            let differences: Vec<f64> = own.iter().zip(&values[0]).map(|(a, b)| a - b).collect();
            let shards = trained.iter().find(|(s, _)| s.name == format!("ablate_{branch}_shards"));
            let tokens = shards.and_then(|(_, d)| d.receipt.counts.get("tokens:train").copied());
            json!({
                "branch": branch, "bits_per_byte": mean(own), "seeds": own, "train_tokens": tokens,
                "difference": mean(&differences), "standard_error": standard_error(&differences),
            })
        });
        Ok(
            json!({ "run": run, "held_out": self.held_out, "noise_floor": noise, "branches": branches.collect::<Vec<_>>() }),
        )
    }
}

fn model_name(branch: &str, seed: u64) -> String {
    format!("ablate_{branch}_{}", seed + 1)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn squares(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|v| (v - mean) * (v - mean)).sum()
}

/// Standard error of a mean; None for fewer than two values.
fn standard_error(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    (values.len() > 1).then(|| (squares(values) / (n - 1.0) / n).sqrt())
}

/// Standard deviation over seeds, pooled over branches; None for one seed.
fn pooled_deviation(values: &[Vec<f64>]) -> Option<f64> {
    let freedom: usize = values.iter().map(|v| v.len() - 1).sum();
    (freedom > 0).then(|| (values.iter().map(|v| squares(v)).sum::<f64>() / freedom as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_are_those_of_the_textbook() {
        assert_eq!(standard_error(&[1.0]), None);
        assert!((standard_error(&[1.0, 2.0, 3.0]).unwrap() - (1.0f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(pooled_deviation(&[vec![1.0, 3.0], vec![5.0, 5.0]]), Some(1.0));
    }
}
