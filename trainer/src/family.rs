//! The dense model family: which norm, positions, attention and feed-forward a layer is made of.
//!
//! In: options, all with the default of the plain model (RMSNorm before each part, rotary positions, full attention, SwiGLU).
//! Out: questions that the blocks ask (`what does layer 3 see?`) and faults. Sizes are `model`'s. Names follow the papers
//! beside each option; a preset of Hugging Face is a set of these options (`hf`).

use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the hidden stream is normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// RMSNorm with a gain (Zhang & Sennrich 2019).
    #[default]
    Rms,
    /// LayerNorm with a gain and a bias (Ba et al. 2016).
    Layer,
}

/// Where the norms of a layer stand; `f` is attention or the feed-forward. A last norm always stands before the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// `x + f(norm(x))` (GPT-2, Llama).
    #[default]
    Pre,
    /// `norm(x + f(x))` (Vaswani et al. 2017).
    Post,
    /// `x + norm(f(x))` (OLMo-2).
    Output,
    /// `x + norm(f(norm(x)))`, also called peri (Gemma-2 and -3).
    Sandwich,
}

/// RMSNorm of queries and keys before they are rotated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// None.
    #[default]
    None,
    /// Each head by itself, one gain of `head_dim` for all (Qwen3, Gemma-3).
    Head,
    /// All heads of a token together, a gain for each number (OLMo-2).
    Full,
}

/// How a token knows where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// Queries and keys are rotated (Su et al. 2021).
    #[default]
    Rope,
    /// A learned row per position, added to the embedding (GPT-2); positions end at `sequence_len`.
    Learned,
    /// Sines and cosines of wavelengths up to `rope_theta`, added to the embedding (Vaswani et al. 2017).
    Sinusoidal,
    /// Nothing but the causal mask (NoPE).
    None,
}

/// How rotary wavelengths are stretched for rows longer than those first trained on. A number of turns is how often a
/// wavelength fits `rope_original_len`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All by `rope_factor` (Chen et al. 2023).
    Linear,
    /// Those of fewer than `rope_slow_turns` by `rope_factor`, those of more than `rope_fast_turns` not at all, linear in
    /// turns between (Llama 3.1).
    Llama3,
    /// The same, but linear in the index between, and attention sharpened by `0.1 ln(rope_factor) + 1` on each side (YaRN,
    /// Peng et al. 2023).
    Yarn,
}

/// Which projections of attention have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttentionBias {
    /// None.
    #[default]
    None,
    /// Queries, keys and values (Qwen2).
    Qkv,
    /// The output as well (GPT-2).
    All,
}

/// The feed-forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mlp {
    /// `down(silu(gate(x)) * up(x))` (Shazeer 2020).
    #[default]
    Swiglu,
    /// `down(gelu(gate(x)) * up(x))` with the tanh form of GELU (Gemma).
    Geglu,
    /// `down(max(up(x), 0))`.
    Relu,
    /// `down(max(up(x), 0)^2)` (So et al. 2021).
    Relu2,
    /// `down(gelu(up(x)))`, the tanh form (GPT-2).
    Gelu,
    /// `down(gelu(up(x)))`, by the error function (Hendrycks & Gimpel 2016).
    GeluErf,
}

impl Mlp {
    /// True if a second projection gates the first.
    pub fn gated(self) -> bool {
        matches!(self, Self::Swiglu | Self::Geglu)
    }
}

/// Options of the architecture beside its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Family {
    /// Norm of the hidden stream: `rms` or `layer`.
    pub norm: Norm,
    /// Where norms stand: `pre`, `post`, `output` or `sandwich`.
    pub placement: Placement,
    /// RMSNorm of queries and keys: `none`, `head` or `full`.
    pub qk_norm: QkNorm,
    /// Positions: `rope`, `learned`, `sinusoidal` or `none`.
    pub position: Position,
    /// Share of a head that is rotated, from its front, above 0 to 1; rounded down to an even width.
    pub rope_share: f64,
    /// Stretching of rotary wavelengths: `none`, `linear`, `llama3` or `yarn`. Not of layers with a theta of their own.
    pub rope_scaling: RopeScaling,
    /// How far wavelengths are stretched, at least 1; with `rope_scaling` only.
    pub rope_factor: f64,
    /// Row length of the first training, in tokens; with `llama3` and `yarn` only. Default: `sequence_len / rope_factor`.
    pub rope_original_len: Option<usize>,
    /// Turns below which a wavelength is stretched in full, above 0; with `llama3` and `yarn` only.
    pub rope_slow_turns: f64,
    /// Turns above which a wavelength is not stretched, above `rope_slow_turns`. Default: 4 for `llama3`, 32 for `yarn`.
    pub rope_fast_turns: Option<f64>,
    /// Base of the rotary wavelengths in sliding layers, above 1 (Gemma-3). Default: `rope_theta`, stretched alike.
    pub rope_local_theta: Option<f64>,
    /// One letter per layer, repeated to `n_layer`: `L` sees all tokens before, `S` the last `window`, `N` all, unrotated.
    pub layers: String,
    /// Tokens that a sliding layer sees, the query's own included; needed by the letter `S` only.
    pub window: Option<usize>,
    /// Width of one head, even. Default: `n_embd / n_head`.
    pub head_dim: Option<usize>,
    /// Projections of attention with a bias: `none`, `qkv` or `all`.
    pub attention_bias: AttentionBias,
    /// What scores are multiplied by, above 0. Default: `1 / sqrt(head_dim)`.
    pub attention_scale: Option<f64>,
    /// Scores become `cap * tanh(score / cap)`, above 0 (Gemma-2). Default: off.
    pub attention_softcap: Option<f64>,
    /// Logits become `cap * tanh(logit / cap)`, above 0 (Gemma-2). Default: off.
    pub logit_softcap: Option<f64>,
    /// Feed-forward: `swiglu`, `geglu`, `relu`, `relu2`, `gelu` (tanh form) or `gelu_erf`.
    pub mlp: Mlp,
    /// Whether the projections of the feed-forward have biases.
    pub mlp_bias: bool,
    /// What token embeddings are multiplied by, not 0; `sqrt(n_embd)` in Gemma.
    pub embedding_scale: f64,
    /// Share of numbers dropped after the embedding and of what each part adds to the hidden stream, 0 to below 1; in
    /// training only.
    pub dropout: f64,
    /// Weight of the squared logsumexp of each token that counts, in the token's own weight in the loss, >= 0 (PaLM: 1e-4).
    /// Part of the gradient, not of the loss shown.
    pub z_loss: f64,
}

impl Default for Family {
    fn default() -> Self {
        Self {
            norm: Norm::default(),
            placement: Placement::default(),
            qk_norm: QkNorm::default(),
            position: Position::default(),
            rope_share: 1.0,
            rope_scaling: RopeScaling::default(),
            rope_factor: 1.0,
            rope_original_len: None,
            rope_slow_turns: 1.0,
            rope_fast_turns: None,
            rope_local_theta: None,
            layers: "L".to_owned(),
            window: None,
            head_dim: None,
            attention_bias: AttentionBias::default(),
            attention_scale: None,
            attention_softcap: None,
            logit_softcap: None,
            mlp: Mlp::default(),
            mlp_bias: false,
            embedding_scale: 1.0,
            dropout: 0.0,
            z_loss: 0.0,
        }
    }
}

impl Family {
    /// True for the plain model; such a family is not written into checkpoints, nor into what identifies a run.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// The letter of layer `l`.
    pub fn letter(&self, l: usize) -> u8 {
        self.layers.as_bytes()[l % self.layers.len()]
    }

    /// Tokens that layer `l` sees, the query's own included; `usize::MAX` if all.
    pub fn window_of(&self, l: usize) -> usize {
        if self.letter(l) == b'S' { self.window.unwrap_or(usize::MAX) } else { usize::MAX }
    }

    /// True if layer `l` rotates queries and keys.
    pub fn rotates(&self, l: usize) -> bool {
        self.position == Position::Rope && self.letter(l) != b'N'
    }

    /// True if layer `l` uses `rope_local_theta`.
    pub fn is_local(&self, l: usize) -> bool {
        self.rope_local_theta.is_some() && self.letter(l) == b'S'
    }

    /// Rotated width of a head of width `d`.
    pub fn rotary_dim(&self, d: usize) -> usize {
        ((d as f64 * self.rope_share) as usize / 2 * 2).max(2)
    }

    /// Row length of the first training, for a model of rows of `sequence_len`.
    pub fn original_len(&self, sequence_len: usize) -> f64 {
        self.rope_original_len.map_or((sequence_len as f64 / self.rope_factor).floor().max(1.0), |n| n as f64)
    }

    /// Turns above which a wavelength is not stretched.
    pub fn fast_turns(&self) -> f64 {
        self.rope_fast_turns.unwrap_or(if self.rope_scaling == RopeScaling::Yarn { 32.0 } else { 4.0 })
    }

    /// Ok if the options describe a model and none is without effect.
    pub fn check(&self) -> Result<()> {
        let fault = |field, got: String, expected: &str| Err(Error::Config { field, got, expected: expected.into() });
        let above = |x: f64, least: f64| x.is_finite() && x > least;
        if self.layers.is_empty() || self.layers.bytes().any(|c| !b"LSN".contains(&c)) {
            return fault(
                "layers",
                format!("{:?}", self.layers),
                "expected letters L (all), S (sliding), N (unrotated)",
            );
        }
        let sliding = self.layers.contains('S');
        match self.window {
            None if sliding => {
                return fault("window", "not set".into(), "expected a number of tokens for the S in `layers`");
            }
            Some(0) => return fault("window", "0".into(), "expected at least 1 token, the query's own"),
            Some(n) if !sliding => {
                return fault("window", n.to_string(), "no S in `layers`; write one or leave it out");
            }
            _ => {}
        }
        if !(self.rope_share > 0.0 && self.rope_share <= 1.0) {
            return fault("rope_share", self.rope_share.to_string(), "expected above 0, at most 1");
        }
        self.check_rope()?;
        let positive = [
            ("attention_scale", self.attention_scale),
            ("attention_softcap", self.attention_softcap),
            ("logit_softcap", self.logit_softcap),
        ];
        for (field, value) in positive {
            if let Some(x) = value.filter(|&x| !above(x, 0.0)) {
                return fault(field, x.to_string(), "expected a number above 0; leave it out to switch it off");
            }
        }
        if self.head_dim.is_some_and(|d| d == 0 || d > 1 << 16 || d % 2 == 1) {
            return fault(
                "head_dim",
                format!("{:?}", self.head_dim.unwrap_or(0)),
                "expected an even width up to 65536",
            );
        }
        if !self.embedding_scale.is_finite() || self.embedding_scale == 0.0 {
            return fault("embedding_scale", self.embedding_scale.to_string(), "expected a number other than 0");
        }
        if !(self.dropout >= 0.0 && self.dropout < 1.0) {
            return fault("dropout", self.dropout.to_string(), "expected 0 to below 1");
        }
        if !(self.z_loss >= 0.0 && self.z_loss.is_finite()) {
            return fault("z_loss", self.z_loss.to_string(), "expected a number >= 0, such as 1e-4");
        }
        Ok(())
    }

    fn check_rope(&self) -> Result<()> {
        let fault = |field, got: String, expected: &str| Err(Error::Config { field, got, expected: expected.into() });
        let plain = Self::default();
        let stretched = self.rope_scaling != RopeScaling::None;
        let banded = matches!(self.rope_scaling, RopeScaling::Llama3 | RopeScaling::Yarn);
        let idle = [
            ("rope_factor", self.rope_factor != plain.rope_factor && !stretched),
            ("rope_original_len", self.rope_original_len.is_some() && !banded),
            ("rope_slow_turns", self.rope_slow_turns != plain.rope_slow_turns && !banded),
            ("rope_fast_turns", self.rope_fast_turns.is_some() && !banded),
        ];
        if let Some((field, _)) = idle.into_iter().find(|(_, idle)| *idle) {
            return fault(field, "set".into(), "not read with this `rope_scaling`; leave it out or choose another");
        }
        let rotary = [
            ("rope_scaling", stretched),
            ("rope_share", self.rope_share != plain.rope_share),
            ("rope_local_theta", self.rope_local_theta.is_some()),
        ];
        if let Some((field, _)) = rotary.into_iter().find(|(_, set)| *set && self.position != Position::Rope) {
            return fault(field, "set".into(), "nothing is rotated; set `position = \"rope\"` or leave it out");
        }
        if self.position != Position::Rope && self.layers.contains('N') {
            return fault("layers", format!("{:?}", self.layers), "N is for rotary positions; write L");
        }
        if self.rope_local_theta.is_some() && !self.layers.contains('S') {
            return fault("rope_local_theta", "set".into(), "no S in `layers`; write one or leave it out");
        }
        if let Some(theta) = self.rope_local_theta.filter(|t| !(t.is_finite() && *t > 1.0)) {
            return fault("rope_local_theta", theta.to_string(), "expected a number above 1");
        }
        if !(self.rope_factor.is_finite() && self.rope_factor >= 1.0) {
            return fault("rope_factor", self.rope_factor.to_string(), "expected a number from 1");
        }
        if self.rope_original_len == Some(0) {
            return fault("rope_original_len", "0".into(), "expected a number of tokens");
        }
        let (slow, fast) = (self.rope_slow_turns, self.fast_turns());
        if !(slow > 0.0 && fast > slow && fast.is_finite()) {
            return fault(
                "rope_slow_turns",
                format!("{slow} of {fast}"),
                "expected above 0 and below `rope_fast_turns`",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_letters_repeat_and_decide_window_and_rotation() {
        let family = Family { layers: "SSL".into(), window: Some(7), ..Family::default() };
        family.check().unwrap();
        let windows: Vec<usize> = (0..7).map(|l| family.window_of(l)).collect();
        assert_eq!(windows, [7, 7, usize::MAX, 7, 7, usize::MAX, 7]);
        let family = Family { layers: "LN".into(), ..Family::default() };
        assert_eq!((0..4).map(|l| family.rotates(l)).collect::<Vec<_>>(), [true, false, true, false]);
    }

    #[test]
    fn options_out_of_range_or_without_effect_are_refused_by_name() {
        let plain = Family::default;
        let cases = [
            (Family { layers: String::new(), ..plain() }, "layers"),
            (Family { layers: "LX".into(), ..plain() }, "layers"),
            (Family { layers: "S".into(), ..plain() }, "window"),
            (Family { layers: "S".into(), window: Some(0), ..plain() }, "window"),
            (Family { window: Some(8), ..plain() }, "window"),
            (Family { rope_share: 0.0, ..plain() }, "rope_share"),
            (Family { rope_share: f64::NAN, ..plain() }, "rope_share"),
            (Family { rope_factor: 4.0, ..plain() }, "rope_factor"),
            (Family { rope_original_len: Some(9), rope_scaling: RopeScaling::Linear, ..plain() }, "rope_original_len"),
            (Family { rope_scaling: RopeScaling::Yarn, rope_factor: 0.5, ..plain() }, "rope_factor"),
            (Family { rope_scaling: RopeScaling::Llama3, rope_slow_turns: 9.0, ..plain() }, "rope_slow_turns"),
            (Family { rope_scaling: RopeScaling::Linear, position: Position::None, ..plain() }, "rope_scaling"),
            (Family { rope_local_theta: Some(100.0), ..plain() }, "rope_local_theta"),
            (Family { position: Position::Learned, layers: "LN".into(), ..plain() }, "layers"),
            (Family { head_dim: Some(5), ..plain() }, "head_dim"),
            (Family { attention_scale: Some(0.0), ..plain() }, "attention_scale"),
            (Family { attention_softcap: Some(-1.0), ..plain() }, "attention_softcap"),
            (Family { logit_softcap: Some(f64::INFINITY), ..plain() }, "logit_softcap"),
            (Family { embedding_scale: 0.0, ..plain() }, "embedding_scale"),
            (Family { dropout: 1.0, ..plain() }, "dropout"),
            (Family { z_loss: -1.0, ..plain() }, "z_loss"),
        ];
        for (family, name) in cases {
            assert!(matches!(family.check(), Err(Error::Config { field, .. }) if field == name), "{name}: {family:?}");
        }
        plain().check().unwrap();
    }
}
