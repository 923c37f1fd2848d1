//! The exported Hugging Face folder against the golden model it was made from.
//!
//! Here: config.json means the same, weights are bit-equal, our logits are transformers' logits. The folders stay under
//! `target/tmp/parity-export`, each with `logits.safetensors`, for `check_export.py` to open with transformers itself.

use super::golden::{Golden, close, wide};
use candle_core::{Device, Tensor};
use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tokenizer::{Tokenizer, TokenizerConfig};
use trainer::export::{SpecialIds, hf_files};
use trainer::tape::score;
use trainer::{Batch, Model, ModelConfig};

/// Keys that decide what a Llama computes; config.json must have each with the golden's value.
const MEANING: [&str; 15] = [
    "vocab_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_size",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "hidden_act",
    "attention_bias",
    "mlp_bias",
    "model_type",
];

fn file<'a>(files: &'a [(String, Vec<u8>)], name: &str) -> &'a [u8] {
    &files.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}")).1
}

/// Logits of every position, `[b, t, v]`, from log-prob and logsumexp of each possible target.
fn logits(model: &Model, batch: &Batch) -> Vec<f32> {
    let vocab_size = model.config().vocab_size;
    let mut out = vec![0.0; batch.len() * vocab_size];
    for id in 0..vocab_size {
        let (targets, loss_mask) = (vec![id as u32; batch.len()], vec![1.0; batch.len()]);
        let stats = score(model, &Batch { targets, loss_mask, ..batch.clone() }).unwrap();
        for at in 0..batch.len() {
            out[at * vocab_size + id] = stats.logprob[at] + stats.logsumexp[at];
        }
    }
    out
}

fn bytes_of<T: Copy>(values: &[T], bytes: impl Fn(T) -> [u8; 4]) -> Vec<u8> {
    values.iter().flat_map(|&v| bytes(v)).collect()
}

/// The export with the numbers that transformers shall find again.
fn write(name: &str, files: &[(String, Vec<u8>)], model: &Model, batch: &Batch, text: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("parity-export").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    let (b, t, v) = (batch.b, batch.t, model.config().vocab_size);
    let ids = bytes_of(&batch.ids, u32::to_le_bytes);
    let logits = bytes_of(&logits(model, batch), f32::to_le_bytes);
    let tensors = [
        ("ids", TensorView::new(Dtype::U32, vec![b, t], &ids).unwrap()),
        ("logits", TensorView::new(Dtype::F32, vec![b, t, v], &logits).unwrap()),
    ];
    let text = std::collections::HashMap::from([("text".to_owned(), text.to_owned())]);
    std::fs::write(folder.join("logits.safetensors"), serialize(tensors, Some(text)).unwrap()).unwrap();
    folder
}

#[test]
fn the_exported_folder_means_the_golden_model() {
    for name in ["forward_tied", "forward_untied"] {
        let golden = Golden::load(name);
        let model = golden.model();
        let files = hf_files(&model, &SpecialIds { bos: None, eos: vec![1], pad: None }).unwrap();
        let config: Value = serde_json::from_slice(file(&files, "config.json")).unwrap();
        assert_eq!(config["architectures"], serde_json::json!(["LlamaForCausalLM"]));
        for key in MEANING {
            assert_eq!(config[key], golden.facts["config"][key], "{name}: {key}");
        }
        let weights = SafeTensors::deserialize(file(&files, "model.safetensors")).unwrap();
        let golden_weights = golden.named("weight.");
        assert_eq!(weights.len(), golden_weights.len());
        for key in golden_weights.keys() {
            let view = weights.tensor(key).unwrap();
            let stored = golden.f32(&format!("weight.{key}"));
            assert_eq!((view.dtype(), view.shape()), (Dtype::F32, golden_weights[key].dims()));
            assert_eq!(view.data(), bytes_of(stored, f32::to_le_bytes), "{name}: {key}");
        }
        let batch = golden.batch("batch");
        write(name, &files, &model, &batch, "");
        let ours = logits(&model, &batch);
        let counted = |values: &[f32]| {
            let rows = values.chunks(model.config().vocab_size).zip(&batch.loss_mask);
            rows.filter(|(_, m)| **m != 0.0).flat_map(|(row, _)| wide(row)).collect::<Vec<_>>()
        };
        let apart = close("logits", &counted(&ours), &counted(golden.f32("logits")), 1e-4).unwrap();
        println!("{name}: logits at a relative distance of {apart:.1e}");
    }
}

#[test]
fn weights_read_back_from_the_export_give_the_same_bits() {
    let golden = Golden::load("forward_untied");
    let (model, batch) = (golden.model(), golden.batch("batch"));
    let files = hf_files(&model, &SpecialIds::default()).unwrap();
    let parsed = SafeTensors::deserialize(file(&files, "model.safetensors")).unwrap();
    let tensor = |view: &TensorView<'_>| {
        let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|w| f32::from_le_bytes(*w)).collect();
        Tensor::from_vec(values, view.shape(), &Device::Cpu).unwrap()
    };
    let named: BTreeMap<_, _> = parsed.tensors().iter().map(|(name, view)| (name.clone(), tensor(view))).collect();
    let again = Model::from_tensors(golden.config(), named).unwrap();
    assert_eq!(score(&again, &batch).unwrap(), score(&model, &batch).unwrap());
}

/// Trained on these two lines; small, and with letters beyond Latin.
fn small_tokenizer() -> (Tokenizer, String) {
    let text =
        "The mill grinds 12 sacks of grain, and 7 of rye.\nDie Mühle mahlt; мельница мелет; 水車が回る。 ".repeat(4);
    let config = TokenizerConfig { vocab_size: 300, ..TokenizerConfig::default() };
    let counts = tokenizer::count_all(&[text.as_str()], &config.splitter().unwrap());
    (tokenizer::train(&counts, &config).unwrap(), text)
}

#[test]
fn a_folder_with_its_tokenizer_is_complete() {
    let (tokenizer, text) = small_tokenizer();
    let config = ModelConfig {
        vocab_size: tokenizer.vocab_size(),
        n_layer: 2,
        n_head: 4,
        n_kv_head: 2,
        n_embd: 32,
        n_ffn: 48,
        sequence_len: 256,
        ..ModelConfig::default()
    };
    let model = Model::init(config, 11).unwrap();
    let ids = tokenizer.encode(&text);
    assert_eq!(tokenizer.decode(&ids), text);
    let batch = Batch::from_rows(1, ids.len(), ids.clone(), ids).unwrap();
    let end = tokenizer.eot_id();
    let mut files = hf_files(&model, &SpecialIds { bos: None, eos: vec![end], pad: Some(end) }).unwrap();
    files.push(("tokenizer.json".to_owned(), tokenizer.to_json()));
    files.extend(tokenizer.hf_config_files().into_iter().map(|(name, bytes)| (name.to_string(), bytes)));
    let folder = write("tokenizer", &files, &model, &batch, &text);
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
}
