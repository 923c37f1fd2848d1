//! `rollout`: completions sampled from a model, with the log-prob of every token.

use super::model::{self, model_error, render_prompt};
use super::sft::text_rows;
use super::{Context, Output};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::manifest::kinds::{OptionFault, Options};
use crate::sink::write_table;
use crate::source::rows::derived_id;
use crate::store::FragmentRecord;
use datafusion::arrow::array::{ArrayRef, Float32Builder, ListBuilder, RecordBatch, StringBuilder, UInt32Builder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokenizer::Tokenizer;
use trainer::Model;
use trainer::generate::{Completion, Finish, Request, generate};
use trainer::sample::SampleConfig;

/// Options of a `rollout` stage. Its input has `prompt`, `answer`, `task` and `verifier` columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RolloutConfig {
    /// Completions per prompt.
    pub samples: u32,
    /// How tokens are drawn.
    #[serde(flatten)]
    pub sampling: SampleConfig,
}

impl Default for RolloutConfig {
    fn default() -> Self {
        Self { samples: 8, sampling: SampleConfig { max_tokens: 32, ..SampleConfig::default() } }
    }
}

impl Options for RolloutConfig {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = check_sampling(&self.sampling);
        if self.samples == 0 {
            faults.push(OptionFault::new("samples", "expected at least 1"));
        }
        faults
    }
}

/// Faults of sampling options.
pub fn check_sampling(sampling: &SampleConfig) -> Vec<OptionFault> {
    sampling.check().err().map(|e| OptionFault::new("temperature", e.to_string())).into_iter().collect()
}

/// A prompt with what its verifier needs.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Id of the row.
    pub id: String,
    /// Its parent, for the trace.
    pub parent_id: Option<String>,
    /// The prompt.
    pub prompt: String,
    /// What a right completion says.
    pub answer: String,
    /// Name of the task.
    pub task: String,
    /// How completions are checked.
    pub verifier: String,
}

/// The prompts of a table.
pub fn prompts(input: &Dataset) -> Result<Vec<Prompt>> {
    let (rows, _) = text_rows(input, &["prompt", "answer", "task", "verifier"])?;
    Ok(rows
        .into_iter()
        .map(|r| {
            let parent_id = super::sft::parent_of(&r, 4);
            let [id, prompt, answer, task, verifier] = [0, 1, 2, 3, 4].map(|i| r[i].clone());
            Prompt { id, parent_id, prompt, answer, task, verifier }
        })
        .collect())
}

/// Samples completions: `samples` for each prompt, prompt by prompt. The noise is keyed by the prompt's id.
pub fn sample(
    model: &Model,
    tokenizer: &Tokenizer,
    prompts: &[&Prompt],
    samples: u32,
    config: &SampleConfig,
    seed: u64,
) -> Result<Vec<Completion>> {
    let stop = [tokenizer.special_id("<|end|>"), Some(tokenizer.eot_id())].into_iter().flatten().collect::<Vec<u32>>();
    let mut requests = Vec::with_capacity(prompts.len() * samples as usize);
    for prompt in prompts {
        let ids = render_prompt(tokenizer, &prompt.prompt)?;
        let key = xxhash_rust::xxh3::xxh3_64(prompt.id.as_bytes());
        requests.extend((0..samples).map(|sample| Request {
            prompt: ids.clone(),
            key,
            sample,
            stop: stop.clone(),
            banned: Vec::new(),
        }));
    }
    generate(model, &requests, config, seed).map_err(model_error)
}

/// The text of a completion, without the token that ended it.
pub fn text_of(tokenizer: &Tokenizer, completion: &Completion) -> String {
    let tokens = match completion.finish {
        Finish::Stop => &completion.tokens[..completion.tokens.len() - 1],
        Finish::Length => &completion.tokens[..],
    };
    tokenizer.decode(tokens)
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &RolloutConfig) -> Result<Output> {
    let (model, tokenizer) = model::load(context.reference("model").expect("the manifest check asks for it"))?;
    let prompts = prompts(context.input())?;
    const CHUNK: usize = 256;
    let count = prompts.len().div_ceil(CHUNK).max(1);
    let fragments = context.fragments("", count, |index| {
        let chunk: Vec<&Prompt> = prompts.iter().skip(index * CHUNK).take(CHUNK).collect();
        let completions = sample(&model, &tokenizer, &chunk, config.samples, &config.sampling, context.stage.seed)?;
        let mut rows = Rows::default();
        let mut record = FragmentRecord::default();
        for (i, completion) in completions.iter().enumerate() {
            let (prompt, sample) = (chunk[i / config.samples as usize], (i % config.samples as usize) as u32);
            rows.push(context.name(), prompt, sample, &text_of(&tokenizer, completion), completion);
            record.add("completions", 1);
            record.add("tokens", completion.tokens.len() as u64);
            record.add(if completion.finish == Finish::Stop { "finish:stop" } else { "finish:length" }, 1);
        }
        record.files = vec![write_table(&context.out.path, &format!("part-{index:05}.parquet"), &rows.finish()?)?];
        Ok(record)
    })?;
    let tokens: u64 = fragments.iter().filter_map(|f| f.counts.get("tokens")).sum();
    let rate = tokens as f64 / context.started.elapsed().as_secs_f64();
    let note = format!(
        "{} completions of {} prompts, {tokens} tokens, {rate:.0} tokens/s",
        prompts.len() * config.samples as usize,
        prompts.len()
    );
    Ok(Output { fragments, note, metrics: serde_json::json!({ "tokens_per_sec": rate }) })
}

/// Completions as a table under construction.
#[derive(Default)]
pub struct Rows {
    strings: [StringBuilder; 8], // id, parent_id, task, verifier, prompt, answer, completion, finish
    sample: UInt32Builder,
    tokens: Option<ListBuilder<UInt32Builder>>,
    logprobs: Option<ListBuilder<Float32Builder>>,
}

impl Rows {
    fn push(&mut self, stage: &str, prompt: &Prompt, sample: u32, text: &str, completion: &Completion) {
        let id = derived_id(&prompt.id, stage, u64::from(sample));
        let finish = if completion.finish == Finish::Stop { "stop" } else { "length" };
        let values = [&id, &prompt.id, &prompt.task, &prompt.verifier, &prompt.prompt, &prompt.answer, text, finish];
        for (builder, value) in self.strings.iter_mut().zip(values) {
            builder.append_value(value);
        }
        self.sample.append_value(sample);
        let tokens = self.tokens.get_or_insert_with(|| ListBuilder::new(UInt32Builder::new()));
        tokens.values().append_slice(&completion.tokens);
        tokens.append(true);
        let logprobs = self.logprobs.get_or_insert_with(|| ListBuilder::new(Float32Builder::new()));
        logprobs.values().append_slice(&completion.logprobs);
        logprobs.append(true);
    }

    /// The rows.
    pub fn finish(mut self) -> Result<RecordBatch> {
        let names = ["id", "parent_id", "task", "verifier", "prompt", "answer", "completion", "finish"];
        let mut columns: Vec<(String, ArrayRef)> = names
            .iter()
            .zip(&mut self.strings)
            .map(|(n, b)| (n.to_string(), Arc::new(b.finish()) as ArrayRef))
            .collect();
        columns.push(("sample".into(), Arc::new(self.sample.finish())));
        let mut tokens = self.tokens.unwrap_or_else(|| ListBuilder::new(UInt32Builder::new()));
        let mut logprobs = self.logprobs.unwrap_or_else(|| ListBuilder::new(Float32Builder::new()));
        columns.push(("token_ids".into(), Arc::new(tokens.finish())));
        columns.push(("logprobs".into(), Arc::new(logprobs.finish())));
        model::named(columns)
    }
}
