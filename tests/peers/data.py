"""The data half against its peers, one table: every comparison of this folder on the same real pages, in one throw-away environment.

    python3 tests/peers/data.py FOLDER [--rounds 3] [--pages 300] [--details FILE] [--only NAME]... [--built] [--python PYTHON]

FOLDER has `crawl/*.warc.gz` (crawls of HTML pages, one gzip member a record) and `extraction/` with the three archives that extraction.py
names. Builds the programs with `cargo build --release`, makes the peers' environment (requirements.txt and datatrove 0.10.1 from PyPI; cargo and
network are all it needs besides a C++ compiler for fastText built here), and runs warc.py, language.py, extraction.py, rules.py, minhash.py and pipeline.py one
after another; what each of them does and prints is written at its top. All figures are CPU seconds of one core, medians of --rounds (at least 3)
alternating runs, start and imports of the peers left out where a script says so. Texts for rules, MinHash and language are the crawls' and WCXB's pages with
their markup stripped (`tests/parity/rules.py texts`); lines for language identification are their different lines of at least 20 letters.
Prints one Markdown table; --details keeps what the scripts printed.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import time

import environment

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILDS = [
    ["-p", "pipeline", "--bin", "gristmill", "--example", "warc_speed"],
    ["-p", "filters", "--example", "extraction_eval", "--example", "language_speed", "--example", "language_labels", "--example", "rules_speed"],
    ["-p", "dedup", "--example", "minhash_speed"],
]
LEAST_LETTERS = 20
MOST_LINES = 70_000


def output(*command):
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, encoding="utf8").stdout


def rows(text):
    """The Markdown tables in a text: cells of each row by the heading of their column."""
    heads, found = None, []
    for line in text.splitlines():
        if not line.startswith("|"):
            heads = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if heads is None:
            heads = [f"{cell} {i}" if cell in cells[:i] else cell for i, cell in enumerate(cells)]
        elif not set(line) <= set("|- "):
            found.append(dict(zip(heads, cells)))
    return found


class Data:
    """Inputs that several comparisons share, made once."""

    def __init__(self, options, folder, python):
        self.folder, self.python, self.given = folder, python, options.folder
        self.crawls = sorted((options.folder / "crawl").glob("*.warc.gz"))
        if not self.crawls:
            raise SystemExit(f"there is no {options.folder}/crawl/*.warc.gz")

    def texts(self):
        path = self.folder / "texts.jsonl"
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=self.folder) as wcxb:
                subprocess.run(["tar", "--zstd", "-xf", self.given / "extraction" / "wcxb-dev.tar.zst", "-C", wcxb], check=True)
                pages = ["--wcxb", wcxb, "--pages", pathlib.Path(wcxb) / "html", "--crawls", *self.crawls]
                print(output(self.python, ROOT / "tests/parity/rules.py", "texts", path, *pages).strip(), file=sys.stderr)
        return path

    def lines(self):
        path = self.folder / "real-lines.txt"
        if not path.exists():
            found = {}
            for row in self.texts().read_text("utf8").split("\n")[:-1]:
                for line in json.loads(row)["text"].split("\n"):
                    if sum(map(str.isalpha, line)) >= LEAST_LETTERS and "\0" not in line and "\r" not in line:
                        found[line] = None
            every = list(found)
            step = max(1, len(every) // MOST_LINES)
            path.write_text("".join(line + "\n" for line in every[::step]), "utf8")
        return path

    def fasttext(self):
        """fastText's own source, for a build with its own flags; None if PyPI gives none."""
        get = [self.python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "fasttext", "fasttext==0.9.3", "-d", self.folder]
        if subprocess.run(get, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            return None
        with tarfile.open(next(self.folder.glob("fasttext-0.9.3.tar.gz"))) as archive:
            archive.extractall(self.folder, filter="data")
        return self.folder / "fasttext-0.9.3"


def warc(data, run, _):
    found = rows(run("warc.py", *data.crawls))
    peer = {row[""]: row["gristmill is faster by"] for row in found}
    yield "gzip WARC to records", "FastWARC 2.0.1, fastest form / as its manual has it", f"{peer['FastWARC 2.0.1, fastest form']} x / {peer['FastWARC 2.0.1']} x"


def language(data, run, _):
    native = data.fasttext()
    found = rows(run("language.py", "--lines", data.lines(), *(["--native", native] if native else [])))
    speed, labels = found[: len(found) // 2], found[len(found) // 2 :]
    for row, same in zip(speed, labels):
        shown = " / ".join(f"{cell} x" for head, cell in row.items() if head.startswith("ratio"))
        peer = "fastText's wheel 0.9.2 / built for this machine" if native else "fastText's wheel 0.9.2"
        yield f"language, {row['model']}, {same['texts']} lines, {same['same label']} labels equal", peer, shown


def extraction(data, run, _):
    found = rows(run("extraction.py", "--data", data.given / "extraction"))
    whole = next(row for row in found if row.get("speed") == "all")
    default, fineweb = whole["ratios of CPU time"].split(", ")
    yield f"extraction, {whole['pages']} pages, {whole['MB']} MB", "trafilatura 2.3.1, FineWeb's settings / default", f"{fineweb} x / {default} x"
    for row in found:
        if row.get("pages") == "all":
            ours, theirs = row["gristmill"].split()[0], row["trafilatura"].split()[0]
            yield f"quality of extraction: F1 on {row['benchmark']}, {row['n']} pages", "trafilatura 2.3.1, default", f"{ours} / {theirs}"


def rules(data, run, _):
    text = run("rules.py", data.texts())
    found = {row[""]: row for row in rows(text)}
    yield "the four FineWeb filters, every rule of every text measured", "datatrove 0.10.1, first hit", found["gristmill, every rule of every text"]["against datatrove"] + " x"
    again = re.search(r"all rules take ([0-9.]+) times", text)[1]
    yield "the same, every rule against up to the first missed", "gristmill", f"{again} x the time"


def minhash(data, run, _):
    found = {row[""]: row for row in rows(run("minhash.py", "--jsonl", data.texts()))}
    for name, row in found.items():
        if not name.startswith("datatrove"):
            peers = row["against datatrove xxhash"].removesuffix("x"), row["against datatrove sha1"].removesuffix("x")
            yield f"MinHash signatures 14 x 8, {name}", "datatrove 0.10.1, xxhash / sha1", f"{peers[0]} x / {peers[1]} x"


def pipeline(data, run, pages):
    text = run("pipeline.py", *data.crawls, "--pages", pages)
    line = next(line for line in text.splitlines() if line.startswith("| datatrove"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    yield f"WARC to deduplicated Parquet, {pages} pages (start of both sides in it / left out)", "datatrove 0.10.1, local executor", f"{cells[2]} x / {cells[4]} x"


SUITE = {"pipeline": pipeline, "warc": warc, "extraction": extraction, "language": language, "rules": rules, "minhash": minhash}


def machine():
    names = re.findall(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text()) if os.path.exists("/proc/cpuinfo") else []
    return f"{os.cpu_count()} x {names[0] if names else platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}, {time.strftime('%d %B %Y', time.gmtime())}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pages", type=int, default=300)
    parser.add_argument("--details", type=pathlib.Path)
    parser.add_argument("--built", action="store_true", help="take the programs in the target folder as they are")
    parser.add_argument("--only", action="append", choices=list(SUITE), default=[])
    environment.add_option(parser)
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error("--rounds: a median needs at least 3")
    for build in [] if options.built else BUILDS:
        subprocess.run(["cargo", "build", "--release", "--quiet", *build], check=True, cwd=ROOT)
    details = options.details.open("w", encoding="utf8") if options.details else None
    with tempfile.TemporaryDirectory() as folder:
        python = environment.python(options.python, folder)
        data = Data(options, pathlib.Path(folder), python)

        def run(script, *arguments):
            print(f"{script} ...", file=sys.stderr, flush=True)
            text = output(sys.executable, HERE / script, *arguments, "--rounds", options.rounds, "--python", python)
            if details:
                print(f"## {script}\n\n{text}", file=details, flush=True)
            return text

        begun = machine()
        lines = [row for name in options.only or SUITE for row in SUITE[name](data, run, options.pages)]
    print(f"CPU time of one core, medians of {options.rounds} alternating rounds; {begun}, load {os.getloadavg()[0]:.1f} at the end.\n")
    print("| what | peer | ratio (higher is better) |\n|---|---|---|")
    for what, peer, ratio in lines:
        print(f"| {what} | {peer} | {ratio} |")


if __name__ == "__main__":
    sys.exit(main())
