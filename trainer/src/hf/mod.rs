//! Models of Hugging Face's `transformers`: which of its classes says what a configuration of ours says, and reading one.
//!
//! In: a folder with `config.json` and safetensors, or their contents. Out: a [`Model`]; for the way back `export` asks
//! [`preset_of`]. A class can say a configuration if and only if writing it and reading it again gives the same, so nothing
//! is lost without an error. `config` holds the fields, `weights` the names.

mod config;
#[cfg(test)]
mod tests;
pub(crate) mod weights;

pub(crate) use config::write;

use crate::family::{Family, RopeScaling};
use crate::{Error, Model, ModelConfig, Result};
use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Classes of `transformers` that we read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// `LlamaForCausalLM`, Llama 3.1's wavelengths included.
    Llama,
    /// `MistralForCausalLM`: a sliding window in every layer.
    Mistral,
    /// `Qwen2ForCausalLM`: biases of queries, keys and values.
    Qwen2,
    /// `Qwen3ForCausalLM`: norms of queries and keys.
    Qwen3,
    /// `SmolLM3ForCausalLM`: some layers without rotation.
    SmolLm3,
    /// `Olmo2ForCausalLM`: norms of what is added.
    Olmo2,
    /// `Gemma2ForCausalLM`: sandwich norms, GeGLU, soft caps, alternating windows.
    Gemma2,
    /// `Gemma3ForCausalLM` (text): norms of queries and keys, two rotary bases.
    Gemma3,
    /// `GPT2LMHeadModel`.
    Gpt2,
}

impl Preset {
    /// In the order in which [`preset_of`] tries them.
    pub const ALL: [Self; 9] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::SmolLm3,
        Self::Olmo2,
        Self::Gemma2,
        Self::Gemma3,
        Self::Gpt2,
    ];

    /// `model_type` of `config.json` and the class's name.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Llama => ("llama", "LlamaForCausalLM"),
            Self::Mistral => ("mistral", "MistralForCausalLM"),
            Self::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
            Self::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
            Self::SmolLm3 => ("smollm3", "SmolLM3ForCausalLM"),
            Self::Olmo2 => ("olmo2", "Olmo2ForCausalLM"),
            Self::Gemma2 => ("gemma2", "Gemma2ForCausalLM"),
            Self::Gemma3 => ("gemma3_text", "Gemma3ForCausalLM"),
            Self::Gpt2 => ("gpt2", "GPT2LMHeadModel"),
        }
    }

    /// True for Gemma, whose gains are stored less 1.
    pub fn gains_from_zero(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }
}

/// The class that computes what a model of `config` computes.
pub fn preset_of(config: &ModelConfig) -> Result<Preset> {
    let wanted = canonical(config);
    let says = |preset: &Preset| {
        let written = Value::Object(write(*preset, &wanted));
        config::read(&written).is_ok_and(|(found, read)| found == *preset && canonical(&read) == wanted)
    };
    Preset::ALL.into_iter().find(says).ok_or_else(|| {
        let known = Preset::ALL.map(|preset| preset.names().0).join(", ");
        Error::Format(format!(
            "no class of transformers has this architecture (asked: {known}): {:?}; export the checkpoint as it is, or \
             train with the options of one of these",
            config.family
        ))
    })
}

/// The same model with every default written out, and without what only training reads.
fn canonical(config: &ModelConfig) -> ModelConfig {
    let family = &config.family;
    let banded = matches!(family.rope_scaling, RopeScaling::Llama3 | RopeScaling::Yarn);
    let letters = (0..config.n_layer).map(|l| char::from(family.letter(l))).collect::<String>();
    let scale = family.attention_scale.unwrap_or(1.0 / (config.head_dim() as f64).sqrt());
    let filled = Family {
        layers: letters,
        head_dim: Some(config.head_dim()),
        attention_scale: Some(f64::from(scale as f32)),
        embedding_scale: f64::from(family.embedding_scale as f32),
        rope_original_len: banded.then(|| family.original_len(config.sequence_len) as usize),
        rope_fast_turns: banded.then(|| family.fast_turns()),
        dropout: 0.0,
        z_loss: 0.0,
        ..family.clone()
    };
    ModelConfig { family: filled, ..config.clone() }
}

/// The model in folder `dir`: `config.json` and `model.safetensors`, or the shards that `model.safetensors.index.json` names.
pub fn read_dir(dir: &Path) -> Result<Model> {
    let path = dir.join("config.json");
    let fault = |path: &Path, what: String| Error::Format(format!("{}: {what}", path.display()));
    let read = |path: &Path| std::fs::read(path).map_err(|e| fault(path, e.to_string()));
    let json =
        |path: &Path| -> Result<Value> { serde_json::from_slice(&read(path)?).map_err(|e| fault(path, e.to_string())) };
    let config = json(&path)?;
    let index = dir.join("model.safetensors.index.json");
    let mut files = vec!["model.safetensors".to_owned()];
    if index.is_file() {
        let map = json(&index)?;
        let names = map["weight_map"].as_object().ok_or_else(|| fault(&index, "no `weight_map`".into()))?;
        files = names.values().filter_map(|file| file.as_str().map(str::to_owned)).collect();
        files.sort();
        files.dedup();
    }
    let mut tensors = BTreeMap::new();
    for file in files {
        let path = dir.join(file);
        tensors.extend(read_safetensors(&read(&path)?).map_err(|e| fault(&path, e.to_string()))?);
    }
    from_parts(&config, tensors)
}

/// The model of a parsed `config.json` and its tensors by Hugging Face name.
pub fn from_parts(config: &Value, tensors: BTreeMap<String, Tensor>) -> Result<Model> {
    let (preset, config) = config::read(config)?;
    config.check()?;
    let named = weights::to_ours(preset, &config, tensors)?;
    Model::from_tensors(config, named)
}

/// Class and configuration of a parsed `config.json`.
pub fn read_config(config: &Value) -> Result<(Preset, ModelConfig)> {
    config::read(config)
}

/// Tensors of a safetensors file as f32; f16, bf16 and f32 are read.
fn read_safetensors(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>> {
    let parsed = safetensors::SafeTensors::deserialize(bytes).map_err(|e| Error::Format(e.to_string()))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in parsed.iter() {
        let kind = match view.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            other => return Err(Error::Format(format!("tensor `{name}` is {other}, expected F32, F16 or BF16"))),
        };
        let tensor = Tensor::from_raw_buffer(view.data(), kind, view.shape(), &Device::Cpu)?;
        tensors.insert(name.to_owned(), tensor.to_dtype(DType::F32)?);
    }
    Ok(tensors)
}

/// Fields of a JSON object.
pub(crate) type Fields = Map<String, Value>;
