//! `sft`: prompts and completions to a fine-tuned model.

use super::model::{self, Example, model_error, render};
use super::training::{self, LoopConfig, Plan};
use super::{Context, Output};
use crate::dataset::{Dataset, string_column};
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use align::loss::sft::{SftConfig, SftLoss, sft};
use datafusion::arrow::array::{Array, StringArray};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokenizer::Tokenizer;
use trainer::optim::{OptimConfig, Rates, ScheduleConfig};
use trainer::packing::pack;
use trainer::trainer::Trainer;

/// Options of an `sft` stage. Its inputs have `prompt` and `completion` columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SftStage {
    /// The loss.
    pub loss: SftLoss,
    /// Passes over the rows.
    pub epochs: f64,
    /// Rows of one optimizer step.
    pub batch_size: usize,
    /// Learning rates.
    #[serde(flatten)]
    pub schedule: ScheduleConfig,
    /// AdamW.
    #[serde(flatten)]
    pub optim: OptimConfig,
    /// Checkpoints.
    #[serde(flatten)]
    pub checkpoints: LoopConfig,
}

impl Default for SftStage {
    fn default() -> Self {
        Self {
            loss: SftLoss::default(),
            epochs: 1.0,
            batch_size: 32,
            schedule: ScheduleConfig { learning_rate: 1e-3, ..ScheduleConfig::default() },
            optim: OptimConfig { weight_decay: 0.0, ..OptimConfig::default() },
            checkpoints: LoopConfig::default(),
        }
    }
}

impl Options for SftStage {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = training::check(&self.schedule, &self.optim, &self.checkpoints);
        if !(self.epochs > 0.0 && self.epochs.is_finite()) {
            faults.push(OptionFault::new("epochs", format!("expected above 0, got {}", self.epochs)));
        }
        if self.batch_size == 0 {
            faults.push(OptionFault::new("batch_size", "expected at least 1"));
        }
        faults
    }
}

/// Values of some text columns, row by row; a row with a null in any of them is left out and counted.
pub fn text_rows(input: &Dataset, columns: &[&str]) -> Result<(Vec<Vec<String>>, u64)> {
    let parents = input.schema()?.column_with_name("parent_id").is_some();
    let mut names = vec!["id"];
    names.extend(columns);
    if parents {
        names.push("parent_id");
    }
    let (mut rows, mut skipped) = (Vec::new(), 0);
    for part in input.parts() {
        for batch in input.read(&part, &names)? {
            let arrays: Vec<&StringArray> = names.iter().map(|n| string_column(&batch, n)).collect::<Result<_>>()?;
            for i in 0..batch.num_rows() {
                if arrays[..=columns.len()].iter().any(|a| a.is_null(i)) {
                    skipped += 1;
                    continue;
                }
                rows.push(
                    arrays.iter().map(|a| if a.is_null(i) { String::new() } else { a.value(i).to_string() }).collect(),
                );
            }
        }
    }
    Ok((rows, skipped))
}

/// The parent in a row of [`text_rows`], if it has one.
pub fn parent_of(row: &[String], columns: usize) -> Option<String> {
    row.get(columns + 1).filter(|p| !p.is_empty()).cloned()
}

fn examples(context: &Context<'_>, tokenizer: &Tokenizer, sequence_len: usize) -> Result<Vec<Example>> {
    let mut examples = Vec::new();
    let mut long = 0;
    for input in &context.inputs {
        for row in text_rows(input, &["prompt", "completion"])?.0 {
            let masked = render(tokenizer, &row[1], &row[2])?;
            if masked.0.len() > sequence_len + 1 {
                long += 1;
                continue;
            }
            examples.push(Example { masked, id: row[0].clone(), parent_id: parent_of(&row, 2) });
        }
    }
    if long > 0 {
        context.progress.event(crate::progress::Event::Warning(&format!(
            "{long} rows of `{}` are longer than {sequence_len} tokens and are left out",
            context.name()
        )));
    }
    if examples.is_empty() {
        return Err(Error::InputData(format!(
            "stage `{}` has no row with `prompt` and `completion` to learn from",
            context.name()
        )));
    }
    Ok(examples)
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &SftStage) -> Result<Output> {
    let source = context.reference("model").expect("the manifest check asks for it");
    let (base, tokenizer) = model::load(source)?;
    let sequence_len = base.config().sequence_len;
    let examples = examples(context, &tokenizer, sequence_len)?;
    let steps = ((examples.len() as f64 * config.epochs) / config.batch_size as f64).ceil().max(1.0) as u64;
    let rates = |step| Rates::of(config.schedule.lr_at(step, steps));
    let plan = Plan { steps, rates: &rates, options: &config.checkpoints, tokenizer: &source.path };
    let start = || Trainer::new(base.clone(), &config.optim).map_err(model_error);
    training::train(context, &plan, start, |turn| {
        let rows = model::shuffled(context.stage.seed, "sft", turn.step, config.batch_size, examples.len());
        let chosen: Vec<_> = rows.iter().map(|i| examples[*i].masked.clone()).collect();
        let packing = pack(&chosen, sequence_len, 16).map_err(model_error)?;
        let segments = model::segments(&packing);
        let documents = || rows.iter().map(|i| examples[*i].id.clone()).collect();
        let loss = SftConfig { loss: config.loss };
        let (output, taken) =
            turn.take(&packing.batches, &segments, |tokens| sft(&loss, &tokens), |_| (), documents)?;
        let mut found = output.metrics;
        found.extend(taken);
        Ok((found, rows.iter().map(|i| examples[*i].trace()).collect()))
    })
}
