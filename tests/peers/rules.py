"""Quality rules: gristmill against datatrove's four filters on the same texts, alternating runs, CPU time.

    cargo build --release -p filters --example rules_speed
    python3 tests/peers/rules.py TEXTS.jsonl [--most 300] [--rounds 3]

TEXTS.jsonl has `text`; `tests/parity/rules.py texts` makes one of real pages. The peer is datatrove 0.10.1 with spaCy 3.8.7 in a throw-away
environment from PyPI. Its four filters (Gopher repetition, Gopher quality, C4 in FineWeb's mode, FineWeb quality) run in FineWeb's order, the first
that drops a text ends its way, as in its own pipeline. Ours measures every rule of every text. datatrove gets every (rows / most)-th text, since it
needs minutes; both sides are timed on exactly those. Prints a Markdown table: medians of MB of text per second of CPU time, one process each.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

import environment

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHAIN = """
import json, sys, time
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.utils.text import split_into_words
texts = [json.loads(line)["text"] for line in open(sys.argv[1], encoding="utf8")]
chain = [GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(filter_no_terminal_punct=False), FineWebQualityFilter()]
split_into_words("warm up.")
kept = 0
start = time.process_time()
for text in texts:
    document = Document(text=text, id="0")
    kept += all((lambda found: found[0] if isinstance(found, tuple) else found)(rule.filter(document)) for rule in chain)
seconds = time.process_time() - start
print(sum(len(text.encode()) for text in texts) / 1e6 / seconds, len(texts) / seconds, kept)
"""


def output(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, encoding="utf8").stdout


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("texts", type=pathlib.Path)
    parser.add_argument("--most", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    environment.add_option(parser)
    options = parser.parse_args()
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    ours = target / "release" / "examples" / "rules_speed"
    lines = options.texts.read_text(encoding="utf8").split("\n")[:-1]
    if len(lines) > options.most:
        lines = [lines[at * len(lines) // options.most] for at in range(options.most)]
    size = sum(len(json.loads(line)["text"].encode()) for line in lines)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        python = environment.python(options.python, folder)
        texts = folder / "texts.jsonl"
        texts.write_text("".join(line + "\n" for line in lines), encoding="utf8")
        theirs, every, first = [], [], []
        for _ in range(options.rounds):
            found = re.search(r"all rules ([0-9.]+) MB/s, first miss ([0-9.]+)", output(ours, texts))
            every.append(float(found[1]))
            first.append(float(found[2]))
            theirs.append(float(output(python, "-c", CHAIN, texts).split()[-3]))
        peer = statistics.median(theirs)
        print(f"{len(lines)} texts, {size / 1e6:.1f} MB, {options.rounds} rounds")
        print("| | MB/s | against datatrove |\n|---|---|---|")
        print(f"| datatrove 0.10.1, four filters | {peer:.3f} | 1 |")
        for name, speeds in ("gristmill, every rule of every text", every), ("gristmill, up to the first rule missed", first):
            print(f"| {name} | {statistics.median(speeds):.1f} | {statistics.median(speeds) / peer:.0f} |")
        print(f"all rules take {statistics.median(first) / statistics.median(every):.2f} times as long as the first miss")


if __name__ == "__main__":
    sys.exit(main())
