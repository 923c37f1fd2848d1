"""The curation pipeline: WARC to filtered, deduplicated Parquet, gristmill against datatrove's local executor on the same pages, CPU time.

    cargo build --release
    python3 tests/peers/pipeline.py CRAWL.warc.gz... [--pages 200] [--rounds 3]

Every n-th page of the crawls goes into one gzip WARC, with the header `WARC-Identified-Payload-Type` that Common Crawl's files have (without it
datatrove's reader takes XHTML for no page). Both sides read it, extract the text (trafilatura there, with FineWeb's
settings), apply the four FineWeb filters with the line edits of C4, and keep one page of each group that shares a MinHash band (14 x 8, 5-grams, xxhash).
Language identification is left out on both sides: datatrove downloads its model. The peer is datatrove 0.10.1 in a throw-away environment from PyPI, one
worker, laid out as its FineWeb example: texts as JSONL, then the four MinHash steps, then Parquet; its time limit for a page is raised to 10 s, so that a
busy machine loses none. Ours runs with one thread into an empty root. CPU seconds are user and system time with all children, alternating, medians; the second
pair of columns leaves out what each side takes for a tenth of the pages (with it start, imports, word models). FineWeb's own extraction differs from ours, so the numbers of
kept pages are near, not equal.
"""

import argparse
import gzip
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import zlib

import environment

ROOT = pathlib.Path(__file__).resolve().parents[2]
MANIFEST = """
name = "peer"
[stage.crawl]
kind = "ingest"
source = {source}
[stage.text]
kind = "extract"
input = "crawl"
[stage.repetition]
kind = "filter"
input = "text"
recipe = "gopher_repetition"
[stage.quality]
kind = "filter"
input = "repetition"
recipe = "gopher_quality"
[stage.lines]
kind = "edit"
input = "quality"
steps = ["c4_lines"]
[stage.c4]
kind = "filter"
input = "lines"
recipe = "c4"
[stage.custom]
kind = "filter"
input = "c4"
recipe = "fineweb_quality"
[stage.unique]
kind = "dedup"
input = "custom"
signatures = "fineweb-compat"
verify = false
"""
DATATROVE = """
import sys
from loguru import logger
logger.remove()
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup.minhash import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.pipeline.writers.parquet import ParquetWriter
crawl, out = sys.argv[1:]
def run(steps, tasks=1):
    LocalPipelineExecutor(pipeline=steps, tasks=tasks, workers=1, logging_dir=f"{out}/logs/{type(steps[-1]).__name__}").run()
if __name__ == "__main__":
    run([
        WarcReader(crawl, glob_pattern="*.warc.gz"),
        Trafilatura(favour_precision=True, timeout=10),
        GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(filter_no_terminal_punct=False), FineWebQualityFilter(),
        JsonlWriter(f"{out}/texts"),
    ])
    run([JsonlReader(f"{out}/texts"), MinhashDedupSignature(f"{out}/signatures")])
    run([MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets")], tasks=14)
    run([MinhashDedupCluster(f"{out}/buckets", f"{out}/remove")])
    run([JsonlReader(f"{out}/texts"), MinhashDedupFilter(f"{out}/remove"), ParquetWriter(f"{out}/kept")])
    import glob, pyarrow.parquet as parquet
    count = lambda pattern, rows: sum(rows(path) for path in glob.glob(f"{out}/{pattern}"))
    import gzip
    print(count("texts/*", lambda path: sum(1 for _ in gzip.open(path))), count("kept/*", lambda path: parquet.read_metadata(path).num_rows))
"""


def pages(path):
    """The records of a file that are an HTML page, one gzip member each."""
    rest = path.read_bytes()
    while rest:
        member = zlib.decompressobj(wbits=31)
        record, rest = member.decompress(rest), member.unused_data
        if b"WARC-Type: response" in record[:2000] and re.search(rb"HTTP/1.[01] 200.*?\r\nContent-Type: (text/html|application/xhtml)", record[:4000], re.DOTALL):
            version, behind = record.split(b"\r\n", 1)
            yield gzip.compress(version + b"\r\nWARC-Identified-Payload-Type: text/html\r\n" + behind, mtime=0)


def spent(*command):
    """What a command prints, and CPU seconds of it and its children."""
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf8") as process:
        text, complaint = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}: {complaint[-4000:]}")
    return text, usage.ru_utime + usage.ru_stime


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("crawls", type=pathlib.Path, nargs="+")
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    environment.add_option(parser)
    options = parser.parse_args()
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        python = environment.python(options.python, folder)
        found = [page for path in options.crawls for page in pages(path)]
        most = min(options.pages, len(found))
        (folder / "peer.py").write_text(DATATROVE, encoding="utf8")
        seconds, kept, size = {}, {}, {}
        few = max(1, most // 10)
        for count in (few, most):
            chosen = [found[at * len(found) // count] for at in range(count)]
            crawl = folder / f"crawl-{count}"
            crawl.mkdir(exist_ok=True)
            (crawl / "pages.warc.gz").write_bytes(b"".join(chosen))
            size[count] = sum(len(gzip.decompress(page)) for page in chosen)
            manifest = folder / f"peer-{count}.toml"
            manifest.write_text(MANIFEST.format(source=json.dumps(str(crawl / "*.warc.gz"))), encoding="utf8")
            for round in range(options.rounds):
                out = folder / f"out-{count}-{round}"
                ours = [target / "release" / "gristmill", "run", manifest, "--root", out / "gristmill", "--threads", 1]
                for side, run in ("gristmill", ours), ("datatrove", [python, folder / "peer.py", crawl, out / "datatrove"]):
                    text, took = spent(*run)
                    seconds.setdefault((side, count), []).append(took)
                    kept[side] = text.strip()
            if count == most:
                query = "SELECT (SELECT count(*) FROM custom) AS filtered, (SELECT count(*) FROM \"unique\") AS kept"
                kept["gristmill"] = spent(target / "release" / "gristmill", "sql", out / "gristmill" / "peer", query)[0]
        middle = {key: statistics.median(values) for key, values in seconds.items()}
        print(f"{most} pages, {size[most] / 1e6:.1f} MB of records, {options.rounds} rounds")
        print("| | CPU s | ratio | less a tenth, CPU s | ratio | pages after filters, after MinHash |\n|---|---|---|---|---|---|")
        for side in "gristmill", "datatrove":
            whole = middle[side, most], middle["gristmill", most]
            net = whole[0] - middle[side, few], whole[1] - middle["gristmill", few]
            numbers = ", ".join(re.findall(r"\d+", kept[side])[-2:])
            print(f"| {side} | {whole[0]:.2f} | {whole[0] / whole[1]:.1f} | {net[0]:.2f} | {net[0] / net[1]:.1f} | {numbers} |")


if __name__ == "__main__":
    sys.exit(main())
