//! `config.json` to our configuration and back, class by class.
//!
//! In: the parsed file, of transformers 5 (`rope_parameters`) or 4 (`rope_theta`, `rope_scaling`). Out: the class and a
//! [`ModelConfig`]; a field that asks for something we do not compute is an error, never ignored. Fields left out have the
//! class's own default.

use super::{Fields, Preset};
use crate::family::{AttentionBias, Family, Mlp, Norm, Placement, Position, QkNorm, RopeScaling};
use crate::{Error, ModelConfig, Result};
use serde_json::{Value, json};

/// Class and configuration of a parsed `config.json`.
pub fn read(config: &Value) -> Result<(Preset, ModelConfig)> {
    let kind = config["model_type"].as_str().unwrap_or_default();
    let Some(preset) = Preset::ALL.into_iter().find(|preset| preset.names().0 == kind) else {
        let known = Preset::ALL.map(|preset| preset.names().0).join(", ");
        return Err(Error::Format(format!("config.json: `model_type` is {kind:?}, expected one of {known}")));
    };
    let file = File(config);
    let config = if preset == Preset::Gpt2 { file.gpt2()? } else { file.rotary(preset)? };
    Ok((preset, config))
}

/// The number of fewest digits that is `x` in f32, as the blocks read it; JSON keeps it.
fn short(x: f64) -> f64 {
    (x as f32).to_string().parse().expect("a float's own decimals are a number")
}

/// Typed access to fields.
struct File<'a>(&'a Value);

impl File<'_> {
    fn fault(field: &str, got: &Value, expected: &str) -> Error {
        Error::Format(format!("config.json: `{field}` is {got}, expected {expected}"))
    }

    fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn size(&self, field: &str, default: Option<usize>) -> Result<usize> {
        match (self.get(field), default) {
            (Some(value), _) => {
                let size = value.as_u64().ok_or_else(|| Self::fault(field, value, "a size"))?;
                Ok(size as usize)
            }
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Self::fault(field, &Value::Null, "a size")),
        }
    }

    fn number(&self, field: &str) -> Result<Option<f64>> {
        self.get(field).map(|value| value.as_f64().ok_or_else(|| Self::fault(field, value, "a number"))).transpose()
    }

    fn flag(&self, field: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(field) else { return Ok(default) };
        value.as_bool().ok_or_else(|| Self::fault(field, value, "true or false"))
    }

    /// Err unless `field` is left out or `value`.
    fn only(&self, field: &str, value: Value) -> Result<()> {
        match self.get(field) {
            Some(got) if *got != value => {
                Err(Self::fault(field, got, &format!("{value}: the rest is not computed here")))
            }
            _ => Ok(()),
        }
    }

    fn gpt2(&self) -> Result<ModelConfig> {
        self.only("activation_function", json!("gelu_new"))?;
        self.only("scale_attn_weights", json!(true))?;
        self.only("scale_attn_by_inverse_layer_idx", json!(false))?;
        self.only("add_cross_attention", json!(false))?;
        let n_embd = self.size("n_embd", Some(768))?;
        let n_head = self.size("n_head", Some(12))?;
        Ok(ModelConfig {
            vocab_size: self.size("vocab_size", Some(50_257))?,
            n_layer: self.size("n_layer", Some(12))?,
            n_head,
            n_kv_head: n_head,
            n_embd,
            n_ffn: self.size("n_inner", Some(4 * n_embd))?,
            sequence_len: self.size("n_positions", Some(1024))?,
            norm_eps: self.number("layer_norm_epsilon")?.unwrap_or(1e-5),
            tied: self.flag("tie_word_embeddings", true)?,
            family: Family {
                norm: Norm::Layer,
                position: Position::Learned,
                attention_bias: AttentionBias::All,
                mlp: Mlp::Gelu,
                mlp_bias: true,
                ..Family::default()
            },
            ..ModelConfig::default()
        })
    }

    /// Every class but GPT-2: RMSNorm and rotary positions.
    fn rotary(&self, preset: Preset) -> Result<ModelConfig> {
        use Preset::{Gemma2, Gemma3, Llama, Mistral, Olmo2, Qwen2, Qwen3, SmolLm3};
        let gemma = matches!(preset, Gemma2 | Gemma3);
        let (act, kind) = if gemma { ("hidden_activation", "gelu_pytorch_tanh") } else { ("hidden_act", "silu") };
        self.only(act, json!(kind))?;
        self.only("use_bidirectional_attention", json!(false))?;
        let (n_embd, n_head) = (self.size("hidden_size", None)?, self.size("num_attention_heads", None)?);
        let n_layer = self.size("num_hidden_layers", None)?;
        let head_dim = match preset {
            Gemma2 | Gemma3 => Some(256),
            Qwen3 => Some(128),
            _ => None,
        };
        let head_dim = self.get("head_dim").map(|_| self.size("head_dim", None)).transpose()?.or(head_dim);
        let sequence_len = self.size("max_position_embeddings", None)?;
        let attention_bias = match (preset, self.flag("attention_bias", false)?) {
            (Qwen2, _) => AttentionBias::Qkv,
            (_, false) => AttentionBias::None,
            (_, true) => AttentionBias::All,
        };
        if !matches!(preset, Llama | SmolLm3) {
            self.only("mlp_bias", json!(false))?;
        }
        let (layers, window) = self.layers(preset, n_layer)?;
        let mut family = Family {
            placement: match preset {
                Olmo2 => Placement::Output,
                Gemma2 | Gemma3 => Placement::Sandwich,
                _ => Placement::Pre,
            },
            qk_norm: match preset {
                Qwen3 | Gemma3 => QkNorm::Head,
                Olmo2 => QkNorm::Full,
                _ => QkNorm::None,
            },
            head_dim: head_dim.filter(|d| d * n_head != n_embd),
            attention_bias,
            mlp_bias: self.flag("mlp_bias", false)?,
            layers,
            window,
            ..Family::default()
        };
        if gemma {
            family.mlp = Mlp::Geglu;
            // As transformers does: the root is rounded to f32.
            family.embedding_scale = short((n_embd as f64).sqrt());
            family.attention_scale = Some(short(self.number("query_pre_attn_scalar")?.unwrap_or(256.0).powf(-0.5)));
            let caps = if preset == Gemma2 { (Some(50.0), Some(30.0)) } else { (None, None) };
            let cap = |field: &str, default: Option<f64>| match self.0.get(field) {
                None => Ok(default),
                Some(_) => self.number(field),
            };
            family.attention_softcap = cap("attn_logit_softcapping", caps.0)?;
            family.logit_softcap = cap("final_logit_softcapping", caps.1)?;
        }
        let rope_theta = self.rope(preset, &mut family, sequence_len)?;
        let eps =
            if matches!(preset, Mistral | Qwen2 | Qwen3 | SmolLm3 | Llama | Gemma2 | Gemma3) { 1e-6 } else { 1e-5 };
        Ok(ModelConfig {
            vocab_size: self.size("vocab_size", None)?,
            n_layer,
            n_head,
            n_kv_head: self.size("num_key_value_heads", Some(if preset == SmolLm3 { 4 } else { n_head }))?,
            n_embd,
            n_ffn: self.size("intermediate_size", None)?,
            sequence_len,
            rope_theta,
            norm_eps: self.number("rms_norm_eps")?.unwrap_or(eps),
            tied: self.flag("tie_word_embeddings", gemma || preset == SmolLm3)?,
            family,
        })
    }

    /// Letters of all layers and the window.
    fn layers(&self, preset: Preset, n_layer: usize) -> Result<(String, Option<usize>)> {
        let gemma = matches!(preset, Preset::Gemma2 | Preset::Gemma3);
        let window = match self.0.get("sliding_window") {
            None if gemma || preset == Preset::Mistral => Some(4096),
            None => None,
            Some(Value::Null) => None,
            Some(_) => Some(self.size("sliding_window", None)?),
        };
        let letters: String = match preset {
            Preset::Mistral => (if window.is_some() { "S" } else { "L" }).repeat(n_layer),
            Preset::SmolLm3 => {
                self.only("use_sliding_window", json!(false))?;
                let step = self.size("no_rope_layer_interval", Some(4))?.max(1);
                let listed = self.get("no_rope_layers").and_then(Value::as_array);
                let turns = |l: usize| match listed {
                    Some(list) => list.get(l).and_then(Value::as_u64) != Some(0),
                    None => !(l + 1).is_multiple_of(step),
                };
                (0..n_layer).map(|l| if turns(l) { 'L' } else { 'N' }).collect()
            }
            Preset::Qwen2 | Preset::Qwen3 | Preset::Gemma2 | Preset::Gemma3 => {
                let listed = self.get("layer_types").and_then(Value::as_array);
                let step =
                    self.size("sliding_window_pattern", Some(if preset == Preset::Gemma2 { 2 } else { 6 }))?.max(1);
                let slides = |l: usize| match listed {
                    Some(list) => list.get(l).and_then(Value::as_str) == Some("sliding_attention"),
                    None if gemma => !(l + 1).is_multiple_of(step),
                    None => false,
                };
                if !gemma && listed.is_none() {
                    self.only("use_sliding_window", json!(false))?;
                }
                (0..n_layer).map(|l| if slides(l) { 'S' } else { 'L' }).collect()
            }
            Preset::Llama | Preset::Olmo2 | Preset::Gpt2 => "L".repeat(n_layer),
        };
        let same = letters.bytes().all(|c| Some(&c) == letters.as_bytes().first());
        let window = window.filter(|_| letters.contains('S'));
        Ok((if same { letters[..letters.len().min(1)].to_owned() } else { letters }, window))
    }

    /// Fills in how positions are rotated; returns the base.
    fn rope(&self, preset: Preset, family: &mut Family, sequence_len: usize) -> Result<f64> {
        let empty = json!({});
        let all = self.get("rope_parameters").unwrap_or(&empty);
        let global = if all.get("full_attention").is_some() { &all["full_attention"] } else { all };
        let old = self.get("rope_scaling").unwrap_or(&empty);
        let named = |field: &str| global.get(field).or_else(|| old.get(field)).filter(|value| !value.is_null());
        let number = |field: &str| named(field).and_then(Value::as_f64);
        let default = match preset {
            Preset::Gemma3 => 1e6,
            Preset::SmolLm3 => 2e6,
            _ => 1e4,
        };
        let theta = number("rope_theta").or(self.number("rope_theta")?).unwrap_or(default);
        if preset == Preset::Gemma3 && family.layers.contains('S') {
            let local = all.get("sliding_attention").and_then(|v| v["rope_theta"].as_f64());
            family.rope_local_theta = Some(local.or(self.number("rope_local_base_freq")?).unwrap_or(1e4));
        }
        if let Some(share) = number("partial_rotary_factor").filter(|share| *share != 1.0) {
            return Err(Self::fault("partial_rotary_factor", &json!(share), "1: these classes rotate whole heads"));
        }
        let kind = named("rope_type").or_else(|| named("type")).and_then(Value::as_str).unwrap_or("default");
        family.rope_scaling = match kind {
            "default" => return Ok(theta),
            "linear" => RopeScaling::Linear,
            "llama3" => RopeScaling::Llama3,
            "yarn" => RopeScaling::Yarn,
            other => return Err(Self::fault("rope_type", &json!(other), "default, linear, llama3 or yarn")),
        };
        family.rope_factor = number("factor").ok_or_else(|| Self::fault("factor", &Value::Null, "a number from 1"))?;
        let (slow, fast) = match family.rope_scaling {
            RopeScaling::Linear => return Ok(theta),
            RopeScaling::Yarn => {
                for field in ["attention_factor", "mscale", "mscale_all_dim"] {
                    if let Some(value) = named(field) {
                        return Err(Self::fault(field, value, "none: 0.1 ln(factor) + 1 is computed"));
                    }
                }
                (number("beta_slow").unwrap_or(1.0), number("beta_fast").unwrap_or(32.0))
            }
            _ => (number("low_freq_factor").unwrap_or(1.0), number("high_freq_factor").unwrap_or(4.0)),
        };
        (family.rope_slow_turns, family.rope_fast_turns) = (slow, Some(fast));
        let original = named("original_max_position_embeddings").and_then(Value::as_u64);
        family.rope_original_len = Some(original.map_or(sequence_len, |n| n as usize));
        Ok(theta)
    }
}

/// `config.json` of a class for a configuration; whether it means the same is the caller's question.
pub fn write(preset: Preset, c: &ModelConfig) -> Fields {
    let (kind, class) = preset.names();
    let fields = match preset {
        Preset::Gpt2 => json!({
            "activation_function": "gelu_new",
            "attn_pdrop": 0.0,
            "embd_pdrop": c.family.dropout,
            "initializer_range": 0.02,
            "layer_norm_epsilon": c.norm_eps,
            "n_embd": c.n_embd,
            "n_head": c.n_head,
            "n_inner": c.n_ffn,
            "n_layer": c.n_layer,
            "n_positions": c.sequence_len,
            "resid_pdrop": c.family.dropout,
            "scale_attn_weights": true,
        }),
        _ => rotary_fields(preset, c),
    };
    let Value::Object(mut map) = fields else { unreachable!("written as an object above") };
    let common = json!({
        "architectures": [class],
        "model_type": kind,
        "tie_word_embeddings": c.tied,
        "torch_dtype": "float32",
        "use_cache": true,
        "vocab_size": c.vocab_size,
    });
    let Value::Object(common) = common else { unreachable!("written as an object above") };
    map.extend(common);
    map
}

fn rotary_fields(preset: Preset, c: &ModelConfig) -> Value {
    let family = &c.family;
    let mut fields = json!({
        "attention_bias": family.attention_bias != AttentionBias::None && preset != Preset::Qwen2,
        "attention_dropout": 0.0,
        "head_dim": c.head_dim(),
        "hidden_size": c.n_embd,
        "initializer_range": 0.02,
        "intermediate_size": c.n_ffn,
        "max_position_embeddings": c.sequence_len,
        "num_attention_heads": c.n_head,
        "num_hidden_layers": c.n_layer,
        "num_key_value_heads": c.n_kv_head,
        "rms_norm_eps": c.norm_eps,
        // transformers 4 reads `rope_theta`, 5 reads `rope_parameters`; each ignores the other's.
        "rope_parameters": rope_parameters(c),
        "rope_theta": c.rope_theta,
    });
    let slides: Vec<&str> =
        (0..c.n_layer).map(|l| if family.letter(l) == b'S' { "sliding_attention" } else { "full_attention" }).collect();
    let mut set = |field: &str, value: Value| fields[field] = value;
    match preset {
        Preset::Gemma2 | Preset::Gemma3 => {
            set("hidden_activation", json!("gelu_pytorch_tanh"));
            set("query_pre_attn_scalar", scalar(family.attention_scale.unwrap_or(1.0 / (c.head_dim() as f64).sqrt())));
            set("attn_logit_softcapping", json!(family.attention_softcap));
            set("final_logit_softcapping", json!(family.logit_softcap));
        }
        _ => set("hidden_act", json!("silu")),
    }
    match preset {
        Preset::Llama => {
            set("mlp_bias", json!(family.mlp_bias));
            set("pretraining_tp", json!(1));
        }
        Preset::SmolLm3 => {
            set("mlp_bias", json!(family.mlp_bias));
            set("use_sliding_window", json!(false));
            set(
                "no_rope_layers",
                json!((0..c.n_layer).map(|l| u8::from(family.letter(l) != b'N')).collect::<Vec<_>>()),
            );
        }
        Preset::Mistral => set("sliding_window", json!(family.window)),
        Preset::Qwen2 | Preset::Qwen3 => {
            set("use_sliding_window", json!(family.window.is_some()));
            set("sliding_window", json!(family.window));
            set("layer_types", json!(slides));
        }
        Preset::Gemma2 | Preset::Gemma3 => {
            set("sliding_window", json!(family.window));
            set("layer_types", json!(slides));
        }
        Preset::Olmo2 | Preset::Gpt2 => {}
    }
    if preset == Preset::Gemma3 {
        let local = json!({ "rope_theta": family.rope_local_theta.unwrap_or(c.rope_theta), "rope_type": "default" });
        let global = rope_parameters(c);
        fields["rope_parameters"] = json!({ "full_attention": global, "sliding_attention": local });
        fields["rope_local_base_freq"] = json!(family.rope_local_theta.unwrap_or(c.rope_theta));
    }
    fields
}

/// What attention divides by, squared: an integer if it is one.
fn scalar(scale: f64) -> Value {
    let square = scale.powi(-2);
    if (square - square.round()).abs() < 1e-4 { json!(square.round() as u64) } else { json!(square) }
}

fn rope_parameters(c: &ModelConfig) -> Value {
    let (family, theta) = (&c.family, c.rope_theta);
    let (slow, fast, factor) = (family.rope_slow_turns, family.fast_turns(), family.rope_factor);
    let original = family.original_len(c.sequence_len) as usize;
    match family.rope_scaling {
        RopeScaling::None => json!({ "rope_theta": theta, "rope_type": "default" }),
        RopeScaling::Linear => json!({ "factor": factor, "rope_theta": theta, "rope_type": "linear" }),
        RopeScaling::Llama3 => json!({
            "factor": factor, "high_freq_factor": fast, "low_freq_factor": slow,
            "original_max_position_embeddings": original, "rope_theta": theta, "rope_type": "llama3",
        }),
        RopeScaling::Yarn => json!({
            "beta_fast": fast, "beta_slow": slow, "factor": factor,
            "original_max_position_embeddings": original, "rope_theta": theta, "rope_type": "yarn",
        }),
    }
}
