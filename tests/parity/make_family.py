"""Golden numbers for the model family (trainer/src/hf/tests.rs), from transformers and torch on the CPU in f32.

In:  nothing (seeds below; no network, no weights from any hub).
Out: goldens/family/<case>.safetensors (weights, token ids, logits, every gradient of a mean cross-entropy) and <case>.json
     (`config`: what transformers writes as config.json; or `family`: gristmill's own options). Run: python make_family.py
     [OUT_DIR]; seconds on two cores.

A case with `config` has the weights' Hugging Face names and checks the presets' loaders. A case with `family` is a model of
another library that no preset loads; its weights are renamed here.
"""

import json
import os
import sys

os.environ.update(CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")

import numpy as np
import torch
import transformers as hf
from safetensors.numpy import save_file

BASE = dict(vocab_size=43, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=32, attn_implementation="eager", pad_token_id=None,
            bos_token_id=None, eos_token_id=1)
LLAMA3 = dict(rope_type="llama3", rope_theta=300.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
YARN = dict(rope_type="yarn", rope_theta=300.0, factor=4.0, original_max_position_embeddings=64)
PLAIN = dict(rope_type="default", rope_theta=300.0)
GEMMA = BASE | dict(head_dim=6, query_pre_attn_scalar=5, sliding_window=5, num_hidden_layers=3, rms_norm_eps=1e-4,
                    layer_types=["sliding_attention", "sliding_attention", "full_attention"])
PRESETS = {
    "gpt2": hf.GPT2Config(vocab_size=43, n_positions=32, n_embd=16, n_layer=2, n_head=4, n_inner=20, resid_pdrop=0.0,
                          embd_pdrop=0.0, attn_pdrop=0.0, layer_norm_epsilon=1e-3, bos_token_id=None, eos_token_id=1,
                          attn_implementation="eager"),
    "llama3": hf.LlamaConfig(**BASE, rope_parameters=LLAMA3, tie_word_embeddings=False, rms_norm_eps=1e-3),
    "llama_yarn": hf.LlamaConfig(**BASE, rope_parameters=YARN, tie_word_embeddings=True, attention_bias=True,
                                 mlp_bias=True, head_dim=8),
    "llama_linear": hf.LlamaConfig(**BASE, rope_parameters=PLAIN | dict(rope_type="linear", factor=3.0), head_dim=8),
    "qwen2": hf.Qwen2Config(**BASE, rope_parameters=PLAIN, tie_word_embeddings=True),
    "qwen3": hf.Qwen3Config(**BASE, rope_parameters=PLAIN, head_dim=6, tie_word_embeddings=True, rms_norm_eps=1e-4),
    "mistral": hf.MistralConfig(**BASE, rope_parameters=PLAIN, sliding_window=5, tie_word_embeddings=False),
    "olmo2": hf.Olmo2Config(**BASE, rope_parameters=PLAIN, tie_word_embeddings=False, rms_norm_eps=1e-4),
    "smollm3": hf.SmolLM3Config(**BASE, rope_parameters=PLAIN, no_rope_layers=[1, 0]),
    "gemma2": hf.Gemma2Config(**GEMMA, rope_parameters=PLAIN, attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    "gemma3": hf.Gemma3TextConfig(**GEMMA, rope_parameters={
        "full_attention": PLAIN | dict(rope_type="linear", factor=8.0), "sliding_attention": PLAIN | dict(rope_theta=50.0)}),
}


def randomise(model, seed):
    """Every tensor at random around its default: gains (LayerNorm, RMSNorm) 1 + 0.3 n, Gemma's gains and biases 0.3 n,
    matrices n / sqrt(fan_in), so that logits spread."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=rng)
            if p.ndim == 1:
                p.copy_(p.round().clamp(0, 1) + 0.3 * noise)
            elif "embed" in name or "wte" in name or "wpe" in name:
                p.copy_(noise * 1.5 / p.shape[1] ** 0.5)
            else:
                p.copy_(noise * 1.2 / min(p.shape) ** 0.5)
    return model


def case(folder, name, facts, model, logits_of, rename, seed):
    """Writes logits and gradients of two rows of 24 tokens; the loss has the family's z-loss."""
    rng = np.random.default_rng(seed)
    ids, targets = (torch.from_numpy(rng.integers(0, 43, (2, 24))) for _ in range(2))
    logits = logits_of(ids)
    spread = logits.std().item()
    assert spread >= 0.8, (name, spread)
    z = facts.get("family", {}).get("z_loss", 0.0)
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 43), targets.reshape(-1))
    (loss + z * logits.logsumexp(-1).square().mean()).backward()
    tensors = {"ids": ids.numpy().astype(np.uint32), "targets": targets.numpy().astype(np.uint32),
               "logits": logits.detach().numpy()}
    for prefix, values in (("weight.", {n: p.detach() for n, p in model.named_parameters()}),
                           ("grad.", {n: p.grad for n, p in model.named_parameters()})):
        tensors |= {prefix + n: np.ascontiguousarray(v.numpy()) for n, v in rename(values).items()}
    save_file(tensors, os.path.join(folder, name + ".safetensors"))
    with open(os.path.join(folder, name + ".json"), "w") as f:
        json.dump(facts, f, indent=1, sort_keys=True)
        f.write("\n")
    print(f"{name:14} spread {spread:.2f}, {sum(t.nbytes for t in tensors.values())} bytes")


def preset(folder, name, config, seed):
    model = randomise(hf.AutoModelForCausalLM.from_config(config).float(), seed).eval()
    facts = {"config": json.loads(config.to_json_string(use_diff=True))}
    case(folder, name, facts, model, lambda ids: model(input_ids=ids).logits, lambda values: values, seed)


def split_qkv(out, prefix, values, biases):
    """[3 c, ...] -> the three parts."""
    for kind in ("weight", "bias") if biases else ("weight",):
        for part, value in zip("qkv", values[kind].chunk(3)):
            out[f"{prefix}{part}_proj.{kind}"] = value


def neox(folder, seed):
    """GPT-NeoX without its parallel residual: LayerNorm, rotary on a quarter of each head, exact GELU, biases."""
    config = hf.GPTNeoXConfig(vocab_size=43, hidden_size=32, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
                              max_position_embeddings=32, hidden_act="gelu", use_parallel_residual=False,
                              rope_parameters=PLAIN | dict(partial_rotary_factor=0.5), attn_implementation="eager",
                              layer_norm_eps=1e-3, tie_word_embeddings=False)
    model = randomise(hf.GPTNeoXForCausalLM(config).float(), seed).eval()

    def rename(values):
        out = {"model.embed_tokens.weight": values["gpt_neox.embed_in.weight"],
               "model.norm.weight": values["gpt_neox.final_layer_norm.weight"],
               "model.norm.bias": values["gpt_neox.final_layer_norm.bias"],
               "lm_head.weight": values["lm_head.weight" if "lm_head.weight" in values else "embed_out.weight"]}
        names = {"input_layernorm": "input_layernorm", "post_attention_layernorm": "post_attention_layernorm",
                 "attention.dense": "self_attn.o_proj", "mlp.dense_h_to_4h": "mlp.up_proj", "mlp.dense_4h_to_h": "mlp.down_proj"}
        for l in range(2):
            old, new = f"gpt_neox.layers.{l}.", f"model.layers.{l}."
            for kind in ("weight", "bias"):
                for a, b in names.items():
                    out[f"{new}{b}.{kind}"] = values[f"{old}{a}.{kind}"]
                fused = values[f"{old}attention.query_key_value.{kind}"]
                fused = fused.reshape(4, 3, 8, *fused.shape[1:])  # heads, then queries, keys, values
                for i, part in enumerate("qkv"):
                    out[f"{new}self_attn.{part}_proj.{kind}"] = fused[:, i].reshape(32, *fused.shape[3:])
        return out

    family = dict(vocab_size=43, n_layer=2, n_head=4, n_kv_head=4, n_embd=32, n_ffn=20, sequence_len=32, rope_theta=300.0,
                  norm_eps=1e-3, tied=False, norm="layer", rope_share=0.5, attention_bias="all", mlp="gelu_erf", mlp_bias=True)
    case(folder, "neox", {"family": family}, model, lambda ids: model(input_ids=ids).logits, rename, seed)


def bigcode(folder, seed):
    """GPT-BigCode: one key and value head, ReLU, learned positions; with a z-loss."""
    config = hf.GPTBigCodeConfig(vocab_size=43, n_positions=32, n_embd=16, n_layer=2, n_head=4, n_inner=20, resid_pdrop=0.0,
                                 embd_pdrop=0.0, attn_pdrop=0.0, layer_norm_epsilon=1e-3, activation_function="relu",
                                 multi_query=True, attn_implementation="eager")
    model = randomise(hf.GPTBigCodeForCausalLM(config).float(), seed).eval()

    def rename(values):
        out = {"model.embed_tokens.weight": values["transformer.wte.weight"],
               "model.embed_positions.weight": values["transformer.wpe.weight"],
               "model.norm.weight": values["transformer.ln_f.weight"], "model.norm.bias": values["transformer.ln_f.bias"]}
        names = {"ln_1": "input_layernorm", "attn.c_proj": "self_attn.o_proj", "ln_2": "post_attention_layernorm",
                 "mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj"}
        for l in range(2):
            for kind in ("weight", "bias"):
                for a, b in names.items():
                    out[f"model.layers.{l}.{b}.{kind}"] = values[f"transformer.h.{l}.{a}.{kind}"]
                fused = values[f"transformer.h.{l}.attn.c_attn.{kind}"].split([16, 4, 4])
                for part, value in zip("qkv", fused):
                    out[f"model.layers.{l}.self_attn.{part}_proj.{kind}"] = value
        return out

    family = dict(vocab_size=43, n_layer=2, n_head=4, n_kv_head=1, n_embd=16, n_ffn=20, sequence_len=32, norm_eps=1e-3, tied=True,
                  norm="layer", position="learned", attention_bias="all", mlp="relu", mlp_bias=True, z_loss=0.01)
    case(folder, "bigcode", {"family": family}, model, lambda ids: model(input_ids=ids).logits, rename, seed)


class PostNorm(torch.nn.Module):
    """torch's own encoder layers under a causal mask: norms after each sum, as in the first Transformer, sinusoids, ReLU^2."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(43, 16)
        layer = lambda: torch.nn.TransformerEncoderLayer(16, 4, 20, dropout=0.0, batch_first=True, norm_first=False,
                                                         layer_norm_eps=1e-3, activation=lambda x: torch.relu(x).square())
        self.layers = torch.nn.ModuleList([layer(), layer()])
        self.norm = torch.nn.LayerNorm(16, eps=1e-3)
        self.head = torch.nn.Linear(16, 43, bias=False)

    def forward(self, ids):
        t = ids.shape[1]
        angle = torch.arange(t)[:, None].double() / 300.0 ** (torch.arange(0, 16, 2).double() / 16)
        x = self.embed(ids) + torch.stack([angle.sin(), angle.cos()], -1).reshape(t, 16).float()
        mask = torch.nn.Transformer.generate_square_subsequent_mask(t)
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        return self.head(self.norm(x))


def post_norm(folder, seed):
    model = randomise(PostNorm(), seed)

    def rename(values):
        out = {"model.embed_tokens.weight": values["embed.weight"], "model.norm.weight": values["norm.weight"],
               "model.norm.bias": values["norm.bias"], "lm_head.weight": values["head.weight"]}
        names = {"self_attn.out_proj": "self_attn.o_proj", "norm1": "post_attention_layernorm", "linear1": "mlp.up_proj",
                 "linear2": "mlp.down_proj", "norm2": "post_feedforward_layernorm"}
        for l in range(2):
            for kind in ("weight", "bias"):
                for a, b in names.items():
                    out[f"model.layers.{l}.{b}.{kind}"] = values[f"layers.{l}.{a}.{kind}"]
            fused = {kind: values[f"layers.{l}.self_attn.in_proj_{kind}"] for kind in ("weight", "bias")}
            split_qkv(out, f"model.layers.{l}.self_attn.", fused, True)
        return out

    family = dict(vocab_size=43, n_layer=2, n_head=4, n_kv_head=4, n_embd=16, n_ffn=20, sequence_len=32, rope_theta=300.0,
                  norm_eps=1e-3, tied=False, norm="layer", placement="post", position="sinusoidal", attention_bias="all",
                  mlp="relu2", mlp_bias=True)
    case(folder, "post_norm", {"family": family}, model, model, rename, seed)


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "goldens", "family")
    os.makedirs(folder, exist_ok=True)
    for seed, (name, config) in enumerate(PRESETS.items()):
        preset(folder, name, config, seed)
    neox(folder, 100)
    post_norm(folder, 101)
    bigcode(folder, 102)


if __name__ == "__main__":
    main()
