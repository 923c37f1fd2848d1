"""WARC: gristmill's reader against FastWARC 2 on the same gzip file, alternating runs, CPU time of whole processes less their start.

    cargo build --release -p pipeline --example warc_speed
    python3 tests/peers/warc.py CRAWL.warc.gz... [--megabytes 100] [--rounds 5]

The files are joined, again and again, to one of at least --megabytes of gzip. Both sides go through its records, read every block to its end and must
count the same records and bytes; both check gzip's checksums. The peer is FastWARC 2.0.1 in a throw-away environment from PyPI, twice: as its manual
shows it (a new record each time, HTTP heads parsed; it then counts the bytes behind those), and in its fastest form (no HTTP, one record object used
again and again), with which the bytes are compared. Seconds are user and system time of the process as `wait4` tells them, less the median of the same
program without files. Prints a Markdown table of medians.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import environment

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN = """
import json, sys
from fastwarc.warc import ArchiveIterator
records = size = 0
for path in sys.argv[2:]:
    with open(path, "rb") as file:
        for record in ArchiveIterator(file, **json.loads(sys.argv[1])):
            records += 1
            size += len(record.reader.read())
print(f"{records} records, {size} bytes")
"""


def spent(*command):
    """What a command prints, and its CPU seconds."""
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, encoding="utf8") as process:
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return text, usage.ru_utime + usage.ru_stime


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("crawls", type=pathlib.Path, nargs="+")
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    environment.add_option(parser)
    options = parser.parse_args()
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    ours = target / "release" / "examples" / "warc_speed"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        python = environment.python(options.python, folder)
        crawl = folder / "crawl.warc.gz"
        with crawl.open("wb") as out:
            while out.tell() < options.megabytes * 1e6:
                for path in options.crawls:
                    out.write(path.read_bytes())
        sides = {
            "gristmill": [ours],
            "FastWARC 2.0.1": [python, "-c", RUN, "{}"],
            "FastWARC 2.0.1, fastest form": [python, "-c", RUN, '{"parse_http": false, "inplace": true}'],
        }
        seconds, printed = {side: [] for side in sides}, {}
        start = {side: statistics.median(spent(*run)[1] for _ in range(options.rounds)) for side, run in sides.items()}
        for _ in range(options.rounds):
            for side, run in sides.items():
                printed[side], took = spent(*run, crawl)
                seconds[side].append(took - start[side])
        counted = {side: text.strip().split(", ")[:2] for side, text in printed.items()}
        assert len({records for records, _ in counted.values()}) == 1, counted
        assert counted["gristmill"] == counted["FastWARC 2.0.1, fastest form"], counted
        size = crawl.stat().st_size / 1e6
        print(f"{counted['gristmill'][0]}, {size:.1f} MB of gzip, {options.rounds} rounds")
        print("| | CPU s | (least to most) | MB of gzip/s | gristmill is faster by |\n|---|---|---|---|---|")
        for side, took in seconds.items():
            middle = statistics.median(took)
            ratio = middle / statistics.median(seconds["gristmill"])
            print(f"| {side} | {middle:.3f} | {min(took):.3f} to {max(took):.3f} | {size / middle:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    sys.exit(main())
