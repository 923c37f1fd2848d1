//! What a model is: its sizes and its named weights.
//!
//! In: a configuration and a seed, or tensors by name. Out: an immutable [`Model`] value; training makes a new value per
//! step, so a clone is a cheap snapshot (tensors are shared, never written). How weights are walked is `tape`'s
//! business. What a layer is made of is `family`'s, the names and order of parameters `layout`'s.

use crate::family::Family;
use crate::layout::{self, Layout, Part};
use crate::ops::attention::Heads;
use crate::ops::linear::Packed;
use crate::ops::{Scalar, View, view};
use crate::rng::Key;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Sizes and architecture of a decoder-only Transformer; by default RMSNorm, rotary positions, grouped-query attention,
/// SwiGLU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Number of token ids; must equal the tokenizer's.
    pub vocab_size: usize,
    /// Transformer layers.
    pub n_layer: usize,
    /// Query heads; unless `head_dim` is set, divides `n_embd` into heads of an even width.
    pub n_head: usize,
    /// Key and value heads; divides `n_head`.
    pub n_kv_head: usize,
    /// Width of the hidden stream.
    pub n_embd: usize,
    /// Inner width of the feed-forward.
    pub n_ffn: usize,
    /// Longest row that the model is trained on, in tokens.
    pub sequence_len: usize,
    /// Base of the rotary wavelengths (of the sinusoids, where positions are sinusoidal).
    pub rope_theta: f64,
    /// Added to the mean square (or the variance) inside a norm.
    pub norm_eps: f64,
    /// Whether the output projection is the embedding matrix.
    pub tied: bool,
    /// Architecture; left out of what is written if it is the plain one.
    #[serde(flatten, skip_serializing_if = "Family::is_plain")]
    pub family: Family,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            vocab_size: 2048,
            n_layer: 3,
            n_head: 4,
            n_kv_head: 2,
            n_embd: 128,
            n_ffn: 352,
            sequence_len: 256,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
            tied: true,
            family: Family::default(),
        }
    }
}

/// Standard deviation of fresh matrices at GPT-2's width (Radford et al. 2019); it falls with the root of the width.
const INIT_STD_768: f64 = 0.02;

impl ModelConfig {
    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.family.head_dim.unwrap_or(self.n_embd / self.n_head.max(1))
    }

    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.n_head * self.head_dim()
    }

    /// Width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_head * self.head_dim()
    }

    /// Attention of layer `l`.
    pub fn heads(&self, l: usize) -> Heads {
        let plain = Heads::new(self.n_head, self.n_kv_head, self.head_dim());
        Heads {
            window: self.family.window_of(l),
            scale: self.family.attention_scale.unwrap_or(plain.scale),
            softcap: self.family.attention_softcap.unwrap_or(0.0),
            ..plain
        }
    }

    /// Number of trained numbers; tied weights count once.
    pub fn n_params(&self) -> usize {
        self.parameters().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Ok if these sizes describe a model.
    pub fn check(&self) -> Result<()> {
        let fault = |field, got: String, expected: &str| Err(Error::Config { field, got, expected: expected.into() });
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
            ("n_kv_head", self.n_kv_head),
            ("n_embd", self.n_embd),
            ("n_ffn", self.n_ffn),
            ("sequence_len", self.sequence_len),
        ];
        for (field, size) in sizes {
            if size == 0 || size > 1 << 24 {
                return fault(field, size.to_string(), "expected 1 to 16777216");
            }
        }
        if self.family.head_dim.is_none() && !self.n_embd.is_multiple_of(2 * self.n_head) {
            return fault(
                "n_embd",
                self.n_embd.to_string(),
                "expected an even multiple of `n_head`, or `head_dim` beside it",
            );
        }
        if !self.n_head.is_multiple_of(self.n_kv_head) {
            return fault("n_kv_head", self.n_kv_head.to_string(), "expected a divisor of `n_head`");
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 1.0) {
            return fault("rope_theta", self.rope_theta.to_string(), "expected a number above 1");
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return fault("norm_eps", self.norm_eps.to_string(), "expected above 0 and below 1");
        }
        self.family.check()
    }

    /// Names and shapes of all parameters in canonical order: embedding, layers, final norm, output (iff untied).
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        layout::parameters(self)
    }
}

/// A model: sizes and weights, f32 (or f64, to judge by) on the CPU, each weight `[out, in]` and contiguous.
#[derive(Clone, Debug)]
pub struct Model<T = f32> {
    config: ModelConfig,
    /// Sizes of the tensors that are here: the same, but for a part of a model (`parallel::part`).
    local: Arc<ModelConfig>,
    names: Arc<[String]>,
    layout: Arc<Layout>,
    tensors: Vec<Tensor>,
    packed: Vec<[OnceLock<Arc<Packed<T>>>; 2]>,
}

impl Model<f32> {
    /// Fresh weights: gains 1, biases 0, matrices normal(0, 0.02 sqrt(768 / n_embd)), projections back into the hidden stream scaled by
    /// `1 / sqrt(2 * n_layer)` (Radford et al. 2019, section 2.3). Each number depends on (seed, name, index) only.
    pub fn init(config: ModelConfig, seed: u64) -> Result<Self> {
        config.check()?;
        let plain = INIT_STD_768 * (768.0 / config.n_embd as f64).sqrt();
        let residual = plain / (2.0 * config.n_layer as f64).sqrt();
        let mut tensors = Vec::new();
        for (name, shape) in config.parameters() {
            let n: usize = shape.iter().product();
            let data: Vec<f32> = if shape.len() == 1 {
                vec![if name.ends_with(".bias") { 0.0 } else { 1.0 }; n]
            } else {
                let key = Key::new(seed).fold_str("init").fold_str(&name);
                let std = if name.contains("o_proj") || name.contains("down_proj") { residual } else { plain };
                (0..n as u64).map(|i| (key.normal(i) * std) as f32).collect()
            };
            tensors.push(Tensor::from_vec(data, shape, &Device::Cpu)?);
        }
        Ok(Self::assemble(config, tensors))
    }

    /// A model of these tensors: by Hugging Face name, exactly the parameters of `config`.
    pub fn from_tensors(config: ModelConfig, by_name: BTreeMap<String, Tensor>) -> Result<Self> {
        Self::of_tensors(config, by_name)
    }
}

impl<T: Scalar> Model<T> {
    /// [`Model::from_tensors`] in either type.
    pub fn of_tensors(config: ModelConfig, mut by_name: BTreeMap<String, Tensor>) -> Result<Self> {
        config.check()?;
        let mut tensors = Vec::new();
        for (name, expected) in config.parameters() {
            let tensor = by_name.remove(&name).ok_or_else(|| Error::MissingTensor { name: name.clone() })?;
            if tensor.dims() != expected {
                return Err(Error::Shape { name, expected, got: tensor.dims().to_vec() });
            }
            tensors.push(tensor.to_dtype(T::DTYPE)?.to_device(&Device::Cpu)?.contiguous()?.detach());
        }
        match by_name.into_keys().next() {
            Some(name) => Err(Error::UnknownTensor { name }),
            None => Ok(Self::assemble(config, tensors)),
        }
    }

    /// The same model with other weights, in canonical order and of equal shapes.
    pub fn with_tensors(&self, tensors: Vec<Tensor>) -> Result<Self> {
        let mut next = Vec::with_capacity(tensors.len());
        for ((name, old), new) in self.params().zip(tensors) {
            if old.dims() != new.dims() {
                let (name, expected, got) = (name.to_owned(), old.dims().to_vec(), new.dims().to_vec());
                return Err(Error::Shape { name, expected, got });
            }
            next.push(new.to_dtype(T::DTYPE)?.to_device(&Device::Cpu)?.contiguous()?.detach());
        }
        if next.len() != self.names.len() {
            return Err(Error::MissingTensor { name: self.names[next.len()].clone() });
        }
        Ok(Self::part(self.config.clone(), self.local.clone(), next))
    }

    /// A model of which only some tensors, or parts of them, are here: `local` are the sizes of those; the others are empty.
    pub(crate) fn part(config: ModelConfig, local: Arc<ModelConfig>, tensors: Vec<Tensor>) -> Self {
        Self { local, ..Self::assemble(config, tensors) }
    }

    /// The same with these tensors in place.
    pub(crate) fn filled(&self, tensors: impl IntoIterator<Item = (usize, Tensor)>) -> Self {
        let mut next = self.clone();
        for (at, tensor) in tensors {
            next.tensors[at] = tensor;
            next.packed[at] = Default::default();
        }
        next
    }

    /// The same weights in another type.
    pub fn cast<U: Scalar>(&self) -> Result<Model<U>> {
        Model::of_tensors(self.config.clone(), self.names.iter().cloned().zip(self.tensors.iter().cloned()).collect())
    }

    fn assemble(config: ModelConfig, tensors: Vec<Tensor>) -> Self {
        let names: Arc<[String]> = config.parameters().into_iter().map(|(name, _)| name).collect();
        let packed = tensors.iter().map(|_| Default::default()).collect();
        let layout = Arc::new(Layout::new(&config));
        let local = Arc::new(config.clone());
        Self { config, local, names, layout, tensors, packed }
    }

    /// Sizes of the tensors that are here: heads, feed-forward and vocabulary of this rank.
    pub(crate) fn local(&self) -> &ModelConfig {
        &self.local
    }

    /// Sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Number of trained numbers.
    pub fn n_params(&self) -> usize {
        self.config.n_params()
    }

    /// Names and tensors in canonical order.
    pub fn params(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.tensors)
    }

    /// Parameter names in canonical order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Weights in canonical order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// One weight by name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.names.iter().position(|n| n == name).map(|i| &self.tensors[i])
    }

    /// Where the parts of a layer stand.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Canonical index of the first parameter of layer `l`.
    pub fn layer_at(&self, l: usize) -> usize {
        self.layout.layer_at(l)
    }

    /// Canonical index of a part of layer `l`, if the model has it.
    pub fn part_at(&self, l: usize, part: Part) -> Option<usize> {
        self.layout.part(self.layer_at(l), part)
    }

    /// Canonical index of the final norm; of a LayerNorm the bias follows.
    pub fn norm_at(&self) -> usize {
        self.layer_at(self.config.n_layer)
    }

    /// Canonical index of the output projection: the embedding if tied.
    pub fn output_at(&self) -> usize {
        if self.config.tied { 0 } else { self.names.len() - 1 }
    }

    /// Numbers of the parameter at canonical index `at`.
    pub fn slice(&self, at: usize) -> View<'_, T> {
        view(&self.tensors[at])
            .expect("weights are contiguous and of the model's type because every constructor makes them so")
    }

    /// The matrix at `at` packed for `y = x W^T`.
    pub fn packed(&self, at: usize) -> &Packed<T> {
        self.packed[at][0].get_or_init(|| {
            let (out, inner) = self.matrix_shape(at);
            Arc::new(Packed::transposed(&self.slice(at), out, inner))
        })
    }

    /// The matrix at `at` packed for `dx = dy W`.
    pub fn packed_backward(&self, at: usize) -> &Packed<T> {
        self.packed[at][1].get_or_init(|| {
            let (out, inner) = self.matrix_shape(at);
            Arc::new(Packed::plain(&self.slice(at), out, inner))
        })
    }

    fn matrix_shape(&self, at: usize) -> (usize, usize) {
        self.tensors[at].dims2().expect("only matrices are packed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_model_has_the_size_of_the_quickstart() {
        let config = ModelConfig::default();
        let model = Model::init(config.clone(), 1).unwrap();
        assert_eq!(config.n_params(), 2048 * 128 + 3 * (184_320 + 256) + 128);
        assert_eq!(model.params().map(|(_, t)| t.elem_count()).sum::<usize>(), config.n_params());
    }

    #[test]
    fn a_weight_depends_on_seed_and_name_only() {
        let small = ModelConfig { n_layer: 1, ..ModelConfig::default() };
        let a = Model::init(small, 7).unwrap();
        let b = Model::init(ModelConfig::default(), 7).unwrap();
        let name = "model.layers.0.mlp.up_proj.weight";
        let bits = |m: &Model| m.tensor(name).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(bits(&a), bits(&b));
    }

    #[test]
    fn a_plain_family_is_not_written_and_an_unknown_option_is_refused() {
        let plain = serde_json::to_value(ModelConfig::default()).unwrap();
        assert_eq!(plain.as_object().unwrap().len(), 10);
        let family = Family { qk_norm: crate::family::QkNorm::Head, ..Family::default() };
        let config = ModelConfig { family, ..ModelConfig::default() };
        let mut written = serde_json::to_value(&config).unwrap();
        assert_eq!(written["qk_norm"], "head");
        assert_eq!(serde_json::from_value::<ModelConfig>(written.clone()).unwrap(), config);
        written["qk_norms"] = "head".into();
        let error = serde_json::from_value::<ModelConfig>(written).unwrap_err().to_string();
        assert!(error.contains("qk_norms"), "{error}");
    }

    #[test]
    fn missing_unknown_and_misshapen_tensors_are_named() {
        let model = Model::init(ModelConfig::default(), 1).unwrap();
        let named = || model.params().map(|(n, t)| (n.to_owned(), t.clone())).collect::<BTreeMap<_, _>>();
        let mut tensors = named();
        tensors.remove("model.norm.weight");
        let missing = Model::from_tensors(ModelConfig::default(), tensors);
        assert!(matches!(missing, Err(Error::MissingTensor { name }) if name == "model.norm.weight"));
        let mut tensors = named();
        tensors.insert("extra".into(), tensors["model.norm.weight"].clone());
        assert!(matches!(Model::from_tensors(ModelConfig::default(), tensors), Err(Error::UnknownTensor { .. })));
        let other = ModelConfig { n_ffn: 320, ..ModelConfig::default() };
        assert!(matches!(Model::from_tensors(other, named()), Err(Error::Shape { .. })));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for bad in [
            ModelConfig { n_head: 0, ..ModelConfig::default() },
            ModelConfig { n_head: 3, ..ModelConfig::default() },
            ModelConfig { n_kv_head: 3, ..ModelConfig::default() },
            ModelConfig { rope_theta: f64::NAN, ..ModelConfig::default() },
            ModelConfig { norm_eps: 0.0, ..ModelConfig::default() },
        ] {
            assert!(matches!(Model::init(bad, 1), Err(Error::Config { .. })));
        }
    }
}
