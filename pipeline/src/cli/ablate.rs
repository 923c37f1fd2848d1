//! `gristmill ablate`

use super::{Place, run};
use crate::ablate::{Ablation, SCORES};
use crate::error::{Error, Result};
use serde_json::Value;

/// Train the same small model on several branches of a manifest and compare bits per byte on held-out text.
#[derive(clap::Args)]
#[command(after_help = "Example:
  gristmill ablate manifests/quickstart.toml --branches unique,quality,lang --seeds 3

Every branch is tokenized with one tokenizer and trained with the same seeds; a difference is worth a look if it is
several times its standard error and above the noise floor. Running again goes on where it stopped.")]
pub struct Ablate {
    #[command(flatten)]
    place: Place,
    /// Stages with text to compare, the first one being the base.
    #[arg(long, value_delimiter = ',', required = true, num_args = 1..)]
    branches: Vec<String>,
    /// Stage whose held-out documents are the test; the first branch unless given.
    #[arg(long, value_name = "STAGE")]
    held_out: Option<String>,
    /// Models per branch.
    #[arg(long, default_value_t = 3, allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..=64))]
    seeds: u64,
    /// Training tokens of every model.
    #[arg(long, default_value_t = 400_000, allow_negative_numbers = true)]
    budget_tokens: u64,
    /// Vocabulary of the shared tokenizer.
    #[arg(long, default_value_t = 2048, allow_negative_numbers = true)]
    vocab_size: usize,
    /// Share of documents held out, above 0 and below 1.
    #[arg(long, default_value_t = 0.05, allow_negative_numbers = true)]
    holdout_share: f64,
    /// Options of every model as key=value, as in a `pretrain` stage; may be repeated.
    #[arg(long = "model", value_name = "KEY=VALUE")]
    model: Vec<String>,
    #[command(flatten)]
    limits: run::Limits,
}

/// A model that two cores train in half a minute.
const MODEL: [&str; 8] = [
    "n_layer = 2",
    "n_embd = 96",
    "n_head = 4",
    "n_kv_head = 2",
    "sequence_len = 256",
    "batch_tokens = 2048",
    "micro_batch_tokens = 2048",
    "learning_rate = 4e-3",
];

impl Ablate {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        self.check()?;
        let (manifest, folder) = self.place.load()?;
        let mut model: Vec<String> = MODEL.iter().map(|s| s.to_string()).collect();
        model.push(format!("budget_tokens = {}", self.budget_tokens));
        for option in &self.model {
            let (key, value) = option.split_once('=').ok_or_else(|| {
                Error::Manifest(format!("error: --model {option}: expected key=value, such as n_layer=3"))
            })?;
            let key = key.trim();
            model.retain(|line| !line.starts_with(&format!("{key} =")));
            model.push(format!("{key} = {}", value.trim()));
        }
        let ablation = Ablation {
            held_out: self.held_out.clone().unwrap_or_else(|| self.branches[0].clone()),
            branches: self.branches.clone(),
            seeds: self.seeds,
            vocab_size: self.vocab_size,
            holdout_share: self.holdout_share,
            model: model.join("\n"),
        };
        let extended = ablation.extend(&manifest, &self.place.sets)?;
        if self.seeds == 1 {
            note!("note: one seed per branch: no noise floor and no standard errors, so a difference may be luck");
        }
        // The test documents first: whether there are any is known before hours of training.
        self.limits.work(&extended, &folder, Some(&ablation.test_shards()), None, json)?;
        ablation.check_held_out(&folder)?;
        self.limits.work(&extended, &folder, Some(SCORES), None, json)?;
        let result = ablation.result(&folder)?;
        if json {
            return super::line(&result.to_string());
        }
        say!("bits per byte on the held-out documents of `{}`, {} seeds:", ablation.held_out, self.seeds);
        for branch in result["branches"].as_array().into_iter().flatten() {
            let number = |name: &str| branch[name].as_f64();
            let error = number("standard_error").map_or(String::new(), |e| format!(" +- {e:.4}"));
            say!(
                "  {:12} {:.4}   difference {:+.4}{error}   ({} training tokens)",
                branch["branch"].as_str().unwrap_or(""),
                number("bits_per_byte").unwrap_or(f64::NAN),
                number("difference").unwrap_or(f64::NAN),
                branch["train_tokens"]
            );
        }
        match &result["noise_floor"] {
            Value::Number(noise) => {
                say!("noise floor (standard deviation over seeds): {:.4}", noise.as_f64().unwrap_or(f64::NAN));
            }
            _ => say!("no noise floor: it takes --seeds 2 or more"),
        }
        Ok(())
    }

    /// Faults of the arguments that can be seen before anything runs.
    fn check(&self) -> Result<()> {
        let fault = |text: String| Err(Error::Manifest(text));
        if !(self.holdout_share > 0.0 && self.holdout_share < 1.0) {
            return fault(format!("error: --holdout-share {}: expected above 0 and below 1", self.holdout_share));
        }
        let twice = self.branches.iter().enumerate().find(|(i, b)| self.branches[..*i].contains(b));
        if let Some((_, branch)) = twice {
            return fault(format!("error: --branches names `{branch}` twice\nhint: name every stage to compare once"));
        }
        match self.branches.as_slice() {
            [only] => fault(format!(
                "error: --branches {only}: there is nothing to compare a single branch with\nhint: name two or more stages with text, as in  --branches {only},OTHER"
            )),
            _ => Ok(()),
        }
    }
}
