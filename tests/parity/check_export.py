"""Opens folders exported by gristmill with transformers and compares logits and token ids.

In:  folders with config.json, model.safetensors and logits.safetensors (`ids` [b, t], `logits` [b, t, v], as gristmill
     computed them; metadata `text`, whose ids are row 0 if the folder has a tokenizer). tests/parity/export.rs
     leaves some under target/tmp/parity-export.
Out: one line per folder; exit 1 if a logit is off by more than 1e-4 or an id differs.
"""

import os
import sys

os.environ.update(CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-4


def check(folder):
    """-> largest absolute difference of a logit, remarks, ok."""
    with safe_open(os.path.join(folder, "logits.safetensors"), "pt") as f:
        ids, logits = f.get_tensor("ids").long(), f.get_tensor("logits")
        text = (f.metadata() or {}).get("text", "")
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    unclean = {kind: names for kind, names in report.items() if names}
    remarks = [type(model).__name__, f"{sum(p.numel() for p in model.parameters())} parameters"]
    with torch.no_grad():
        apart = (model.eval()(input_ids=ids).logits - logits).abs().max().item()
    ok = apart <= TOLERANCE and not unclean
    remarks += [f"loading: {unclean}"] if unclean else []
    if os.path.exists(os.path.join(folder, "tokenizer.json")):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        same = tokenizer(text, add_special_tokens=False)["input_ids"] == ids[0].tolist()
        back = tokenizer.decode(ids[0]) == text
        ok = ok and same and back
        remarks.append(f"{type(tokenizer).__name__}: ids {'equal' if same else 'DIFFER'}, text {'equal' if back else 'DIFFERS'}")
        if tokenizer.chat_template:
            said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
            remarks.append(f"chat: {tokenizer.apply_chat_template(said, tokenize=False)!r}")
    return apart, remarks, ok


def main():
    faults = 0
    for folder in sys.argv[1:]:
        apart, remarks, ok = check(folder)
        faults += not ok
        print(f"{'ok   ' if ok else 'FAULT'} {folder}: logits within {apart:.1e}; " + "; ".join(remarks))
    sys.exit(faults > 0 or len(sys.argv) < 2)


if __name__ == "__main__":
    main()
