//! A Hugging Face folder as the start of a training stage: `config.json`, safetensors and `tokenizer.json`.
//!
//! The tokenizer must be the one of the shards, token for token. Weights often have rows for more ids than their tokenizer has (to
//! a round number); those rows are left out, so the model's vocabulary is that of the shards.

use super::tokenizer::TOKENIZER;
use crate::error::{Error, Result};
use crate::manifest::kinds::OptionFault;
use crate::source::files::Asset;
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::path::Path;
use tokenizer::Tokenizer;
use trainer::{Model, ModelConfig};

const CONFIG: &str = "config.json";

/// The files of a folder that a stage with `from` reads, by the name their digest has in its key.
pub fn files(folder: &Path) -> std::result::Result<Vec<(String, Asset)>, OptionFault> {
    let fault = |what: String| OptionFault {
        key: "from".into(),
        message: what,
        hint: Some(
            "expected a folder with config.json, *.safetensors and tokenizer.json, relative to the manifest".into(),
        ),
    };
    let entries =
        std::fs::read_dir(folder).map_err(|e| fault(format!("`from`: cannot read {}: {e}", folder.display())))?;
    let mut names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|n| n.ends_with(".safetensors") || n.ends_with(".safetensors.index.json"));
    if names.is_empty() {
        return Err(fault(format!("`from`: {} has no safetensors", folder.display())));
    }
    names.extend([CONFIG.to_string(), TOKENIZER.to_string()]);
    names.sort();
    Ok(names.into_iter().map(|n| (format!("from {n}"), Asset::Local(folder.join(n)))).collect())
}

/// What `config.json` of a folder says.
pub fn config(folder: &Path) -> Result<ModelConfig> {
    let path = folder.join(CONFIG);
    let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let value =
        serde_json::from_slice(&bytes).map_err(|e| Error::InputData(format!("{} is no JSON: {e}", path.display())))?;
    let (_, config) =
        trainer::hf::read_config(&value).map_err(|e| Error::InputData(format!("{}: {e}", path.display())))?;
    Ok(config)
}

/// The model of a folder as `config`, which is the folder's but for what training alone reads and for its vocabulary: the ids of
/// `tokenizer`, which must be the folder's own.
pub fn model(folder: &Path, tokenizer: &Tokenizer, config: ModelConfig) -> Result<Model> {
    let path = folder.join(TOKENIZER);
    let own = Tokenizer::load(&path).map_err(|e| Error::InputData(format!("cannot read {}: {e}", path.display())))?;
    same(&own, tokenizer).map_err(|what| {
        Error::InputData(format!(
            "{} is not the tokenizer of the shards: {what}\nhint: make the shards with  kind = \"tokenizer\", file = \"{}\"",
            path.display(),
            path.display()
        ))
    })?;
    let model = trainer::hf::read_dir(folder).map_err(|e| Error::InputData(format!("{}: {e}", folder.display())))?;
    cut(&model, config).map_err(|what| Error::InputData(format!("{}: {what}", folder.display())))
}

fn same(own: &Tokenizer, shards: &Tokenizer) -> std::result::Result<(), String> {
    if own.vocab_size() != shards.vocab_size() {
        return Err(format!("it has {} ids, that of the shards {}", own.vocab_size(), shards.vocab_size()));
    }
    let id = (0..own.vocab_size() as u32).find(|id| own.token_bytes(*id) != shards.token_bytes(*id));
    if let Some(id) = id {
        return Err(format!("id {id} is {:?}, in the shards {:?}", own.token_name(id), shards.token_name(id)));
    }
    if own.to_json() != shards.to_json() {
        return Err("the ids are the same, but merges, splitting or special tokens are not".into());
    }
    Ok(())
}

/// The model with rows for the ids of `config` alone.
fn cut(model: &Model, config: ModelConfig) -> std::result::Result<Model, String> {
    let (rows, ids) = (model.config().vocab_size, config.vocab_size);
    if rows < ids {
        return Err(format!("its weights have rows for {rows} ids, its tokenizer has {ids}"));
    }
    let whole: BTreeMap<&str, &Tensor> = model.params().collect();
    let narrowed = config.parameters().into_iter().map(|(name, shape)| {
        let tensor =
            whole.get(name.as_str()).copied().expect("the same parameters because only the vocabulary differs");
        let tensor = if tensor.dims() == shape { Ok(tensor.clone()) } else { tensor.narrow(0, 0, ids) };
        Ok((name, tensor?))
    });
    let narrowed = narrowed.collect::<candle_core::Result<_>>().map_err(|e| e.to_string())?;
    Model::from_tensors(config, narrowed).map_err(|e| e.to_string())
}

/// A fault of the rows' length: the folder's model has positions for so many tokens.
pub fn check_length(folder: &Path, sequence_len: usize) -> std::result::Result<(), OptionFault> {
    if !folder.join(CONFIG).is_file() {
        return Ok(()); // said as a missing file
    }
    let config = config(folder).map_err(|e| OptionFault::new("from", e.to_string()))?;
    if sequence_len > config.sequence_len {
        let what = format!(
            "expected at most {}, the positions of the model in `from`, got {sequence_len}",
            config.sequence_len
        );
        return Err(OptionFault::new("sequence_len", what));
    }
    Ok(())
}
