"""Golden numbers for tests/parity.rs, from PyTorch, transformers and TRL on the CPU in f32.

In:  nothing (seeds below; no network, no weights from any hub).
Out: goldens/<case>.safetensors (inputs, expected tensors) and goldens/<case>.json (expected scalars, settings),
     goldens/versions.json. Run: python make_goldens.py [OUT_DIR]; about a minute on two cores.

The losses are TRL's own code: `SFTTrainer.compute_loss`, `DPOTrainer.compute_loss`, `GRPOTrainer.compute_loss` and
GRPO's own scoring of rollouts (advantages), driven with fixed inputs. Nothing here re-implements a loss.
Batches are stored the way gristmill lays them out: rows flush left, [b, t] row-major, `targets` already shifted.
"""

import copy
import json
import os
import platform
import sys
import tempfile

os.environ.update(CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import accelerate
import datasets
import numpy as np
import tokenizers
import torch
import transformers
import trl
from safetensors.numpy import save_file
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, EOS = 0, 1
BASE = dict(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            attention_dropout=0.0, pad_token_id=None, bos_token_id=None, eos_token_id=EOS, attn_implementation="eager")
# Two shapes that differ in every number a loader could get wrong.
TIED = LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=56, rms_norm_eps=1e-5, tie_word_embeddings=True,
                   rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}, **BASE)
UNTIED = LlamaConfig(vocab_size=61, hidden_size=16, intermediate_size=24, rms_norm_eps=1e-3, tie_word_embeddings=False,
                     rope_parameters={"rope_type": "default", "rope_theta": 500.0}, **BASE)


# --- models and batches -------------------------------------------------------------------------------------------


def random_model(config, seed):
    """Every tensor at random around its default: gains 1 + 0.3 n, matrices n / sqrt(fan_in), so logits spread."""
    model = LlamaForCausalLM(copy.deepcopy(config)).float()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=rng)
            if p.ndim == 1:
                p.copy_(1 + 0.3 * noise)
            elif "embed_tokens" in name and config.tie_word_embeddings:
                p.copy_(noise * 1.5 / config.hidden_size**0.5)
            else:
                p.copy_(noise * 1.2 / p.shape[1] ** 0.5)
    return model


def perturbed(model, seed, scale):
    """The same model a little off: every tensor times 1 + scale n."""
    other = copy.deepcopy(model)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1 + scale * torch.randn(p.shape, generator=rng))
    return other


def draw(rng, n, vocab_size):
    return rng.integers(2, vocab_size, n).tolist()


def batch_of(rows, masks):
    """Rows of ids and 0/1 masks (1 = this token is a target) -> gristmill's Batch fields, each [b, t]."""
    t = max(map(len, rows)) - 1
    out = {k: np.zeros((len(rows), t), np.uint32) for k in ("ids", "targets", "positions", "doc_starts")}
    out["loss_mask"] = np.zeros((len(rows), t), np.float32)
    for r, (ids, mask) in enumerate(zip(rows, masks)):
        n = len(ids) - 1
        out["ids"][r, :n], out["targets"][r, :n] = ids[:-1], ids[1:]
        out["loss_mask"][r, :n] = mask[1:]
        out["positions"][r] = np.arange(t)
    return {f"batch.{k}": v for k, v in out.items()}


def padded(rows):
    """-> ids [b, L] right-padded with PAD, attention mask [b, L]."""
    length = max(map(len, rows))
    ids = torch.tensor([r + [PAD] * (length - len(r)) for r in rows])
    return ids, torch.tensor([[1] * len(r) + [0] * (length - len(r)) for r in rows])


def gradients(model):
    grads = {f"grad.{n}": p.grad.clone().numpy() for n, p in model.named_parameters()}
    for name, g in grads.items():
        assert np.linalg.norm(g) > 0, f"{name} is zero"
    return grads


def weights(model, prefix="weight."):
    return {prefix + n: p.detach().clone().numpy() for n, p in model.named_parameters()}


def noise_floor(model, run):
    """Largest rel-L2 distance of a gradient in f32 from the same in f64: how far off PyTorch itself may be."""
    model.zero_grad(); run(model).backward(); single = gradients(model)
    wide = copy.deepcopy(model).double()
    wide.zero_grad(); run(wide).backward(); double = gradients(wide)
    return max(float(np.linalg.norm(single[k] - double[k]) / np.linalg.norm(double[k])) for k in single)


class Writer:
    def __init__(self, folder):
        self.folder, self.bytes = folder, 0
        os.makedirs(folder, exist_ok=True)

    def case(self, name, tensors, facts):
        tensors = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
        tensors = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in tensors.items()}
        path = os.path.join(self.folder, name)
        save_file(tensors, path + ".safetensors")
        self.json(name, facts)
        self.bytes += os.path.getsize(path + ".safetensors")
        print(f"{name:24} {os.path.getsize(path + '.safetensors'):8} bytes  {str(facts)[:110]}")

    def json(self, name, facts):
        with open(os.path.join(self.folder, name + ".json"), "w") as f:
            json.dump(facts, f, indent=1, sort_keys=True)
            f.write("\n")


# --- the model and the optimizer ----------------------------------------------------------------------------------


def forward_case(out, name, config, seed):
    """Logits, mean cross-entropy and every gradient on four ragged rows."""
    model, rng = random_model(config, seed), np.random.default_rng(seed)
    rows = [draw(rng, n, config.vocab_size) for n in (14, 9, 2, 6)]
    ids, attention = padded(rows)
    labels = ids.masked_fill(attention == 0, -100)
    run = lambda m: m(input_ids=ids, attention_mask=attention, labels=labels).loss
    floor = noise_floor(model, run)
    model.zero_grad()
    result = model(input_ids=ids, attention_mask=attention, labels=labels)
    result.loss.backward()
    logits = result.logits.detach()[:, :-1]
    spread = logits[attention[:, 1:].bool()].std().item()
    assert spread >= 1, spread
    out.case(name, weights(model) | gradients(model) | {"logits": logits.numpy()}
             | batch_of(rows, [[1] * len(r) for r in rows]),
             {"config": model.config.to_dict(), "loss": result.loss.item(), "logits_std": spread, "seed": seed,
              "torch_f32_vs_f64": floor})
    return model


def optimizer_case(out, model, seed, steps=10, clip_norm=5.3):
    """Ten AdamW steps: weight decay on matrices only, gradients clipped by global norm in some steps only."""
    model, rng = copy.deepcopy(model), np.random.default_rng(seed)
    setting = dict(lr=3e-3, betas=(0.9, 0.95), eps=1e-8)
    groups = [{"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, **setting)
    losses, norms, tensors = [], [], {}
    for step in range(steps):
        rows = [draw(rng, n, model.config.vocab_size) for n in (12, 7, 10, 5)]
        ids, attention = padded(rows)
        loss = model(input_ids=ids, attention_mask=attention, labels=ids.masked_fill(attention == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm).item())
        optimizer.step()
        losses.append(loss.item())
        tensors |= {f"step{step}.{k}": v for k, v in batch_of(rows, [[1] * len(r) for r in rows]).items()}
    assert min(norms) < clip_norm < max(norms), norms
    out.case("optimizer_tied", tensors | weights(model, "final."),
             setting | {"losses": losses, "grad_norms": norms, "weight_decay": 0.1, "clip_norm": clip_norm, "seed": seed})


def packed_case(out, model, seed):
    """Two documents per row with a block-diagonal mask and positions from 0 = the same documents in rows of their own."""
    rng, t = np.random.default_rng(seed), 13
    docs = [[draw(rng, n, model.config.vocab_size) for n in pair] for pair in ((6, 8), (10, 4))]
    rows = [a + b for a, b in docs]
    starts = [[0] * len(a) + [len(a)] * len(b) for a, b in docs]
    ids = torch.tensor(rows)
    first = torch.tensor(starts)                                                              # [b, L]
    column = torch.arange(ids.shape[1])
    positions = column - first
    allowed = (column[None, None] <= column[None, :, None]) & (column[None, None] >= first[:, :, None])
    bias = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[:, None]                 # [b, 1, L, L]
    labels = ids.masked_fill(positions == 0, -100)   # the first token of a document is never a target
    model.zero_grad()
    result = model(input_ids=ids, attention_mask=bias, position_ids=positions, labels=labels)
    result.loss.backward()
    packed, loss = gradients(model), result.loss.item()
    alone, attention = padded([d for pair in docs for d in pair])
    model.zero_grad()
    separate = model(input_ids=alone, attention_mask=attention, labels=alone.masked_fill(attention == 0, -100)).loss
    separate.backward()
    for name, g in gradients(model).items():
        assert np.linalg.norm(g - packed[name]) <= 1e-5 * np.linalg.norm(g), name
    assert abs(loss - separate.item()) < 1e-5
    batch = batch_of(rows, [[int(p != 0) for p in row] for row in positions.tolist()])
    batch["batch.positions"] = positions[:, :t].numpy().astype(np.uint32)
    batch["batch.doc_starts"] = first[:, :t].numpy().astype(np.uint32)
    out.case("packed_untied", batch | packed | {"logits": result.logits.detach()[:, :t].numpy()},
             {"loss": loss, "loss_separate_rows": separate.item(), "seed": seed})


# --- TRL ----------------------------------------------------------------------------------------------------------


def word_tokenizer(vocab_size):
    """`w2 w3 ...`; TRL asks for a tokenizer, the goldens use ids only."""
    names = ["<pad>", "<eos>", *(f"w{i}" for i in range(2, vocab_size))]
    inner = tokenizers.Tokenizer(WordLevel({n: i for i, n in enumerate(names)}, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")


def plain(folder):
    """Settings that make TRL's trainers run on the CPU in f32 and touch nothing outside `folder`."""
    return dict(output_dir=folder, use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False, report_to="none",
                save_strategy="no", seed=0)


def metrics_of(trainer):
    # A NaN mean (a row without counted tokens) is not a number JSON or a test can hold.
    means = {k: float(np.mean(v)) for k, v in trainer._metrics["train"].items()}
    trainer._metrics["train"].clear()
    return {k: v for k, v in sorted(means.items()) if np.isfinite(v)}


def loss_and_gradients(trainer, micro, **kwargs):
    """Sum of the losses over the micro-batches and the accumulated gradients: one optimizer step's worth."""
    model = trainer.model
    model.train()
    model.zero_grad()
    trainer.current_gradient_accumulation_steps = len(micro)
    total = 0.0
    for inputs in micro:
        loss = trainer.compute_loss(model, dict(inputs), **kwargs)
        loss.backward()
        total += loss.item()
    return total, gradients(model)


def sft_cases(out, model, folder, seed):
    """Completion-only loss over two micro-batches of unequal token counts, divided by the tokens of both."""
    rng, vocab = np.random.default_rng(seed), model.config.vocab_size
    examples = []
    for prompt, completion in ((4, 9), (7, 8), (3, 1), (2, 2), (5, 1)):
        ids = draw(rng, prompt + completion - 1, vocab) + [EOS]
        examples.append({"input_ids": ids, "completion_mask": [0] * prompt + [1] * completion})
    parts = (examples[:2], examples[2:])
    shared = {}
    for i, part in enumerate(parts):
        batch = batch_of([e["input_ids"] for e in part], [e["completion_mask"] for e in part])
        shared |= {f"micro{i}.{k}": v for k, v in batch.items()}
    for kind in ("nll", "dft"):
        args = trl.SFTConfig(**plain(folder), loss_type=kind, completion_only_loss=True, max_length=None, packing=False,
                             shuffle_dataset=False, per_device_train_batch_size=2)
        trainer = trl.SFTTrainer(copy.deepcopy(model), args, train_dataset=datasets.Dataset.from_list(examples),
                                 processing_class=word_tokenizer(vocab))
        rows = list(trainer.train_dataset)
        micro = [trainer.data_collator(rows[:2]), trainer.data_collator(rows[2:])]
        count = sum(int((m["labels"][:, 1:] != -100).sum()) for m in micro)
        loss, grads = loss_and_gradients(trainer, micro, num_items_in_batch=count)
        mean_of_means = 0.5 * sum(trainer.compute_loss(trainer.model, dict(m)).item() for m in micro)
        assert abs(mean_of_means - loss) > 1e-3, "the two normalisations must differ, else this shows nothing"
        out.case(f"sft_{kind}_untied", grads | (shared if kind == "nll" else {}),
                 {"loss": loss, "loss_type": kind, "loss_tokens": count, "seed": seed})


def dpo_cases(out, model, reference, folder, seed):
    """Six ragged pairs; rows 0..6 of the stored batch are the chosen, 6..12 the rejected ones, as in TRL."""
    rng, vocab = np.random.default_rng(seed), model.config.vocab_size
    pairs = [{"prompt_ids": draw(rng, p, vocab), "chosen_ids": draw(rng, c - 1, vocab) + [EOS],
              "rejected_ids": draw(rng, r - 1, vocab) + [EOS]}
             for p, c, r in ((4, 6, 3), (2, 1, 8), (6, 5, 5), (3, 9, 2), (5, 4, 7), (2, 7, 6))]
    tokenizer = word_tokenizer(vocab)
    text = [{"prompt": "w2", "chosen": " w3", "rejected": " w4"}]  # never used: inputs come from `pairs`
    rows = [p["prompt_ids"] + p[side] for side in ("chosen_ids", "rejected_ids") for p in pairs]
    masks = [[0] * len(p["prompt_ids"]) + [1] * len(p[side]) for side in ("chosen_ids", "rejected_ids") for p in pairs]
    shared = batch_of(rows, masks)
    for kind, setting in {"sigmoid": dict(beta=0.1), "ipo": dict(beta=0.1), "hinge": dict(beta=1.5),
                          "robust": dict(beta=0.3, label_smoothing=0.1), "sigmoid_norm": dict(beta=5.0)}.items():
        args = trl.DPOConfig(**plain(folder), loss_type=[kind], max_length=None, **setting)
        trainer = trl.DPOTrainer(copy.deepcopy(model), copy.deepcopy(reference), args, processing_class=tokenizer,
                                 train_dataset=datasets.Dataset.from_list(text))
        inputs = trainer.data_collator(pairs)
        loss, grads = loss_and_gradients(trainer, [inputs])
        metrics = metrics_of(trainer)
        with torch.no_grad():
            ref_chosen, ref_rejected = trainer.compute_ref_log_probs(trainer.ref_model, inputs)
            chosen, rejected = trainer.compute_ref_log_probs(trainer.model, inputs)
        if kind == "hinge":
            margin = setting["beta"] * ((chosen - ref_chosen) - (rejected - ref_rejected))
            assert margin.min() < 1 < margin.max(), margin
        facts = {"loss": loss, "loss_type": kind, "metrics": metrics, "seed": seed, "label_smoothing": 0.0} | setting
        # The batch, the reference and the sums of log-probs are the same for every loss: written once.
        inputs_once = shared | weights(reference, "reference.") | {
            "logp.chosen": chosen.numpy(), "logp.rejected": rejected.numpy(),
            "logp.ref_chosen": ref_chosen.numpy(), "logp.ref_rejected": ref_rejected.numpy()}
        out.case(f"dpo_{kind}_untied", grads | (inputs_once if kind == "sigmoid" else {}), facts)


def grpo_cases(out, model, reference, folder, seed):
    """Three groups of four; group 1 has equal rewards, row 2 is cut at the length limit, old log-probs carry noise."""
    rng, vocab, limit = np.random.default_rng(seed), model.config.vocab_size, 9
    lengths = [[5, 3, limit, 7], [2, 6, 4, 4], [8, 1, 5, 6]]
    rewards = [1.0, 0.0, 0.25, 1.0, 0.5, 0.5, 0.5, 0.5, 0.2, 0.0, 1.0, 0.7]
    prompts, completions = [], []
    for group, prompt_len in zip(lengths, (4, 2, 6)):
        prompt = draw(rng, prompt_len, vocab)
        for n in group:
            prompts.append(prompt)
            completions.append(draw(rng, n, vocab) if n == limit else draw(rng, n - 1, vocab) + [EOS])
    rows = [p + c for p, c in zip(prompts, completions)]
    masks = [[0] * len(p) + [1] * len(c) for p, c in zip(prompts, completions)]
    tokenizer = word_tokenizer(vocab)
    home = os.path.join(folder, "reference")
    reference.save_pretrained(home)
    tokenizer.save_pretrained(home)

    def rollout(_prompts, _trainer):
        return {"prompt_ids": prompts, "completion_ids": completions, "logprobs": [[0.0] * len(c) for c in completions]}

    def trainer_for(**setting):
        policy = copy.deepcopy(model)
        policy.config._name_or_path = home  # where TRL loads its reference model from
        args = trl.GRPOConfig(**plain(folder), num_generations=4, temperature=1.0,
                              max_completion_length=limit, per_device_train_batch_size=len(rows),
                              steps_per_generation=1, **setting)
        return trl.GRPOTrainer(policy, [lambda completions, **_: rewards], args, processing_class=tokenizer,
                               train_dataset=datasets.Dataset.from_list([{"prompt": "w2"}] * 3), rollout_func=rollout)

    def flush_left(values):  # [b, completion] as TRL holds it -> [b, t] at the positions of the targets
        t = max(map(len, rows)) - 1
        flat = np.zeros((len(rows), t), np.float32)
        for r, (p, c) in enumerate(zip(prompts, completions)):
            flat[r, len(p) - 1:len(p) - 1 + len(c)] = values[r, :len(c)].detach().numpy()
        return flat

    noise = torch.randn(len(rows), limit, generator=torch.Generator().manual_seed(seed)) * 0.4
    cases = [(f"{kind}_beta{tag}", dict(loss_type=kind, beta=beta))
             for kind in ("grpo", "bnpo", "dr_grpo", "dapo") for tag, beta in (("0", 0.0), ("004", 0.04))
             if (kind, tag) != ("bnpo", "004")]  # within one batch bnpo is dapo
    cases += [("dapo_entropy", dict(loss_type="dapo", beta=0.0, entropy_coef=0.05)),
              ("dapo_masked", dict(loss_type="dapo", beta=0.0, mask_truncated_completions=True)),
              ("gspo", dict(loss_type="grpo", beta=0.0, importance_sampling_level="sequence", epsilon=0.05,
                            epsilon_high=0.06)),
              ("cispo", dict(loss_type="cispo", beta=0.0, epsilon_high=1.5)),
              ("dapo_batch", dict(loss_type="dapo", beta=0.0, scale_rewards="batch")),
              ("dr_grpo_noscale", dict(loss_type="dr_grpo", beta=0.0, scale_rewards="none"))]
    old, written = None, False
    for name, setting in cases:
        setting = {"epsilon": 0.2, "epsilon_high": 0.28} | setting
        trainer = trainer_for(**setting)
        trainer.model.train()
        inputs = trainer._generate_and_score_completions([{"prompt": "w2"} for _ in rows])
        if old is None:
            current, _, _ = trainer._get_per_token_logps_and_entropies(
                trainer.model, torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
                torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1), inputs["completion_ids"].shape[1])
            old = current.detach() + noise[:, :current.shape[1]]
        inputs["old_per_token_logps"] = old
        loss, grads = loss_and_gradients(trainer, [inputs])
        metrics = metrics_of(trainer)
        clips = ["cispo_clip_ratio"] if name == "cispo" else ["clip_ratio/low_mean", "clip_ratio/high_mean"]
        assert all(0 < metrics[clip] < 1 for clip in clips), metrics
        tensors = grads | {"advantages": inputs["advantages"].numpy()}
        if setting["beta"] and not written:  # the same for every case: written once
            written = True
            tensors |= batch_of(rows, masks) | {"logp.current": flush_left(current), "logp.old": flush_left(old),
                                                "logp.ref": flush_left(inputs["ref_per_token_logps"])}
        facts = {"loss": loss, "metrics": metrics, "seed": seed, "rewards": rewards, "group_size": 4, "max_completion_length": limit, "truncated_rows": [2],
                 "entropy_coef": 0.0, "mask_truncated_completions": False, "importance_sampling_level": "token", "scale_rewards": "group"}
        out.case(f"grpo_{name}_untied", tensors, facts | setting)
    assert written


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    out = Writer(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "goldens"))
    tied = forward_case(out, "forward_tied", TIED, seed=1)
    untied = forward_case(out, "forward_untied", UNTIED, seed=2)
    optimizer_case(out, tied, seed=3)
    packed_case(out, untied, seed=4)
    reference = perturbed(untied, seed=5, scale=0.15)
    with tempfile.TemporaryDirectory() as folder:
        sft_cases(out, untied, folder, seed=6)
        dpo_cases(out, untied, reference, folder, seed=7)
        grpo_cases(out, untied, reference, folder, seed=10)
    out.json("versions", {"python": platform.python_version(), "machine": platform.machine()} | {
        m.__name__: m.__version__ for m in (accelerate, datasets, np, tokenizers, torch, transformers, trl)})
    print(f"{out.bytes} bytes in all")
    assert out.bytes < 1_000_000


if __name__ == "__main__":
    main()
