"""The trainer against PyTorch on the same CPU: same model, weights, rows and optimizer, two threads, alternating.

    cargo build --release -p trainer --example step_speed
    python3 tests/peers/train.py [--rounds 3] [--only NAME]... [--threads 2] [--python PYTHON]

PYTHON has torch 2.15.0, numpy and safetensors (without it they are installed from PyPI in a throw-away environment). The peer is a plain
Llama: RMSNorm, rotary positions, grouped-query attention by `scaled_dot_product_attention`, SwiGLU, a tied head, `cross_entropy`,
`clip_grad_norm_` and fused AdamW, in f32, eager and under `torch.compile`. Every measurement is a process of its own; sides alternate.
A step's time is the median of the steps after the first two; time to the first step counts from the start of the process, without the
peer's imports; memory is the highest resident size of the process, also without what it was after the imports. Losses before the last step are
compared. Prints a Markdown table a model, ratios with the better of the peer's two forms.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = ["torch==2.15.0", "numpy==2.4.6", "safetensors==0.8.0"]
# name -> sizes, rows of a step, steps
MODELS = {
    "0.3 M, width 64": (dict(vocab_size=2048, n_layer=4, n_head=4, n_kv_head=2, n_embd=64, n_ffn=176, sequence_len=256), 16, 12),
    "0.8 M, width 128": (dict(vocab_size=2048, n_layer=3, n_head=4, n_kv_head=2, n_embd=128, n_ffn=352, sequence_len=256), 16, 12),
    "5 M, width 256": (dict(vocab_size=4096, n_layer=6, n_head=8, n_kv_head=4, n_embd=256, n_ffn=704, sequence_len=256), 8, 8),
    "29 M, width 512": (dict(vocab_size=8192, n_layer=8, n_head=8, n_kv_head=4, n_embd=512, n_ffn=1408, sequence_len=256), 4, 8),
}

PEER = r"""
import sys, json, time, os, resource
import numpy as np, torch, torch.nn.functional as F
from safetensors.torch import load_file
config, folder, rows, steps, threads, compiled = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6] == "compile"
torch.set_num_threads(threads)
if compiled:
    import torch._inductor.config, torch._dynamo
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024
open("/proc/self/clear_refs", "w").write("5")
resident, began = status("VmRSS"), time.perf_counter()
C = config; D = C["n_embd"] // C["n_head"]; T = C["sequence_len"]
class Norm(torch.nn.Module):
    def __init__(self):
        super().__init__(); self.weight = torch.nn.Parameter(torch.ones(C["n_embd"]))
    def forward(self, x):
        return F.rms_norm(x, (C["n_embd"],), self.weight, 1e-5)
def linear(i, o):
    return torch.nn.Linear(i, o, bias=False)
class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__(); n, k, e = C["n_head"] * D, C["n_kv_head"] * D, C["n_embd"]
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = linear(e, n), linear(e, k), linear(e, k), linear(n, e)
    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        q, k, v = (p(x).view(b, t, -1, D).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        def turn(y):
            a, c = y.chunk(2, -1)
            return torch.cat((a * cos - c * sin, c * cos + a * sin), -1)
        y = F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))
class Mlp(torch.nn.Module):
    def __init__(self):
        super().__init__(); e, f = C["n_embd"], C["n_ffn"]
        self.gate_proj, self.up_proj, self.down_proj = linear(e, f), linear(e, f), linear(f, e)
    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn, self.mlp, self.input_layernorm, self.post_attention_layernorm = Attention(), Mlp(), Norm(), Norm()
    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(C["vocab_size"], C["n_embd"])
        self.layers = torch.nn.ModuleList(Layer() for _ in range(C["n_layer"])); self.norm = Norm()
        angle = torch.outer(torch.arange(T), 10000.0 ** (-torch.arange(0, D, 2) / D))
        self.register_buffer("cos", angle.cos(), False); self.register_buffer("sin", angle.sin(), False)
    def forward(self, ids, targets):
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return F.cross_entropy((self.norm(x) @ self.embed_tokens.weight.T).view(-1, C["vocab_size"]), targets.view(-1))
model = Model()
model.load_state_dict({k.removeprefix("model."): v for k, v in load_file(folder + "/model.safetensors").items() if k != "lm_head.weight"})
decayed = [p for p in model.parameters() if p.dim() == 2]; rest = [p for p in model.parameters() if p.dim() != 2]
optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True)
i = np.arange(rows * T + 1, dtype=np.uint64); every = torch.from_numpy(((i * i * np.uint64(31) + np.uint64(7) * i) % np.uint64(C["vocab_size"])).astype(np.int64))
ids, targets = every[:-1].view(rows, T), every[1:].view(rows, T)
run = torch.compile(model) if compiled else model
wall, cpu, losses = [], [], []
for step in range(steps):
    start, spent = time.perf_counter(), time.process_time()
    loss = run(ids, targets); loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step(); optimizer.zero_grad(set_to_none=True); losses.append(loss.item())
    wall.append(time.perf_counter() - start); cpu.append(time.process_time() - spent)
    if step == 0: first = time.perf_counter() - began
print(json.dumps(dict(first_step=first, wall=wall, cpu=cpu, peak_bytes=status("VmHWM") - resident, first_loss=losses[0], last_loss=losses[-1])))
"""


def measured(command):
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf8")
    return json.loads(done.stdout.strip().splitlines()[-1])


def settled(rows, key):
    return statistics.median(statistics.median(row[key][2:]) for row in rows)


def compare(name, python, options, folder):
    sizes, rows, steps = MODELS[name]
    config = json.dumps(sizes)
    program = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "examples" / "step_speed"
    subprocess.run([program, config, folder, "1", "0", "1"], check=True)
    sides = {
        "gristmill": [program, config, folder, rows, steps, options.threads],
        "PyTorch, eager": [python, "-c", PEER, config, folder, rows, steps, options.threads, "eager"],
        "PyTorch, compile": [python, "-c", PEER, config, folder, rows, steps, options.threads, "compile"],
    }
    found = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side, command in sides.items():
            found[side].append(measured(command))
            print(name, side, found[side][-1], file=sys.stderr, flush=True)
    tokens = rows * sizes["sequence_len"]
    print(f"\n{name}: {rows} rows of {sizes['sequence_len']} tokens, vocabulary {sizes['vocab_size']}, {options.threads} threads, median of {options.rounds}\n")
    print("| | tokens/s | tokens per CPU s | peak MB | first step s | loss before the last step |\n|---|---|---|---|---|---|")
    table = {}
    for side, runs in found.items():
        table[side] = wall, cpu, peak, first = (
            settled(runs, "wall"), settled(runs, "cpu"), statistics.median(r["peak_bytes"] for r in runs), statistics.median(r["first_step"] for r in runs))
        losses = ", ".join(sorted({f"{r['last_loss']:.4f}" for r in runs}))
        print(f"| {side} | {tokens / wall:.0f} | {tokens / cpu:.0f} | {peak / 1e6:.0f} | {first:.2f} | {losses} |")
    ours, eager, compiled = table.values()
    best = [min(a, b) for a, b in zip(eager, compiled)]
    print(f"\ngristmill against the better of the two: {best[0] / ours[0]:.2f} x tokens/s, {best[1] / ours[1]:.2f} x per CPU s, "
          f"{ours[2] / best[2]:.2f} of the memory; first step {compiled[3] / ours[3]:.0f} x sooner than compile")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", action="append", choices=list(MODELS), default=[])
    parser.add_argument("--python", type=pathlib.Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = options.python
        if not python:
            environment = pathlib.Path(folder) / "environment"
            venv.create(environment, with_pip=True)
            python = environment / "bin" / "python"
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True)
        for name in options.only or MODELS:
            compare(name, python, options, folder)


if __name__ == "__main__":
    main()
