//! Golden files and distances.
//!
//! In: `goldens/NAME.safetensors` (f32 and u32 tensors) and `goldens/NAME.json` (settings and scalars). Out: models,
//! batches, numbers. A comparison returns its distance or a message, so that a test can also ask for a failure.

use candle_core::{Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use trainer::{Batch, Model, ModelConfig};

/// Largest relative L2 distance of a vector of log-probs or of a gradient tensor.
pub const TOLERANCE: f64 = 1e-5;

/// One golden case.
pub struct Golden {
    tensors: BTreeMap<String, (Vec<usize>, Numbers)>,
    pub facts: Value,
}

enum Numbers {
    F32(Vec<f32>),
    U32(Vec<u32>),
}

impl Golden {
    /// The committed case `name`.
    pub fn load(name: &str) -> Self {
        let read = |ending: &str| {
            let path = format!("{}/../tests/parity/goldens/{name}.{ending}", env!("CARGO_MANIFEST_DIR"));
            std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
        };
        let facts = serde_json::from_slice(&read("json")).unwrap();
        let bytes = read("safetensors");
        let parsed = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = parsed.tensors().into_iter().map(|(key, view)| {
            let words = view.data().as_chunks::<4>().0.iter();
            let numbers = match view.dtype() {
                Dtype::F32 => Numbers::F32(words.map(|w| f32::from_le_bytes(*w)).collect()),
                Dtype::U32 => Numbers::U32(words.map(|w| u32::from_le_bytes(*w)).collect()),
                other => panic!("{name}: {key} is {other:?}"),
            };
            (key, (view.shape().to_vec(), numbers))
        });
        Self { tensors: tensors.collect(), facts }
    }

    /// Shape of a tensor.
    pub fn shape(&self, key: &str) -> &[usize] {
        &self.entry(key).0
    }

    /// An f32 tensor, row-major.
    pub fn f32(&self, key: &str) -> &[f32] {
        match &self.entry(key).1 {
            Numbers::F32(values) => values,
            Numbers::U32(_) => panic!("{key} holds integers"),
        }
    }

    fn u32(&self, key: &str) -> Vec<u32> {
        match &self.entry(key).1 {
            Numbers::U32(values) => values.clone(),
            Numbers::F32(_) => panic!("{key} holds floats"),
        }
    }

    fn entry(&self, key: &str) -> &(Vec<usize>, Numbers) {
        self.tensors.get(key).unwrap_or_else(|| panic!("the golden has no tensor {key}"))
    }

    /// A number of the manifest; `at` is a JSON pointer.
    pub fn number(&self, at: &str) -> f64 {
        self.facts.pointer(at).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {at}"))
    }

    /// Numbers of the manifest.
    pub fn numbers(&self, at: &str) -> Vec<f64> {
        let list = self.facts.pointer(at).and_then(Value::as_array).unwrap_or_else(|| panic!("no list at {at}"));
        list.iter().map(|v| v.as_f64().unwrap()).collect()
    }

    /// Tensors whose name starts with `prefix`, without it.
    pub fn named(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let keys = self.tensors.keys().filter_map(|key| Some((key.strip_prefix(prefix)?.to_owned(), key)));
        keys.map(|(name, key)| (name, Tensor::from_slice(self.f32(key), self.shape(key), &Device::Cpu).unwrap()))
            .collect()
    }

    /// The batch stored under `prefix`.
    pub fn batch(&self, prefix: &str) -> Batch {
        let key = |column: &str| format!("{prefix}.{column}");
        let &[b, t] = self.shape(&key("ids")) else { panic!("ids have two axes") };
        Batch {
            b,
            t,
            ids: self.u32(&key("ids")),
            targets: self.u32(&key("targets")),
            positions: self.u32(&key("positions")),
            doc_starts: self.u32(&key("doc_starts")),
            loss_mask: self.f32(&key("loss_mask")).to_vec(),
        }
    }

    /// Sizes from the Hugging Face config in the manifest.
    pub fn config(&self) -> ModelConfig {
        let size = |key: &str| self.number(&format!("/config/{key}")) as usize;
        ModelConfig {
            vocab_size: size("vocab_size"),
            n_layer: size("num_hidden_layers"),
            n_head: size("num_attention_heads"),
            n_kv_head: size("num_key_value_heads"),
            n_embd: size("hidden_size"),
            n_ffn: size("intermediate_size"),
            sequence_len: size("max_position_embeddings"),
            rope_theta: self.number("/config/rope_parameters/rope_theta"),
            norm_eps: self.number("/config/rms_norm_eps"),
            tied: self.facts["config"]["tie_word_embeddings"].as_bool().unwrap(),
            ..ModelConfig::default()
        }
    }

    /// The model whose weights are stored under `weight.`.
    pub fn model(&self) -> Model {
        Model::from_tensors(self.config(), self.named("weight.")).unwrap()
    }
}

/// `|got - want| / |want|` in the Euclidean norm, sums in f64.
pub fn distance(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let apart = norm(&mut got.iter().zip(want).map(|(a, b)| a - b));
    apart / norm(&mut want.iter().copied()).max(1e-30)
}

/// [`distance`] if it is at most `tolerance` (a NaN is not).
pub fn close(what: &str, got: &[f64], want: &[f64], tolerance: f64) -> Result<f64, String> {
    let apart = distance(got, want);
    if apart <= tolerance { Ok(apart) } else { Err(format!("{what}: relative distance {apart:.2e} > {tolerance:.0e}")) }
}

/// [`close`] for two numbers.
pub fn near(what: &str, got: f64, want: f64, tolerance: f64) -> Result<f64, String> {
    close(what, &[got], &[want], tolerance).map_err(|e| format!("{e} ({got} instead of {want})"))
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// Every tensor of `want` against the one of the same name in `got`; the largest distance, or all that are too far.
pub fn tensors_close(
    got: &BTreeMap<String, Tensor>,
    want: &BTreeMap<String, Tensor>,
    tolerance: f64,
) -> Result<f64, String> {
    let values = |t: &Tensor| wide(&t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    let names = |map: &BTreeMap<String, Tensor>| map.keys().cloned().collect::<Vec<_>>();
    if names(got) != names(want) {
        return Err(format!("names differ: {:?} instead of {:?}", names(got), names(want)));
    }
    let (mut worst, mut faults) = (0.0_f64, Vec::new());
    for (name, expected) in want {
        match close(name, &values(&got[name]), &values(expected), tolerance) {
            Ok(apart) => worst = worst.max(apart),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(worst) } else { Err(faults.join("\n")) }
}

/// The same rows in micro-batches of at most `rows` rows.
pub fn split(batch: &Batch, rows: usize) -> Vec<Batch> {
    let cut = |from: usize| {
        let b = rows.min(batch.b - from);
        let range = from * batch.t..(from + b) * batch.t;
        Batch {
            b,
            t: batch.t,
            ids: batch.ids[range.clone()].to_vec(),
            targets: batch.targets[range.clone()].to_vec(),
            positions: batch.positions[range.clone()].to_vec(),
            doc_starts: batch.doc_starts[range.clone()].to_vec(),
            loss_mask: batch.loss_mask[range].to_vec(),
        }
    };
    (0..batch.b).step_by(rows).map(cut).collect()
}
