//! Which parameters a model has: names, shapes, and where each stands in the canonical order.
//!
//! In: a configuration. Out: the list (embedding, layers, final norm, output) and a [`Layout`] that finds a [`Part`] in it.
//! Names are those of Hugging Face's Llama, and of its Qwen, OLMo-2 and Gemma relatives for what Llama lacks.

use crate::ModelConfig;
use crate::family::{AttentionBias, Norm, Placement, Position, QkNorm};

/// One parameter of a layer, in canonical order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the names say it
pub enum Part {
    InputNorm,
    InputNormBias,
    Query,
    QueryBias,
    Key,
    KeyBias,
    Value,
    ValueBias,
    QueryNorm,
    KeyNorm,
    Output,
    OutputBias,
    /// Norm of what attention adds, or of the stream after it.
    AttentionNorm,
    AttentionNormBias,
    /// Norm before the feed-forward.
    MlpNorm,
    MlpNormBias,
    Gate,
    GateBias,
    Up,
    UpBias,
    Down,
    DownBias,
    /// Norm of what the feed-forward adds, or of the stream after it.
    FinishNorm,
    FinishNormBias,
}

const PARTS: usize = Part::FinishNormBias as usize + 1;

/// Where parameters stand.
#[derive(Clone, Debug)]
pub struct Layout {
    offset: [Option<u8>; PARTS],
    per_layer: usize,
    first_layer: usize,
}

impl Layout {
    /// The layout of a model.
    pub fn new(config: &ModelConfig) -> Self {
        let mut offset = [None; PARTS];
        let parts = layer_parts(config);
        for (i, (part, ..)) in parts.iter().enumerate() {
            offset[*part as usize] = Some(i as u8);
        }
        let first_layer = 1 + usize::from(config.family.position == Position::Learned);
        Self { offset, per_layer: parts.len(), first_layer }
    }

    /// Canonical index of a part of the layer that begins at index `at`, if the model has it.
    pub fn part(&self, at: usize, part: Part) -> Option<usize> {
        self.offset[part as usize].map(|i| at + usize::from(i))
    }

    /// Parameters of one layer.
    pub fn per_layer(&self) -> usize {
        self.per_layer
    }

    /// Canonical index of the first parameter of layer `l`.
    pub fn layer_at(&self, l: usize) -> usize {
        self.first_layer + l * self.per_layer
    }
}

/// Names and shapes of all parameters in canonical order.
pub fn parameters(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (c, v) = (config.n_embd, config.vocab_size);
    let mut list = vec![("model.embed_tokens.weight".to_owned(), vec![v, c])];
    if config.family.position == Position::Learned {
        list.push(("model.embed_positions.weight".to_owned(), vec![config.sequence_len, c]));
    }
    let parts = layer_parts(config);
    for l in 0..config.n_layer {
        list.extend(parts.iter().map(|(_, name, shape)| (format!("model.layers.{l}.{name}"), shape.clone())));
    }
    list.push(("model.norm.weight".to_owned(), vec![c]));
    if config.family.norm == Norm::Layer {
        list.push(("model.norm.bias".to_owned(), vec![c]));
    }
    if !config.tied {
        list.push(("lm_head.weight".to_owned(), vec![v, c]));
    }
    list
}

/// Parameters of one layer, without the layer's prefix.
fn layer_parts(config: &ModelConfig) -> Vec<(Part, String, Vec<usize>)> {
    let (c, q, kv, f, d) = (config.n_embd, config.q_dim(), config.kv_dim(), config.n_ffn, config.head_dim());
    let family = &config.family;
    let mut list = Vec::new();
    let norm = |list: &mut Vec<_>, parts: [Part; 2], name: &str| {
        list.push((parts[0], format!("{name}.weight"), vec![c]));
        if family.norm == Norm::Layer {
            list.push((parts[1], format!("{name}.bias"), vec![c]));
        }
    };
    let matrix = |list: &mut Vec<_>, parts: [Part; 2], name: &str, shape: [usize; 2], bias: bool| {
        list.push((parts[0], format!("{name}.weight"), shape.to_vec()));
        if bias {
            list.push((parts[1], format!("{name}.bias"), vec![shape[0]]));
        }
    };
    let before = matches!(family.placement, Placement::Pre | Placement::Sandwich);
    let after = family.placement != Placement::Pre;
    let qkv_bias = family.attention_bias != AttentionBias::None;
    if before {
        norm(&mut list, [Part::InputNorm, Part::InputNormBias], "input_layernorm");
    }
    matrix(&mut list, [Part::Query, Part::QueryBias], "self_attn.q_proj", [q, c], qkv_bias);
    matrix(&mut list, [Part::Key, Part::KeyBias], "self_attn.k_proj", [kv, c], qkv_bias);
    matrix(&mut list, [Part::Value, Part::ValueBias], "self_attn.v_proj", [kv, c], qkv_bias);
    let (q_gain, k_gain) = if family.qk_norm == QkNorm::Full { (q, kv) } else { (d, d) };
    if family.qk_norm != QkNorm::None {
        list.push((Part::QueryNorm, "self_attn.q_norm.weight".to_owned(), vec![q_gain]));
        list.push((Part::KeyNorm, "self_attn.k_norm.weight".to_owned(), vec![k_gain]));
    }
    let output_bias = family.attention_bias == AttentionBias::All;
    matrix(&mut list, [Part::Output, Part::OutputBias], "self_attn.o_proj", [c, q], output_bias);
    if after {
        norm(&mut list, [Part::AttentionNorm, Part::AttentionNormBias], "post_attention_layernorm");
    }
    if before {
        let name = if after { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        norm(&mut list, [Part::MlpNorm, Part::MlpNormBias], name);
    }
    if family.mlp.gated() {
        matrix(&mut list, [Part::Gate, Part::GateBias], "mlp.gate_proj", [f, c], family.mlp_bias);
    }
    matrix(&mut list, [Part::Up, Part::UpBias], "mlp.up_proj", [f, c], family.mlp_bias);
    matrix(&mut list, [Part::Down, Part::DownBias], "mlp.down_proj", [c, f], family.mlp_bias);
    if after {
        norm(&mut list, [Part::FinishNorm, Part::FinishNormBias], "post_feedforward_layernorm");
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{Family, Mlp};

    fn names(family: Family) -> Vec<String> {
        let config = ModelConfig { n_layer: 1, tied: false, family, ..ModelConfig::default() };
        let layout = Layout::new(&config);
        let list = parameters(&config);
        assert_eq!(layout.layer_at(1), list.len() - 2 - usize::from(config.family.norm == Norm::Layer));
        let at = layout.layer_at(0);
        assert!(list[layout.part(at, Part::Down).unwrap()].0.ends_with("down_proj.weight"));
        list.into_iter().map(|(name, _)| name.replace("model.layers.0.", "")).collect()
    }

    #[test]
    fn the_plain_model_has_llamas_names_in_llamas_order() {
        let layer = [
            "input_layernorm",
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "post_attention_layernorm",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        ];
        let names = names(Family::default());
        assert_eq!(names[0], "model.embed_tokens.weight");
        assert_eq!(names[1..10], layer.map(|name| format!("{name}.weight")));
        assert_eq!(names[10..], ["model.norm.weight", "lm_head.weight"]);
    }

    #[test]
    fn every_option_adds_or_removes_its_parameters() {
        let family = Family {
            norm: Norm::Layer,
            placement: Placement::Sandwich,
            qk_norm: QkNorm::Head,
            position: Position::Learned,
            attention_bias: AttentionBias::All,
            mlp: Mlp::Gelu,
            mlp_bias: true,
            ..Family::default()
        };
        let names = names(family);
        assert_eq!(names.len(), 2 + 8 + 8 + 2 + 4 + 2 + 1);
        assert_eq!(names[1], "model.embed_positions.weight");
        assert!(
            names.contains(&"pre_feedforward_layernorm.bias".into()) && !names.contains(&"mlp.gate_proj.weight".into())
        );
    }
}
