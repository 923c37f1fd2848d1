//! `gristmill chat`

use super::out;
use crate::error::{Error, Result};
use crate::manifest::kinds::{Output, info};
use crate::stage::model;
use crate::{dataset::Dataset, execute};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::io::{BufRead, IsTerminal};
use std::ops::ControlFlow;
use std::path::PathBuf;
use tokenizer::Tokenizer;
use tokenizer::chat::{Message, render};
use tokenizer::stream::Utf8Stream;
use trainer::Model;
use trainer::generate::{Request, generate_stream};
use trainer::sample::SampleConfig;

/// Talk to a model of a run; without a terminal, one answer line per line of standard input.
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
    #[arg(long, default_value_t = 1.0, conflicts_with = "greedy", allow_negative_numbers = true)]
    temperature: f64,
    /// Seed of the sampling.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    seed: u64,
    /// Most tokens of one answer.
    #[arg(long, default_value_t = 64, allow_negative_numbers = true)]
    max_tokens: usize,
    /// Forget earlier turns: every line is a conversation of its own.
    #[arg(long)]
    single: bool,
}

impl Chat {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        super::existing_run(&self.run)?;
        let config = SampleConfig {
            temperature: if self.greedy { 1.0 } else { self.temperature },
            greedy: self.greedy,
            max_tokens: self.max_tokens,
            ..SampleConfig::default()
        };
        config.check().map_err(|e| Error::Manifest(format!("error: {e}")))?;
        let dataset = self.model()?;
        let (weights, tokenizer) = model::load(&dataset)?;
        let stop = [tokenizer.special_id("<|end|>"), Some(tokenizer.eot_id())].into_iter().flatten().collect();
        let mut talk =
            Talk { weights, tokenizer, config, stop, seed: self.seed, single: self.single, turns: Vec::new(), turn: 0 };
        if !std::io::stdin().is_terminal() {
            return batch(&mut talk, json);
        }
        note!("model `{}` of {}; an empty line ends", dataset.name, self.run.display());
        let failed = |e: ReadlineError| Error::Query(format!("the chat cannot read the terminal: {e}"));
        let mut editor = DefaultEditor::new().map_err(failed)?;
        loop {
            match editor.readline("you> ") {
                Ok(line) if line.trim().is_empty() => return Ok(()),
                Ok(line) => {
                    let _ = editor.add_history_entry(&line);
                    let told = talk.answer(&line, &mut |piece| {
                        if !json {
                            let _ = out::raw(piece.as_bytes());
                        }
                    });
                    match told {
                        Ok(answer) if json => say!("{}", answer.json(&line)),
                        Ok(_) => say!(""),
                        Err(e) => note!("error: {e}"),
                    }
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
        let run = self.run.display();
        if models.is_empty() {
            return Err(Error::Manifest(format!(
                "error: the run in {run} has no model to talk to yet\n\
                 hint: give its manifest a `pretrain` stage if it has none, and run it to its end:  gristmill run MANIFEST"
            )));
        }
        let names: Vec<String> = models.iter().map(|d| d.name.clone()).collect();
        let found = match &self.stage {
            None => models.last().cloned(),
            Some(name) => models.iter().find(|d| d.name == *name).cloned(),
        };
        found.ok_or_else(|| {
            let named = self.stage.as_deref().unwrap_or_default();
            let near = crate::manifest::nearest(named, &names).unwrap_or(&names[names.len() - 1]);
            let known = names.join(", ");
            Error::Manifest(format!(
                "error: no model `{named}` in {run}   (known: {known})\nhint: did you mean  --stage {near}?"
            ))
        })
    }
}

/// One answer line per input line, whatever the line holds; what got no answer has an empty one and is told on stderr.
fn batch(talk: &mut Talk, json: bool) -> Result<()> {
    let mut input = std::io::stdin().lock();
    let (mut lines, mut failed) = (0_u64, 0_u64);
    loop {
        let mut bytes = Vec::new();
        let n = input.read_until(b'\n', &mut bytes).map_err(Error::io("read", "standard input"))?;
        if n == 0 {
            break;
        }
        lines += 1;
        let line = std::str::from_utf8(&bytes)
            .map(|l| l.trim_end_matches(['\n', '\r']).to_string())
            .map_err(|e| Error::InputData(format!("invalid UTF-8 at byte {} of the line", e.valid_up_to() + 1)));
        let answer = line.and_then(|line| {
            let answer = if line.trim().is_empty() { Answer::default() } else { talk.answer(&line, &mut |_| {})? };
            Ok((line, answer))
        });
        match answer {
            Ok((line, answer)) if json => say!("{}", answer.json(&line)),
            // A line break in an answer would break the count of lines.
            Ok((_, answer)) => say!("{}", answer.shown().replace(['\n', '\r'], " ")),
            Err(e) => {
                failed += 1;
                note!("error: line {lines}: {e}");
                if json {
                    say!("{}", serde_json::json!({ "line": lines, "error": e.to_string() }));
                } else {
                    say!("");
                }
            }
        }
    }
    if failed > 0 {
        return Err(Error::InputData(format!(
            "{failed} of {lines} lines got no answer\nhint: the lines are named above; the others are answered"
        )));
    }
    Ok(())
}

/// A conversation with a model.
struct Talk {
    weights: Model,
    tokenizer: Tokenizer,
    config: SampleConfig,
    stop: Vec<u32>,
    seed: u64,
    single: bool,
    turns: Vec<Message>,
    turn: u64,
}

/// What a model said.
#[derive(Default)]
struct Answer {
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
}

impl Answer {
    /// The text as people read it: tokens carry the space before a word, which is none of the answer's.
    fn shown(&self) -> &str {
        self.text.strip_prefix(' ').unwrap_or(&self.text)
    }

    /// The exact text with its tokens.
    fn json(&self, prompt: &str) -> serde_json::Value {
        serde_json::json!({ "prompt": prompt, "completion": self.text, "tokens": self.tokens, "logprobs": self.logprobs })
    }
}

impl Talk {
    /// The answer to a line; its pieces go to `piece` as they come, without the space in front. A line that fails leaves no turn.
    fn answer(&mut self, line: &str, piece: &mut dyn FnMut(&str)) -> Result<Answer> {
        if self.single {
            self.turns.clear();
        }
        let mut turns = self.turns.clone();
        turns.push(Message::new("user", line));
        let mut prompt = render(&self.tokenizer, &turns, true).map_err(model::model_error)?.ids;
        while prompt.len() + 1 >= self.weights.config().sequence_len && turns.len() > 1 {
            turns.drain(..2.min(turns.len() - 1));
            prompt = render(&self.tokenizer, &turns, true).map_err(model::model_error)?.ids;
        }
        let longest = self.weights.config().sequence_len;
        if prompt.len() > longest {
            return Err(Error::InputData(format!(
                "it is {} tokens with the chat's own, expected at most {longest}, the model's `sequence_len`",
                prompt.len()
            )));
        }
        let request = Request { prompt, key: self.turn, sample: 0, stop: self.stop.clone(), banned: Vec::new() };
        self.turn += 1;
        let mut stream = Utf8Stream::new();
        let mut text = String::new();
        let tokenizer = &self.tokenizer;
        let mut told = |text: &mut String, more: &str| {
            piece(if text.is_empty() { more.strip_prefix(' ').unwrap_or(more) } else { more });
            text.push_str(more);
        };
        let completion = generate_stream(&self.weights, &request, &self.config, self.seed, &mut |id| {
            if !tokenizer.is_special(id) {
                told(&mut text, &stream.push(tokenizer.token_bytes(id)));
            }
            ControlFlow::Continue(())
        })
        .map_err(model::model_error)?;
        told(&mut text, &stream.finish());
        turns.push(Message::new("assistant", &text));
        self.turns = turns;
        Ok(Answer { text, tokens: completion.tokens, logprobs: completion.logprobs })
    }
}
