//! `export`: a model as a folder that `AutoModelForCausalLM` and `AutoTokenizer` load.

use super::model::{self, model_error};
use super::{Context, Output};
use crate::error::Result;
use crate::manifest::kinds::Options;
use crate::store::FragmentRecord;
use crate::store::durable::write_file;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trainer::export::{SpecialIds, hf_files};

/// Options of an `export` stage: none yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExportConfig {}

impl Options for ExportConfig {}

/// Runs the stage.
pub fn run(context: &Context<'_>, _: &ExportConfig) -> Result<Output> {
    let (model, tokenizer) = model::load(context.reference("model").expect("the manifest check asks for it"))?;
    let end = tokenizer.special_id("<|end|>");
    let eos = [Some(tokenizer.eot_id()), end].into_iter().flatten().collect();
    let special = SpecialIds { bos: None, eos, pad: Some(tokenizer.eot_id()) };
    let mut files = hf_files(&model, &special).map_err(model_error)?;
    files.push((super::tokenizer::TOKENIZER.to_string(), tokenizer.to_json()));
    files.extend(tokenizer.hf_config_files());
    let fragments = context.fragments("", 1, |_| {
        let mut record = FragmentRecord::default();
        for (name, bytes) in &files {
            record.files.push(write_file(&context.out.path, name, bytes)?);
        }
        record.add("parameters", model.n_params() as u64);
        Ok(record)
    })?;
    let bytes: u64 = fragments[0].files.iter().map(|f| f.bytes).sum();
    Ok(Output {
        fragments,
        note: format!("{} files, {}", files.len(), crate::progress::size(bytes)),
        ..Output::default()
    })
}
