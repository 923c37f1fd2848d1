//! Presets and other libraries' models against goldens of transformers and torch (tests/parity/make_family.py): logits and
//! every gradient; then export and back.

use super::*;
use crate::export::{SpecialIds, hf_files};
use crate::tape::{Ctx, backward, forward, score};
use crate::{Batch, TokenGrad};

const PRESETS: [&str; 11] = [
    "gpt2",
    "llama3",
    "llama_yarn",
    "llama_linear",
    "qwen2",
    "qwen3",
    "mistral",
    "olmo2",
    "smollm3",
    "gemma2",
    "gemma3",
];

/// Models that no preset loads, by our own options.
const OTHERS: [&str; 3] = ["neox", "post_norm", "bigcode"];

struct Golden {
    facts: Value,
    tensors: BTreeMap<String, Tensor>,
    ids: Vec<u32>,
    targets: Vec<u32>,
}

fn golden(name: &str) -> Golden {
    let read = |ending: &str| {
        let path = format!("{}/../tests/parity/goldens/family/{name}.{ending}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    };
    let bytes = read("safetensors");
    let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let integers = |key: &str| {
        let view = parsed.tensor(key).unwrap();
        view.data().as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w)).collect::<Vec<_>>()
    };
    let (ids, targets) = (integers("ids"), integers("targets"));
    let floats = parsed.iter().filter(|(_, view)| view.dtype() == safetensors::Dtype::F32);
    let tensors = floats.map(|(key, view)| {
        let tensor = Tensor::from_raw_buffer(view.data(), DType::F32, view.shape(), &Device::Cpu).unwrap();
        (key.to_owned(), tensor)
    });
    Golden { facts: serde_json::from_slice(&read("json")).unwrap(), tensors: tensors.collect(), ids, targets }
}

impl Golden {
    fn named(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let named = self.tensors.iter().filter_map(|(key, tensor)| Some((key.strip_prefix(prefix)?, tensor)));
        named.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect()
    }

    fn model(&self) -> Model {
        match self.facts.get("family") {
            Some(family) => {
                let config = serde_json::from_value(family.clone()).unwrap();
                Model::from_tensors(config, self.named("weight.")).unwrap()
            }
            None => from_parts(&self.facts["config"], self.named("weight.")).unwrap(),
        }
    }

    fn batch(&self) -> Batch {
        Batch::from_rows(2, 24, self.ids.clone(), self.targets.clone()).unwrap()
    }

    /// Gradients by our names: the renaming of weights is linear but for Gemma's gains, which only shift.
    fn gradients(&self) -> BTreeMap<String, Tensor> {
        let theirs = self.named("grad.");
        if self.facts.get("family").is_some() {
            return theirs;
        }
        let (preset, config) = read_config(&self.facts["config"]).unwrap();
        let plain = if preset.gains_from_zero() { Preset::Llama } else { preset };
        weights::to_ours(plain, &config, theirs).unwrap()
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// `|got - want| / |want|`, the length at least `floor`.
fn distance(got: &[f32], want: &[f32], floor: f64) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(want).map(|(a, b)| f64::from(a - b)))
        / norm(&mut want.iter().map(|b| f64::from(*b))).max(floor)
}

/// Logits of every position from log-prob and logsumexp of each target.
fn logits(model: &Model, batch: &Batch) -> Vec<f32> {
    let vocab_size = model.config().vocab_size;
    let mut out = vec![0.0; batch.len() * vocab_size];
    for id in 0..vocab_size {
        let stats = score(model, &Batch { targets: vec![id as u32; batch.len()], ..batch.clone() }).unwrap();
        for at in 0..batch.len() {
            out[at * vocab_size + id] = stats.logprob[at] + stats.logsumexp[at];
        }
    }
    out
}

#[test]
fn logits_and_every_gradient_equal_those_of_transformers_and_torch() {
    for name in PRESETS.into_iter().chain(OTHERS) {
        let golden = golden(name);
        let (model, batch) = (golden.model(), golden.batch());
        let (got, want) = (logits(&model, &batch), values(&golden.tensors["logits"]));
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-5, "{name}: logits off by {worst}");
        let ctx = Ctx::new(&model, &batch).unwrap();
        let (stats, saved) = forward(&ctx).unwrap();
        let d_logprob = vec![-1.0 / stats.logprob.len() as f32; stats.logprob.len()];
        let gradients = backward(&ctx, saved, TokenGrad { d_logprob, d_entropy: None }).unwrap().0;
        let expected = golden.gradients();
        assert_eq!(expected.len(), gradients.len(), "{name}");
        for (parameter, got) in model.names().iter().zip(&gradients) {
            if parameter.ends_with("k_proj.bias") && ["gpt2", "post_norm", "bigcode"].contains(&name) {
                continue; // 0 but for rounding: what is added to all keys alike changes no weight
            }
            let apart = distance(got, &values(&expected[parameter]), 1e-4);
            assert!(apart <= 1e-5, "{name}: gradient of {parameter} at {apart:.1e}");
        }
    }
}

#[test]
fn export_and_back_gives_the_class_the_configuration_and_the_logits() {
    for name in PRESETS {
        let golden = golden(name);
        let (model, batch) = (golden.model(), golden.batch());
        let dir = tempfile::tempdir().unwrap();
        for (file, bytes) in hf_files(&model, &SpecialIds::default()).unwrap() {
            std::fs::write(dir.path().join(file), bytes).unwrap();
        }
        let written: Value = serde_json::from_slice(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap();
        assert_eq!(written["model_type"], golden.facts["config"]["model_type"], "{name}");
        let again = read_dir(dir.path()).unwrap();
        assert_eq!(canonical(again.config()), canonical(model.config()), "{name}");
        let apart = distance(&logits(&again, &batch), &values(&golden.tensors["logits"]), 1e-12);
        assert!(apart <= 1e-5, "{name}: {apart}");
        let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
        let stored = read_safetensors(&bytes).unwrap();
        let theirs = golden.named("weight.");
        assert_eq!(stored.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{name}");
        for (key, tensor) in theirs {
            assert!(distance(&values(&stored[&key]), &values(&tensor), 1e-12) < 1e-6, "{name}: {key}");
        }
    }
}

#[test]
fn a_checkpoint_keeps_the_family() {
    for name in PRESETS.into_iter().chain(OTHERS) {
        let model = golden(name).model();
        let dir = tempfile::tempdir().unwrap();
        for (file, bytes) in crate::checkpoint::encode_model(&model).unwrap() {
            std::fs::write(dir.path().join(file), bytes).unwrap();
        }
        let again = crate::checkpoint::decode_model(dir.path()).unwrap();
        assert_eq!(again.config(), model.config(), "{name}");
    }
}

#[test]
fn a_configuration_that_no_class_has_is_refused_and_so_are_fields_we_do_not_compute() {
    let odd = Family { placement: crate::family::Placement::Post, ..Family::default() };
    let error = preset_of(&ModelConfig { family: odd, ..ModelConfig::default() }).unwrap_err().to_string();
    assert!(error.contains("no class of transformers"), "{error}");
    for name in OTHERS {
        assert!(preset_of(golden(name).model().config()).is_err(), "{name}");
    }
    let base = golden("llama3").facts["config"].clone();
    for (field, value) in [
        ("hidden_act", serde_json::json!("relu")),
        ("model_type", serde_json::json!("mamba")),
        ("hidden_size", serde_json::json!("wide")),
        ("rope_parameters", serde_json::json!({ "rope_type": "dynamic", "factor": 2.0, "rope_theta": 10.0 })),
    ] {
        let mut config = base.clone();
        config[field] = value;
        let error = read_config(&config).unwrap_err().to_string();
        assert!(error.contains(if field == "rope_parameters" { "rope_type" } else { field }), "{error}");
    }
}

#[test]
fn fields_of_transformers_4_mean_the_same() {
    let golden = golden("llama3");
    let mut old = golden.facts["config"].clone();
    let rope = old["rope_parameters"].clone();
    old.as_object_mut().unwrap().remove("rope_parameters");
    old["rope_theta"] = rope["rope_theta"].clone();
    old["rope_scaling"] = rope;
    assert_eq!(read_config(&old).unwrap(), read_config(&golden.facts["config"]).unwrap());
}
