"""MinHash signatures: gristmill against datatrove 0.10.1, the same documents, alternating runs, CPU time on one thread.

    cargo build --release -p dedup --example minhash_speed
    python3 tests/peers/minhash.py [--jsonl FILE.jsonl[.zst]]... [--megabytes 4] [--rounds 3]

Word 5-grams, 14 x 8, from the text to the band keys, so normalisation, word splitting and shingling are in it. datatrove runs its own step's
`get_shingles` and `get_signature` (writing and sorting left out). Documents are the field `text` of the JSON lines, spread evenly over the files up to --megabytes; without files, a seeded
made-up text. Prints a Markdown table: medians of MB of text per second, and ratios of the medians; `verified` is gristmill's default mode,
`fineweb-*` gives the same signatures as datatrove (tests/parity/minhash.py).
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import tempfile

import environment

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEER = """
import sys, time
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
texts = open(sys.argv[2], encoding="utf8", newline="").read().split("\\0")
step = MinhashDedupSignature("/tmp/unused", MinhashConfig(hash_config=HashConfig(precision=64, hash_fc=sys.argv[1])))
step.get_shingles("load the tokenizer before the clock starts")
start = time.process_time()
for text in texts:
    shingles = step.get_shingles(text)
    if shingles.size:
        step.get_signature(shingles)
print(sum(len(text.encode()) for text in texts) / 1e6 / (time.process_time() - start))
"""


def output(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, encoding="utf8").stdout


def documents(files, megabytes):
    if not files:
        generator = random.Random(1)
        words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 10))) for _ in range(5000)]
        return [" ".join(generator.choices(words, k=800)) for _ in range(int(megabytes * 1e6 / 5600))]
    texts = []
    for path in files:
        raw = output("zstd", "-dcq", path) if path.endswith(".zst") else pathlib.Path(path).read_text("utf8")
        lines = [json.loads(line)["text"].replace("\0", " ") for line in raw.split("\n") if line]
        share = megabytes * 1e6 / len(files)
        step = max(1, int(sum(len(text.encode()) for text in lines) / share))
        texts += lines[::step]
    return [text for text in texts if text]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jsonl", nargs="*", default=[])
    parser.add_argument("--megabytes", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    environment.add_option(parser)
    arguments = parser.parse_args()
    ours = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/minhash_speed"
    texts = documents(arguments.jsonl, arguments.megabytes)
    with tempfile.TemporaryDirectory() as folder:
        python = environment.python(arguments.python, folder)
        held = pathlib.Path(folder) / "documents"
        held.write_text("\0".join(texts), encoding="utf8", newline="")
        speeds = {}
        for _ in range(arguments.rounds):
            for line in output(ours, "--peers", held).splitlines():
                name, speed = line.split()
                speeds.setdefault(name, []).append(float(speed))
            for name in ["xxhash", "sha1"]:
                speeds.setdefault(f"datatrove {name}", []).append(float(output(python, "-c", PEER, name, held)))
        size = held.stat().st_size / 1e6
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(f"{len(texts)} documents, {size:.1f} MB, median of {arguments.rounds}\n")
    print("| | MB/s of one core | against datatrove xxhash | against datatrove sha1 |\n|---|---|---|---|")
    for name, speed in medians.items():
        ratios = [f"{speed / medians[f'datatrove {peer}']:.1f}x" for peer in ["xxhash", "sha1"]]
        print(f"| {name} | {speed:.2f} | {ratios[0]} | {ratios[1]} |")


main()
