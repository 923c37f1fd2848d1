//! `tokenizer`: pre-token counts per input fragment, then the merge phase, then `tokenizer.json`.

use super::{Context, Output};
use crate::dataset::string_column;
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use crate::progress::size;
use crate::store::durable::write_file;
use crate::store::{FragmentRecord, OutputDir};
use datafusion::arrow::array::Array;
use std::path::PathBuf;
use tokenizer::{TokenizerConfig, WordCounts, count, train};

/// File name of the tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
const COUNTS: &str = "counts";

impl Options for TokenizerConfig {
    fn check(&self) -> Vec<OptionFault> {
        self.validate().err().map(|e| OptionFault::new("vocab_size", e.to_string())).into_iter().collect()
    }
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &TokenizerConfig) -> Result<Output> {
    let parts: Vec<(usize, PathBuf)> =
        context.inputs.iter().enumerate().flat_map(|(i, d)| d.parts().into_iter().map(move |p| (i, p))).collect();
    let splitter = config.splitter().map_err(|e| Error::Model(e.to_string()))?;
    let counted = context.spread(COUNTS, parts.len(), |index| {
        let (input, part) = &parts[index];
        let mut words = WordCounts::default();
        let mut record = FragmentRecord::default();
        for batch in context.inputs[*input].read(part, &["text"])? {
            let texts = string_column(&batch, "text")?;
            for text in texts.iter().flatten() {
                count(text, &splitter, &mut words);
                record.add("text_bytes", text.len() as u64);
            }
            record.add("documents", (texts.len() - texts.null_count()) as u64);
        }
        let name = OutputDir::side_name(COUNTS, &format!("{index:05}.bin"));
        record.files = vec![write_file(&context.out.path, &name, &words.to_bytes())?];
        Ok(record)
    })?;
    let mut words = WordCounts::default();
    let mut total = FragmentRecord::default();
    for record in &counted {
        let path = context.out.path.join(&record.files[0].path);
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        words.merge(&WordCounts::from_bytes(&bytes).map_err(|e| Error::Integrity(e.to_string()))?);
        for (name, n) in &record.counts {
            total.add(name, *n);
        }
    }
    if words.is_empty() {
        let run = context.out.path.ancestors().nth(2).unwrap_or(&context.out.path).display();
        return Err(Error::InputData(format!(
            "stage `{}` has no text to learn from\nhint: `gristmill status {run}` shows at which stage the rows were lost, and \
             `gristmill sql {run} \"SELECT rule, count(*) FROM <stage>_verdicts GROUP BY rule\"` why",
            context.name()
        )));
    }
    context.check_stop()?;
    let made = train(&words, config).map_err(|e| Error::Model(e.to_string()))?;
    let mut files = vec![write_file(&context.out.path, TOKENIZER, &made.to_json())?];
    for (name, bytes) in made.hf_config_files() {
        files.push(write_file(&context.out.path, &name, &bytes)?);
    }
    total.files = files;
    total.add("vocab_size", made.vocab_size() as u64);
    let note = format!("{} tokens learned from {}", made.vocab_size(), size(total.counts["text_bytes"]));
    Ok(Output { fragments: vec![total], note, ..Output::default() })
}
