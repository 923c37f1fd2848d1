"""Extraction: gristmill against trafilatura 2 on three benchmarks with their own metrics, and CPU time of both.

    cargo build --release -p filters --example extraction_eval
    python3 tests/peers/extraction.py --data FOLDER [--rounds 3] [--texts FOLDER]

FOLDER holds wcxb-dev.tar.zst, article-extraction-benchmark-a.tar.zst and trafilatura-eval-a.tar.zst. trafilatura runs in a throw-away environment
made from PyPI, as its default (`extract(html)`; comments off on the two article sets, as their own scripts run it) and with the settings of the FineWeb
recipe (favor_precision, deduplicate, no comments). Metrics are those of each benchmark: word-multiset F1 averaged over pages, with the share of wanted and
unwanted snippets found (WCXB evaluate.py); F1 of mean precision and mean recall over 4-gram shingles (article-extraction-benchmark evaluate.py); F1 over
segments summed over pages (trafilatura tests/eval_common.py). Every figure is shown for all pages and for two halves by hash of the page id: rules
and limits were chosen on `even`; no page of `odd` was opened, though its totals were seen where `even` left a choice. Speed: CPU seconds of one thread for all pages, alternating, median; ours includes decoding the bytes,
trafilatura is given decoded text where the page is UTF-8. `--texts` keeps the texts of all sides.
"""

import argparse
import collections
import hashlib
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
SETS = {
    "WCXB": ("wcxb-dev.tar.zst", "."),
    "articles": ("article-extraction-benchmark-a.tar.zst", "article-extraction-benchmark"),
    "segments": ("trafilatura-eval-a.tar.zst", "trafilatura-eval"),
}
RUN = """
import json, logging, pathlib, sys, time, trafilatura
logging.disable(logging.CRITICAL)
settings = json.loads(sys.argv[2])
def decoded(data):
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
pages = {path.stem: decoded(path.read_bytes()) for path in sorted(pathlib.Path(sys.argv[1]).glob("*.html"))}
trafilatura.extract("<p>" + "warm up " * 50)
start, texts = time.process_time(), {}
for name, html in pages.items():
    try:
        texts[name] = trafilatura.extract(html, **settings) or ""
    except Exception:
        texts[name] = ""
seconds = time.process_time() - start
pathlib.Path(sys.argv[3]).write_text(json.dumps({"seconds": seconds, "texts": texts}), encoding="utf8")
"""
WORD = re.compile(r"\w+")


def words_f1(text, truth):
    found, wanted = (collections.Counter(WORD.findall(t.lower())) for t in (text, truth))
    if not found or not wanted:
        return float(found == wanted)
    common = (found & wanted).total()
    return 2 * common / (found.total() + wanted.total())


def shingles(text):
    tokens = WORD.findall(text)
    grams = (tuple(tokens[i : i + 4]) for i in range(max(1, len(tokens) - 3)))
    return collections.Counter(gram for gram in grams if gram)


def wcxb(pages):
    """Word F1, share of wanted snippets found, share of unwanted snippets found: means over pages."""

    def share(text, snippets):
        return sum(s.lower() in text for s in snippets) / len(snippets) if snippets else 1.0

    rows = [(words_f1(t, p["truth"]), share(t.lower(), p["with"]), share(t.lower(), p["without"])) for p, t in pages]
    return tuple(statistics.fmean(column) for column in zip(*rows))


def articles(pages):
    precision, recall = [], []
    for page, text in pages:
        found, wanted = shingles(text), shingles(page["truth"])
        common = (found & wanted).total()
        if found:
            precision.append(common / found.total())
        if wanted:
            recall.append(common / wanted.total())
    p, r = statistics.fmean(precision), statistics.fmean(recall)
    return (2 * p * r / (p + r), p, r)


def segments(pages):
    def flat(text):
        return re.sub(r"\s+", " ", text).strip()

    true = false = missed = 0
    for page, text in pages:
        hits = sum(flat(s) in flat(text) for s in page["with"])
        true, missed = true + hits, missed + len(page["with"]) - hits
        false += sum(flat(s) in flat(text) for s in page["without"])
    return (2 * true / (2 * true + false + missed), true / (true + false), true / (true + missed))


def load(folder, name):
    """Pages by id: the annotation and, for WCXB, the type."""
    if name == "WCXB":
        out = {}
        for path in sorted((folder / "ground-truth").glob("*.json")):
            page = json.loads(path.read_text(encoding="utf8"))
            truth, kind = page["ground_truth"], page["_internal"]["page_type"]["primary"]
            out[path.stem] = {"truth": truth.get("main_content") or "", "type": "collection" if kind == "category" else kind}
            out[path.stem] |= {key: truth.get(key) or [] for key in ("with", "without")}
        return out
    if name == "articles":
        truth = json.loads((folder / "ground-truth.json").read_text(encoding="utf8"))
        return {key: {"truth": page.get("articleBody", "")} for key, page in truth.items()}
    truth = json.loads((folder / "evaldata.json").read_text(encoding="utf8"))
    return {page["file"].removesuffix(".html"): {key: page[key] for key in ("with", "without")} for page in truth.values()}


def half(key):
    return "odd" if hashlib.md5(key.encode()).digest()[0] % 2 else "even"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=pathlib.Path)
    environment.add_option(parser)
    options = parser.parse_args()
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    example = target / "release" / "examples" / "extraction_eval"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        texts_folder = options.texts or folder / "texts"
        texts_folder.mkdir(parents=True, exist_ok=True)
        python = environment.python(options.python, folder)
        fineweb = {"favor_precision": True, "include_comments": False, "deduplicate": True}
        seconds, texts, pages, size = collections.defaultdict(lambda: collections.defaultdict(list)), {}, {}, {}
        for name, (archive, inside) in SETS.items():
            (folder / name).mkdir()
            subprocess.run(["tar", "--zstd", "-xf", options.data / archive, "-C", folder / name], check=True)
            pages[name] = load(folder / name / inside, name)
            html = folder / name / inside / "html"
            size[name] = (sum(path.stat().st_size for path in html.glob("*.html")) / 1e6, len(list(html.glob("*.html"))))
            default = {} if name == "WCXB" else {"include_comments": False}
            for _ in range(options.rounds):
                for side, settings in (("gristmill", None), ("trafilatura", default), ("trafilatura FineWeb", fineweb)):
                    out = texts_folder / f"{name}.{side.replace(' ', '-')}.json"
                    run = [python, "-c", RUN, html, json.dumps(settings), out] if settings is not None else [example, "texts", html, out]
                    subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
                    made = json.loads(out.read_text(encoding="utf8"))
                    texts[name, side] = made["texts"]
                    seconds[side][name].append(made["seconds"])
        sides = list(seconds)
        print(f"| benchmark | pages | n | {' | '.join(sides)} |\n|---|---|---|" + "---|" * len(sides))
        for name, metric in (("WCXB", wcxb), ("articles", articles), ("segments", segments)):
            groups = {"all": list(pages[name])} | {h: [key for key in pages[name] if half(key) == h] for h in ("even", "odd")}
            for kind in sorted({page.get("type", "") for page in pages[name].values()} - {""}):
                groups[kind] = [key for key, page in pages[name].items() if page["type"] == kind]
            for group, keys in groups.items():
                rows = [metric([(pages[name][key], texts[name, side].get(key, "")) for key in keys]) for side in sides]
                print(f"| {name} | {group} | {len(keys)} | " + " | ".join(" ".join(f"{x:.4f}" for x in row) for row in rows) + " |")
        print(f"\n| speed | MB | pages | {' | '.join(f'{side} MB/s, pages/s' for side in sides)} | ratios of CPU time |\n|---|---|---|---|---|---|---|")
        total = {side: sum(statistics.median(by_set) for by_set in seconds[side].values()) for side in sides}
        for name in [*SETS, "all"]:
            mb, n = size[name] if name in size else tuple(map(sum, zip(*size.values())))
            spent = [statistics.median(seconds[side][name]) if name in size else total[side] for side in sides]
            cells = " | ".join(f"{mb / s:.1f}, {n / s:.0f}" for s in spent)
            print(f"| {name} | {mb:.1f} | {n} | {cells} | {spent[1] / spent[0]:.1f}, {spent[2] / spent[0]:.1f} |")


if __name__ == "__main__":
    sys.exit(main())
