//! A model as a Hugging Face folder: what `AutoModelForCausalLM.from_pretrained` opens as it is.
//!
//! In: a model and the ids of its special tokens. Out: `config.json` of the class that computes the same (`hf`; the plain
//! model is a `LlamaForCausalLM`), `model.safetensors` (f32, metadata `format = pt`, a tied matrix once) and
//! `generation_config.json` as bytes; the caller writes them and adds the tokenizer's files.

use crate::checkpoint::safetensors_bytes;
use crate::hf::{self, preset_of};
use crate::{Model, Result};
use serde_json::{Map, Value, json};

/// Token ids that generation libraries ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begin of sequence, if the tokenizer has one.
    pub bos: Option<u32>,
    /// Tokens that end generation; the first is the end-of-text token.
    pub eos: Vec<u32>,
    /// Padding, if the tokenizer has one.
    pub pad: Option<u32>,
}

impl SpecialIds {
    fn write(&self, map: &mut Map<String, Value>) {
        let eos = match self.eos.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        };
        map.insert("bos_token_id".into(), json!(self.bos));
        map.insert("eos_token_id".into(), eos);
        map.insert("pad_token_id".into(), json!(self.pad));
    }
}

/// File names and bytes of the folder; an error if no class of `transformers` has this architecture.
pub fn hf_files(model: &Model, special: &SpecialIds) -> Result<Vec<(String, Vec<u8>)>> {
    let preset = preset_of(model.config())?;
    let mut config = hf::write(preset, model.config());
    special.write(&mut config);
    let weights = hf::weights::to_theirs(preset, model)?;
    Ok(vec![
        ("config.json".into(), pretty(config)),
        ("generation_config.json".into(), pretty(generation_config(special))),
        ("model.safetensors".into(), safetensors_bytes(weights.iter().map(|(name, tensor)| (name.clone(), tensor)))?),
    ])
}

fn generation_config(special: &SpecialIds) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("_from_model_config".into(), json!(true));
    special.write(&mut map);
    map
}

fn pretty(map: Map<String, Value>) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(&map).expect("a map with string keys is always JSON");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelConfig;

    fn files(tied: bool) -> Vec<(String, Vec<u8>)> {
        let config = ModelConfig { vocab_size: 11, n_layer: 2, n_embd: 8, n_ffn: 12, tied, ..ModelConfig::default() };
        let special = SpecialIds { bos: None, eos: vec![0, 4], pad: Some(0) };
        hf_files(&Model::init(config, 5).unwrap(), &special).unwrap()
    }

    #[test]
    fn the_config_has_every_size_that_llama_needs() {
        let files = files(true);
        assert_eq!(files[0].0, "config.json");
        let config: Value = serde_json::from_slice(&files[0].1).unwrap();
        for (key, expected) in [
            ("model_type", json!("llama")),
            ("hidden_size", json!(8)),
            ("intermediate_size", json!(12)),
            ("num_attention_heads", json!(4)),
            ("num_key_value_heads", json!(2)),
            ("head_dim", json!(2)),
            ("rms_norm_eps", json!(1e-5)),
            ("rope_theta", json!(10_000.0)),
            ("tie_word_embeddings", json!(true)),
            ("eos_token_id", json!([0, 4])),
            ("bos_token_id", Value::Null),
        ] {
            assert_eq!(config[key], expected, "{key}");
        }
    }

    #[test]
    fn a_tied_matrix_is_stored_once_and_an_untied_one_separately() {
        for (tied, heads) in [(true, 0), (false, 1)] {
            let files = files(tied);
            let (_, bytes) = files.iter().find(|(name, _)| name == "model.safetensors").unwrap();
            let (_, metadata) = safetensors::SafeTensors::read_metadata(bytes).unwrap();
            assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
            let parsed = safetensors::SafeTensors::deserialize(bytes).unwrap();
            assert_eq!(parsed.names().iter().filter(|n| **n == "lm_head.weight").count(), heads);
            assert_eq!(parsed.len(), 1 + 2 * 9 + 1 + heads);
            assert_eq!(parsed.tensor("model.layers.1.mlp.down_proj.weight").unwrap().shape(), [8, 12]);
        }
    }
}
