"""Ten steps of every rule in f64, and 8-bit quantisation, for trainer/src/optim/trajectory_tests.rs.

In:  nothing (seeds below).
Out: optimizers/problem.safetensors (start, slope, pull), optimizers/<case>.safetensors (weights after steps 1, 5, 10) and
     <case>.json (settings), optimizers/quantised.safetensors, versions.json. Run: python optimizers.py [OUT_DIR].

The gradient of step t at weights w is `slope * w + pull[t]`, element by element. AdamW, SGD and Muon are `torch.optim`'s; Muon
iterates in bfloat16 there, so for its run the name `torch.bfloat16` means f64: the code is PyTorch's, the digits are ours to
compare. Lion is its published formula (Chen et al. 2023, algorithm 2) in numpy. Decay is decoupled everywhere: SGD gets
it as a product before the step. Tables and scales come from bitsandbytes on the CPU; codes are the nearest of the table in
f64, since its CPU kernel looks small numbers up in a coarser table (asserted: it is never nearer).
"""

import json
import os
import platform
import sys

import bitsandbytes
import numpy as np
import torch
from bitsandbytes.functional import create_dynamic_map, quantize_blockwise
from safetensors.numpy import save_file

SHAPES = {"wide": (6, 10), "tall": (10, 6), "square": (5, 5), "gain": (7,)}
STEPS, KEPT = 10, (1, 5, 10)
RATES = [0.05 * (1 - t / 20) for t in range(STEPS)]


def problem(rng):
    start = {k: rng.standard_normal(s) for k, s in SHAPES.items()}
    slope = {k: np.abs(rng.standard_normal(s)) for k, s in SHAPES.items()}
    pull = {k: rng.standard_normal((STEPS, *s)) for k, s in SHAPES.items()}
    pull["gain"][:, 0] = 0  # a gradient that comes from the weight alone
    return start, slope, pull


def run_torch(make, decay_before, start, slope, pull):
    w = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in start.items()}
    optimizer, kept = make(list(w.values())), {}
    for t, lr in enumerate(RATES):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for k, p in w.items():
            p.grad = torch.tensor(slope[k]) * p.detach() + torch.tensor(pull[k][t])
            if decay_before:
                p.data.mul_(1 - lr * decay_before)
        optimizer.step()
        if t + 1 in KEPT:
            kept |= {f"{k}.{t + 1}": p.detach().numpy().copy() for k, p in w.items()}
    return kept


def run_lion(start, slope, pull, betas, decay):
    w, m, kept = {k: v.copy() for k, v in start.items()}, {k: np.zeros_like(v) for k, v in start.items()}, {}
    for t, lr in enumerate(RATES):
        for k in w:
            g = slope[k] * w[k] + pull[k][t]
            direction = np.sign(betas[0] * m[k] + (1 - betas[0]) * g)
            w[k] = w[k] - lr * (direction + decay * w[k])
            m[k] = betas[1] * m[k] + (1 - betas[1]) * g
        if t + 1 in KEPT:
            kept |= {f"{k}.{t + 1}": v.copy() for k, v in w.items()}
    return kept


def main():
    torch.set_num_threads(1)
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "optimizers")
    os.makedirs(folder, exist_ok=True)

    def write(name, tensors, facts=None):
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, os.path.join(folder, name + ".safetensors"))
        if facts is not None:
            with open(os.path.join(folder, name + ".json"), "w") as f:
                json.dump(facts, f, indent=1, sort_keys=True)
                f.write("\n")

    start, slope, pull = problem(np.random.default_rng(12))
    named = (("start", start), ("slope", slope), ("pull", pull))
    write("problem", {f"{part}.{k}": v for part, values in named for k, v in values.items()}, {"rates": RATES})
    matrices = [{k: v for k, v in part.items() if k != "gain"} for part in (start, slope, pull)]

    for name, betas, eps in (("adamw", (0.9, 0.95), 1e-8), ("adamw_slow", (0.8, 0.999), 1e-3)):
        make = lambda p: torch.optim.AdamW(p, lr=1.0, betas=betas, eps=eps, weight_decay=0.1)
        write(name, run_torch(make, 0, start, slope, pull), {"betas": betas, "eps": eps, "weight_decay": 0.1})
    for name, momentum, nesterov in (("sgd", 0.0, False), ("sgd_momentum", 0.9, False), ("sgd_nesterov", 0.8, True)):
        make = lambda p: torch.optim.SGD(p, lr=1.0, momentum=momentum, nesterov=nesterov)
        facts = {"momentum": momentum, "nesterov": nesterov, "weight_decay": 0.1}
        write(name, run_torch(make, 0.1, start, slope, pull), facts)
    for name, betas in (("lion", (0.9, 0.99)),):
        write(name, run_lion(start, slope, pull, betas, 0.1), {"betas": betas, "weight_decay": 0.1})
    half, torch.bfloat16 = torch.bfloat16, torch.float64
    for name, scale, nesterov, steps in (("muon_spectral", "original", True, 5), ("muon_adamw", "match_rms_adamw", False, 3)):
        make = lambda p: torch.optim.Muon(p, lr=1.0, weight_decay=0.1, momentum=0.95, nesterov=nesterov, ns_steps=steps,
                                          adjust_lr_fn=scale)
        facts = {"momentum": 0.95, "nesterov": nesterov, "newton_schulz_steps": steps, "weight_decay": 0.1}
        write(name, run_torch(make, 0, *matrices), facts)
    torch.bfloat16 = half

    rng = np.random.default_rng(13)
    numbers = (rng.standard_normal(600) * np.repeat([1e-6, 3.0, 1e5], 200)).astype(np.float32)
    tensors = {"numbers": numbers, "squares": numbers * numbers}
    for part, signed, values in (("signed", True, numbers), ("unsigned", False, numbers * numbers)):
        table = create_dynamic_map(signed=signed)
        theirs, state = quantize_blockwise(torch.tensor(values), code=table, blocksize=256)
        scales, values64 = state.absmax.numpy(), table.numpy().astype(np.float64)
        shares = values.astype(np.float64) / np.repeat(scales.astype(np.float64), 256)[:len(values)]
        apart = np.abs(values64[None, :] - shares[:, None])
        codes = apart.argmin(1)
        rows = np.arange(len(values))
        assert (apart[rows, codes] <= apart[rows, theirs.numpy().ravel()]).all()
        tensors |= {f"{part}.table": table.numpy(), f"{part}.codes": codes.astype(np.uint8), f"{part}.scales": scales}
    write("quantised", tensors)
    with open(os.path.join(folder, "versions.json"), "w") as f:
        versions = {m.__name__: m.__version__ for m in (bitsandbytes, np, torch)}
        json.dump({"python": platform.python_version(), "machine": platform.machine()} | versions, f, indent=1, sort_keys=True)
        f.write("\n")


if __name__ == "__main__":
    main()
