//! `gristmill chat`

use crate::error::{Error, Result};
use crate::manifest::kinds::{Output, info};
use crate::stage::model;
use crate::{dataset::Dataset, execute};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use tokenizer::chat::{Message, render};
use tokenizer::stream::Utf8Stream;
use trainer::generate::{Request, generate_stream};
use trainer::sample::SampleConfig;

/// Talk to a model of a run; without a terminal, one answer per line of standard input.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gristmill chat runs/quickstart
  echo 'larger of 7 and 31?' | gristmill chat runs/quickstart --stage dpo --greedy")]
pub struct Chat {
    /// Folder of the run.
    run: PathBuf,
    /// The model stage; the last one of the plan unless given.
    #[arg(long)]
    stage: Option<String>,
    /// Always take the likeliest token.
    #[arg(long)]
    greedy: bool,
    /// Sampling temperature, above 0.
    #[arg(long, default_value_t = 1.0, conflicts_with = "greedy")]
    temperature: f64,
    /// Seed of the sampling.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Most tokens of one answer.
    #[arg(long, default_value_t = 64)]
    max_tokens: usize,
    /// Forget earlier turns: every line is a conversation of its own.
    #[arg(long)]
    single: bool,
}

impl Chat {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        super::existing_run(&self.run)?;
        let dataset = self.model()?;
        let (weights, tokenizer) = model::load(&dataset)?;
        let config = SampleConfig {
            temperature: if self.greedy { 1.0 } else { self.temperature },
            greedy: self.greedy,
            max_tokens: self.max_tokens,
            ..SampleConfig::default()
        };
        config.check().map_err(|e| Error::Manifest(format!("error: {e}")))?;
        let stop: Vec<u32> =
            [tokenizer.special_id("<|end|>"), Some(tokenizer.eot_id())].into_iter().flatten().collect();
        let mut turns: Vec<Message> = Vec::new();
        let mut turn = 0;
        let mut answer = |line: &str| -> Result<()> {
            if self.single {
                turns.clear();
            }
            turns.push(Message::new("user", line));
            let mut prompt = render(&tokenizer, &turns, true).map_err(model::model_error)?.ids;
            while prompt.len() + 1 >= weights.config().sequence_len && turns.len() > 1 {
                turns.drain(..2.min(turns.len() - 1));
                prompt = render(&tokenizer, &turns, true).map_err(model::model_error)?.ids;
            }
            let request = Request { prompt, key: turn, sample: 0, stop: stop.clone(), banned: Vec::new() };
            turn += 1;
            let mut stream = Utf8Stream::new();
            let mut text = String::new();
            let completion = generate_stream(&weights, &request, &config, self.seed, &mut |id| {
                if !tokenizer.is_special(id) {
                    let piece = stream.push(tokenizer.token_bytes(id));
                    if !json {
                        print!("{piece}");
                        let _ = std::io::stdout().flush();
                    }
                    text.push_str(&piece);
                }
                ControlFlow::Continue(())
            })
            .map_err(model::model_error)?;
            let rest = stream.finish();
            text.push_str(&rest);
            if json {
                println!(
                    "{}",
                    serde_json::json!({ "prompt": line, "completion": text, "tokens": completion.tokens, "logprobs": completion.logprobs })
                );
            } else {
                println!("{rest}");
            }
            turns.push(Message::new("assistant", &text));
            Ok(())
        };
        if !std::io::stdin().is_terminal() {
            let text = std::io::read_to_string(std::io::stdin()).map_err(Error::io("read", "standard input"))?;
            return text.lines().filter(|l| !l.trim().is_empty()).try_for_each(&mut answer);
        }
        eprintln!("model `{}` of {}; an empty line ends", dataset.name, self.run.display());
        let failed = |e: ReadlineError| Error::Query(format!("the chat cannot read the terminal: {e}"));
        let mut editor = DefaultEditor::new().map_err(failed)?;
        loop {
            match editor.readline("you> ") {
                Ok(line) if line.trim().is_empty() => return Ok(()),
                Ok(line) => {
                    let _ = editor.add_history_entry(&line);
                    answer(&line)?;
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(()),
                Err(e) => return Err(failed(e)),
            }
        }
    }

    /// The model to talk to.
    fn model(&self) -> Result<Dataset> {
        let makes_model = |kind: &str| info(kind).is_some_and(|k| k.makes == Output::Model);
        let models: Vec<Dataset> =
            execute::datasets(&self.run)?.into_iter().filter(|(s, _)| makes_model(&s.kind)).map(|(_, d)| d).collect();
        let names: Vec<&str> = models.iter().map(|d| d.name.as_str()).collect();
        let known = names.join(", ");
        let found = match &self.stage {
            None => models.last().cloned(),
            Some(name) => models.iter().find(|d| d.name == *name).cloned(),
        };
        found.ok_or_else(|| {
            Error::Manifest(format!("error: no such model in {}   (known: {known})", self.run.display()))
        })
    }
}
