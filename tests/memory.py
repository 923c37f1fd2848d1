#!/usr/bin/env python3
"""Bounded memory on a corpus ten times the limit: extraction, filters and dedup at 256 MB.

usage: tests/memory.py GRISTMILL FOLDER [MEGABYTES] [SEED]

Makes a WARC of MEGABYTES (default 2,700) in FOLDER out of the quickstart's pages: copies in which a share of the words (none, 1 %,
5 % or 40 %) is replaced, chosen by SEED, so that there are exact, near and far duplicates. Runs it at a memory limit of 256 MB and
prints the peak of the process, which must stay below the limit plus 350 MB. The standard library is all it needs.
"""

import json
import random
import resource
import subprocess
import sys
from pathlib import Path

LIMIT_MB, ALLOWED_MB = 256, 350
MANIFEST = """name = "memory"
[stage]
crawl  = { kind = "ingest", source = "large.warc" }
text   = { kind = "extract", input = "crawl" }
good   = { kind = "filter", input = "text", recipe = "fineweb" }
unique = { kind = "dedup", input = "good" }
late   = { kind = "dedup", input = "text" }
"""


def pages(gristmill: str, folder: Path) -> list[str]:
    manifest = Path(__file__).parent.parent / "manifests/quickstart.toml"
    run = [gristmill, "run", str(manifest), "--root", str(folder), "--only", "text"]
    subprocess.run(run, check=True, stderr=subprocess.DEVNULL)
    query = "SELECT text FROM text WHERE octet_length(text) > 500 ORDER BY id"
    said = subprocess.run([gristmill, "sql", str(folder / "quickstart"), query, "--format", "json"], check=True, capture_output=True)
    text = said.stdout.decode()
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    return [row["text"] for row in rows]


def record(number: int, body: str) -> bytes:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body.encode()
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://host{number % 997}.test/{number}\r\n"
    head += f"Content-Type: application/http\r\nContent-Length: {len(http)}\r\n\r\n"
    return head.encode() + http + b"\r\n\r\n"


def main() -> None:
    gristmill, folder = sys.argv[1], Path(sys.argv[2])
    size = int(sys.argv[3]) if len(sys.argv) > 3 else 2700
    rng = random.Random(int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    folder.mkdir(parents=True, exist_ok=True)
    texts = pages(gristmill, folder)
    words = sorted({word for text in texts for word in text.split()})
    written = number = 0
    with open(folder / "large.warc", "wb") as out:
        while written < size * 1_000_000:
            text = texts[number % len(texts)]
            share = rng.choice([0, 0.01, 0.05, 0.4])
            lines = []
            for line in text.splitlines():
                parts = line.split(" ")
                for _ in range(int(share * len(parts) + rng.random())) if share else ():
                    parts[rng.randrange(len(parts))] = rng.choice(words)
                lines.append("<p>" + " ".join(parts).replace("&", "&amp;").replace("<", "&lt;") + "</p>")
            body = record(number, f"<html><body><article>{''.join(lines)}</article></body></html>")
            written += out.write(body)
            number += 1
    (folder / "memory.toml").write_text(MANIFEST)
    print(f"{number} pages, {written / 1e6:.0f} MB", flush=True)
    run = [gristmill, "run", str(folder / "memory.toml"), "--root", str(folder), "--memory-limit", f"{LIMIT_MB}MB"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run(run, stderr=subprocess.PIPE)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print("\n".join(line for line in done.stderr.decode().splitlines() if "[" in line or "error" in line))
    print(f"peak {peak:.0f} MB (children before: {before / 1024:.0f} MB), allowed {LIMIT_MB + ALLOWED_MB} MB, exit {done.returncode}")
    sys.exit(0 if done.returncode == 0 and peak <= LIMIT_MB + ALLOWED_MB else 1)


if __name__ == "__main__":
    main()
