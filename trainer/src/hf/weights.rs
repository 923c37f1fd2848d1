//! Tensors by Hugging Face name to ours and back.
//!
//! In and out: maps by name. Our names are Llama's, so only three things differ: Gemma stores gains less 1 (read and written
//! with one rounding), some files repeat a tied matrix, and GPT-2 has names of its own, matrices `[in, out]`, and queries, keys
//! and values in one.

use super::Preset;
use crate::{Error, Model, ModelConfig, Result};
use candle_core::Tensor;
use std::collections::BTreeMap;

type Named = BTreeMap<String, Tensor>;

/// Our names of the parameters of a model of `preset`.
pub fn to_ours(preset: Preset, config: &ModelConfig, tensors: Named) -> Result<Named> {
    let mut ours = if preset == Preset::Gpt2 { from_gpt2(tensors)? } else { tensors };
    if config.tied {
        ours.remove("lm_head.weight");
    }
    // Old files hold the rotary frequencies, which follow from the configuration.
    ours.retain(|name, _| !name.ends_with("rotary_emb.inv_freq"));
    if preset.gains_from_zero() {
        for (name, tensor) in &mut ours {
            if name.ends_with("norm.weight") {
                *tensor = (&*tensor + 1.0)?;
            }
        }
    }
    Ok(ours)
}

/// Hugging Face's names of the parameters of `model`.
pub fn to_theirs(preset: Preset, model: &Model) -> Result<Vec<(String, Tensor)>> {
    let ours = model.params().map(|(name, tensor)| (name.to_owned(), tensor.clone()));
    if preset == Preset::Gpt2 {
        return to_gpt2(model.config(), ours.collect());
    }
    let gain = |name: &str| preset.gains_from_zero() && name.ends_with("norm.weight");
    ours.map(|(name, tensor)| if gain(&name) { Ok((name, (tensor - 1.0)?)) } else { Ok((name, tensor)) }).collect()
}

/// Our part of a layer and GPT-2's, where one is the other (transposed if `true`).
const GPT2: [(&str, &str, bool); 5] = [
    ("input_layernorm", "ln_1", false),
    ("self_attn.o_proj", "attn.c_proj", true),
    ("post_attention_layernorm", "ln_2", false),
    ("mlp.up_proj", "mlp.c_fc", true),
    ("mlp.down_proj", "mlp.c_proj", true),
];

const GPT2_OUTSIDE: [(&str, &str); 5] = [
    ("model.embed_tokens.weight", "wte.weight"),
    ("model.embed_positions.weight", "wpe.weight"),
    ("model.norm.weight", "ln_f.weight"),
    ("model.norm.bias", "ln_f.bias"),
    ("lm_head.weight", "lm_head.weight"),
];

fn from_gpt2(tensors: Named) -> Result<Named> {
    let mut ours = Named::new();
    for (name, tensor) in tensors {
        let short = name.strip_prefix("transformer.").unwrap_or(&name);
        if let Some((our, _)) = GPT2_OUTSIDE.iter().find(|(_, their)| *their == short) {
            ours.insert((*our).to_owned(), tensor);
            continue;
        }
        let unknown = || Error::UnknownTensor { name: name.clone() };
        let (layer, part) = short.strip_prefix("h.").and_then(|rest| rest.split_once('.')).ok_or_else(unknown)?;
        if matches!(part, "attn.bias" | "attn.masked_bias") {
            continue; // the causal mask, in old files
        }
        let (part, kind) = part.rsplit_once('.').ok_or_else(unknown)?;
        let turn = |x: &Tensor| if x.rank() == 2 { x.t()?.contiguous() } else { Ok(x.clone()) };
        if part == "attn.c_attn" {
            for (letter, piece) in ["q", "k", "v"].into_iter().zip(turn(&tensor)?.chunk(3, 0)?) {
                ours.insert(format!("model.layers.{layer}.self_attn.{letter}_proj.{kind}"), piece.contiguous()?);
            }
            continue;
        }
        let (our, _, transposed) = GPT2.iter().find(|(_, their, _)| *their == part).ok_or_else(unknown)?;
        let tensor = if *transposed { turn(&tensor)? } else { tensor };
        ours.insert(format!("model.layers.{layer}.{our}.{kind}"), tensor);
    }
    Ok(ours)
}

fn to_gpt2(config: &ModelConfig, ours: Named) -> Result<Vec<(String, Tensor)>> {
    let mut theirs = Vec::new();
    let need = |name: &str| ours.get(name).ok_or_else(|| Error::MissingTensor { name: name.to_owned() });
    for (our, their) in GPT2_OUTSIDE {
        let prefix = if their == "lm_head.weight" { "" } else { "transformer." };
        if !(config.tied && their == "lm_head.weight") {
            theirs.push((format!("{prefix}{their}"), need(our)?.clone()));
        }
    }
    for l in 0..config.n_layer {
        for kind in ["weight", "bias"] {
            let turn = |x: &Tensor| if kind == "weight" { x.t()?.contiguous() } else { Ok(x.clone()) };
            for (our, their, transposed) in GPT2 {
                let tensor = need(&format!("model.layers.{l}.{our}.{kind}"))?;
                let tensor = if transposed { turn(tensor)? } else { tensor.clone() };
                theirs.push((format!("transformer.h.{l}.{their}.{kind}"), tensor));
            }
            let parts = ["q", "k", "v"].map(|letter| need(&format!("model.layers.{l}.self_attn.{letter}_proj.{kind}")));
            let fused = Tensor::cat(&parts.into_iter().collect::<Result<Vec<_>>>()?, 0)?;
            theirs.push((format!("transformer.h.{l}.attn.c_attn.{kind}"), turn(&fused)?));
        }
    }
    Ok(theirs)
}
