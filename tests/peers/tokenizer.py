"""Tokenizer: gristmill against the libraries people use, same text, same result, alternating runs, CPU time and peak memory.

    cargo build --release -p tokenizer --examples
    python3 tests/peers/tokenizer.py corpus TEXT --mb 50 FILE_OR_FOLDER...      # needs zstandard for .zst
    python3 tests/peers/tokenizer.py train TEXT [--vocab 32768] [--rounds 3] [--threads 2] [--python VENV/bin/python]
    python3 tests/peers/tokenizer.py memory TEXT [--vocab 32768] [--share 10]

TEXT holds documents separated by the byte 0x1e. `corpus` makes one of .jsonl.zst, .jsonl.gz (field `text`), .warc.gz (markup
stripped), .zip and plain files, a document of each in turn, without repeated documents. The peers are pinned and installed
from PyPI in a throw-away environment. Every measurement is a process of its own; sides alternate. A peer is charged for its
training call alone, on documents already in memory (gigatoken reads the file itself); gristmill is charged for its whole
process, reading included.

    python3 tests/peers/tokenizer.py encode TEXT --ranks cl100k_base.tiktoken [--rounds 3] [--python VENV/bin/python]

`encode` loads the rank file with the split that gristmill and Hugging Face files call cl100k and encodes TEXT, document by document
or in one batch as each library is fastest, three times in one process on one thread: the first pass is cold, the best of the
others warm. Each side is charged for its calls alone, without loading; ids are compared by their CRC-32. CPU is user + system time over all
threads. Peak memory is the highest resident size less that
before training (less the file for gigatoken).
`memory` trains once in memory and once within a tenth of the text's size, text
streamed, with scratch files beside TEXT, and prints what each needed; no peer can do the latter. Results are compared by a checksum of the learned tokens' bytes in order.
"""

import argparse
import gzip
import hashlib
import html
import io
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import venv
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEPARATOR = "\x1e"
PEERS = {
    "tokenizers": "0.23.3",
    "rustbpe": "0.1.0",
    "gigatoken": "0.10.0",
    "tiktoken": "0.14.0",
    "fastokens": "0.3.5",
    "numpy": "2.4.6",
}
NEXT_TOKENIZERS = "1.0.0rc3"  # shares its module name with `tokenizers`, so it gets an environment of its own
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


# Environments and processes


def environment(folder, packages):
    """Python of a fresh virtual environment with these packages (name -> version)."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    wanted = [f"{name}=={version}" for name, version in packages.items()]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python


def example(name):
    """Path of one of our release examples."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "examples" / name


def measured(command, threads):
    """Runs a process; its last line is JSON. Adds the process's own CPU seconds as `process_cpu`."""
    surroundings = dict(os.environ, RAYON_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="true")
    before = os.times()
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, encoding="utf8", env=surroundings)
    after = os.times()
    row = json.loads(done.stdout.strip().splitlines()[-1])
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return dict(row, process_cpu=cpu)


def alternating(sides, rounds):
    """`sides`: name -> function that measures once. One round runs every side once. Returns name -> rows."""
    rows = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            rows[name].append(measure())
            print(name, rows[name][-1], file=sys.stderr, flush=True)
    return rows


def table(head, rows):
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")


# Training


def learned(file):
    """Checksums of the tokens and of the merges of a `tokenizer.json`, as the peers' processes make them."""
    stand_in = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    byte_of = {chr(byte): byte for byte in stand_in}
    byte_of |= {chr(256 + i): byte for i, byte in enumerate(sorted(set(range(256)) - set(stand_in)))}
    merges = [[bytes(byte_of[c] for c in side) for side in pair] for pair in json.loads(file.read_bytes())["model"]["merges"]]

    def digest(tokens):
        return hashlib.sha256("".join(token.hex() + "\n" for token in tokens).encode()).hexdigest()[:16]

    sides = [side for pair in merges for side in pair]
    return {"tokens": digest(left + right for left, right in merges), "merges": digest(sides)}


MEASURE = r"""
import hashlib, json, sys, time
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024
def reset_peak():
    open("/proc/self/clear_refs", "w").write("5")
def digest(tokens):
    return hashlib.sha256("".join(token.hex() + "\n" for token in tokens).encode()).hexdigest()[:16]
path, vocab, pattern = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def measure(work, input_bytes=0):
    reset_peak()
    resident, cpu, wall = status("VmRSS"), time.process_time(), time.perf_counter()
    result = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return result, {"cpu": cpu, "wall": wall, "peak_bytes": status("VmHWM") - resident - input_bytes}
"""

HF = (
    MEASURE
    + r"""
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
documents = open(path, encoding="utf8", newline="").read().split("\x1e")
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
trainer = trainers.BpeTrainer(vocab_size=vocab, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
_, row = measure(lambda: tokenizer.train_from_iterator(documents, trainer))
stand_in = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
byte_of = {chr(byte): byte for byte in stand_in}
byte_of |= {chr(256 + i): byte for i, byte in enumerate(sorted(set(range(256)) - set(stand_in)))}
merges = json.loads(tokenizer.to_str())["model"]["merges"]
row["tokens"] = digest(bytes(byte_of[c] for c in left + right) for left, right in merges)
row["merges"] = digest(bytes(byte_of[c] for c in side) for pair in merges for side in pair)
print(json.dumps(row))
"""
)

RUSTBPE = (
    MEASURE
    + r"""
import rustbpe
documents = open(path, encoding="utf8", newline="").read().split("\x1e")
tokenizer = rustbpe.Tokenizer()
_, row = measure(lambda: tokenizer.train_from_iterator(iter(documents), vocab, pattern=pattern))
ranks = sorted(tokenizer.get_mergeable_ranks(), key=lambda pair: pair[1])
row["tokens"] = digest(bytes(token) for token, rank in ranks if rank >= 256)
print(json.dumps(row))
"""
)

GIGATOKEN = (
    MEASURE
    + r"""
import os, gigatoken
source = gigatoken.TextFileSource([path], separator="\x1e")
result, row = measure(lambda: gigatoken.train_bpe(source, vocab, [], tie_breaking="huggingface"), os.path.getsize(path))
_, merges = result
row["merges"] = digest(bytes(side) for pair in merges for side in pair)
row["tokens"] = digest(bytes(left) + bytes(right) for left, right in merges)
print(json.dumps(row))
"""
)


def train(options, python):
    text, vocab, threads = options.text, options.vocab, options.threads
    size = text.stat().st_size / 1e6

    def peer(code, pattern):
        return lambda: measured([python, "-c", code, text, vocab, pattern], threads)

    def ours(split, ties):
        def once():
            with tempfile.TemporaryDirectory() as folder:
                file = pathlib.Path(folder) / "tokenizer.json"
                row = measured([example("training_speed"), text, vocab, split, ties, file], threads)
                return dict(row, cpu=row["process_cpu"], **learned(file))

        return once

    sides = {
        "tokenizers (cl100k)": peer(HF, CL100K),
        "gristmill (cl100k, hf)": ours("cl100k", "hf"),
        "rustbpe (cl100k)": peer(RUSTBPE, CL100K),
        "gristmill (cl100k, raw)": ours("cl100k", "raw"),
        "gigatoken (gpt2)": peer(GIGATOKEN, GPT2),
        "gristmill (gpt2, hf)": ours("gpt2", "hf"),
    }
    rows = alternating({name: side for name, side in sides.items() if not options.only or options.only in name}, options.rounds)
    cpu = {name: statistics.median(row["cpu"] for row in found) for name, found in rows.items()}
    peak = {name: statistics.median(row["peak_bytes"] for row in found) / 1e6 for name, found in rows.items()}
    versus = dict(zip(list(sides)[::2], list(sides)[1::2]))
    print(f"{size:.1f} MB, vocabulary {vocab}, {threads} threads, median of {options.rounds}")
    cells = []
    for name, found in rows.items():
        other = versus.get(name)
        faster = f"{cpu[name] / cpu[other]:.1f}" if other in cpu else ""
        smaller = f"{peak[other] / peak[name]:.2f}" if other in cpu else ""
        same = {row["tokens"] for row in found + rows.get(other, [])}
        verdict = ("equal" if len(same) == 1 else "DIFFERENT") if other in cpu else ""
        cells.append([name, f"{cpu[name]:.2f}", f"{size / cpu[name]:.1f}", f"{peak[name]:.0f}", faster, smaller, verdict])
    head = ["trainer", "CPU s", "MB per CPU s", "peak MB above input", "gristmill is faster by", "our peak / theirs", "tokens"]
    table(head, cells)


# Encoding


ENCODE = r"""
import base64, json, sys, time, zlib
import numpy as np
side, path, ranks, file, pattern, passes = *sys.argv[1:6], int(sys.argv[6])
documents = open(path, encoding="utf8", newline="").read().split("\x1e")
if side == "tiktoken":
    import tiktoken
    table = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in open(ranks, "rb") if line.strip())}
    tokenizer = tiktoken.Encoding("peer", pat_str=pattern, mergeable_ranks=table, special_tokens={})
    run = lambda: [tokenizer.encode_ordinary(text) for text in documents]
    flat = lambda rows: np.concatenate([np.array(row, dtype="<u4") for row in rows])
elif side == "gigatoken":
    import awkward, gigatoken
    tokenizer = gigatoken.Tokenizer(file)
    run = lambda: tokenizer.encode_batch(documents, parallel=False)
    flat = lambda rows: np.asarray(awkward.to_numpy(awkward.flatten(rows)), dtype="<u4")
elif side == "fastokens":
    import fastokens
    tokenizer = fastokens.Tokenizer.from_file(file)
    run = lambda: tokenizer.encode_batch_flat(documents)
    flat = lambda rows: np.frombuffer(rows[0], dtype="<u4")
else:
    import tokenizers
    tokenizer = tokenizers.Tokenizer.from_file(file)
    encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
    run = lambda: encode(documents, add_special_tokens=False)
    flat = lambda rows: np.concatenate([np.array(row.ids, dtype="<u4") for row in rows])
spent = []
for _ in range(passes):
    before = time.process_time()
    rows = run()
    spent.append(time.process_time() - before)
ids = flat(rows)
print(json.dumps({"pass_cpu": spent, "ids": len(ids), "crc": zlib.crc32(ids.tobytes())}))
"""


def encode(options, python, next_python):
    size = options.text.stat().st_size / 1e6
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "tokenizer.json"
        nothing = pathlib.Path(folder) / "nothing"
        nothing.write_text("")
        measured([example("encode_speed"), nothing, options.ranks, "cl100k", 1, file], 1)

        def peer(side, python):
            return lambda: measured([python, "-c", ENCODE, side, options.text, options.ranks, file, CL100K, options.passes], 1)

        sides = {
            "gristmill": lambda: measured([example("encode_speed"), options.text, options.ranks, "cl100k", options.passes], 1),
            "gigatoken": peer("gigatoken", python),
            "fastokens": peer("fastokens", python),
            f"tokenizers {NEXT_TOKENIZERS}": peer("tokenizers", next_python),
            "tiktoken": peer("tiktoken", python),
            "tokenizers": peer("tokenizers", python),
        }
        sides = {name: side for name, side in sides.items() if name == "gristmill" or name not in options.skip}
        rows = alternating(sides, options.rounds)
    cold = {name: statistics.median(row["pass_cpu"][0] for row in found) for name, found in rows.items()}
    warm = {name: statistics.median(min(row["pass_cpu"][1:] or row["pass_cpu"]) for row in found) for name, found in rows.items()}
    print(f"{size:.1f} MB, one thread, median of {options.rounds}")
    same = {row["crc"] for row in rows["gristmill"]}
    cells = []
    for name, found in rows.items():
        verdict = "equal" if same == {row["crc"] for row in found} else "DIFFERENT"
        speeds = f"{size / cold[name]:.1f}", f"{size / warm[name]:.1f}"
        ratios = f"{cold[name] / cold['gristmill']:.2f}", f"{warm[name] / warm['gristmill']:.2f}"
        cells.append([name, *speeds, *ratios, verdict])
    table(["encoder", "cold MB/CPU s", "warm MB/CPU s", "gristmill cold is faster by", "warm", "ids"], cells)


def memory(options):
    size = options.text.stat().st_size
    limit = max(1, round(size / options.share / 1e6))
    rows = []
    with tempfile.TemporaryDirectory(dir=options.text.parent) as folder:
        file = pathlib.Path(folder) / "tokenizer.json"
        for name, more in (("in memory", []), (f"within {limit} MB", [str(limit)])):
            row = measured([example("training_speed"), options.text, options.vocab, "cl100k", "hf", file, *more], options.threads)
            rows.append([name, f"{row['process_cpu']:.2f}", f"{row['peak_bytes'] / 1e6:.0f}", learned(file)["merges"]])
    print(f"{size / 1e6:.1f} MB, vocabulary {options.vocab}")
    table(["training", "CPU s", "peak MB (in memory: above the text)", "merges"], rows)
    return 0 if rows[0][3] == rows[1][3] else 1


# Texts


def stripped(page):
    page = re.sub(r"(?is)<(script|style|head)\b.*?</\1>|<!--.*?-->", " ", page)
    page = re.sub(r"(?i)</?(p|div|li|tr|h\d|pre|br|dd|dt|table|ul|ol)\b[^>]*>", "\n", page)
    return re.sub(r"\n\s*\n\s*", "\n\n", html.unescape(re.sub(r"<[^>]+>", "", page))).strip()


def documents(path):
    """The texts of one file, those that are UTF-8."""
    if path.name.endswith((".jsonl.zst", ".jsonl.gz")):
        if path.suffix == ".zst":
            import zstandard

            stream = zstandard.ZstdDecompressor().stream_reader(path.open("rb"))
        else:
            stream = gzip.open(path)
        yield from (json.loads(line)["text"] for line in io.TextIOWrapper(stream, encoding="utf8"))
        return
    if path.name.endswith(".warc.gz"):
        records = re.split(rb"(?m)^WARC/1\.[01]\r\n", gzip.open(path).read())
        payloads = (record.split(b"\r\n\r\n", 2)[2] for record in records if b"WARC-Type: response" in record[:2000])
    elif path.suffix == ".zip":
        archive = zipfile.ZipFile(path)
        payloads = (archive.read(name) for name in sorted(archive.namelist()))
    else:
        payloads = [path.read_bytes()]
    for payload in payloads:
        try:
            text = payload.decode("utf8")
        except UnicodeDecodeError:
            continue
        yield stripped(text) if path.name.endswith(".warc.gz") else text


def corpus(options):
    files = []
    for source in options.sources:
        inside = source.rglob("*") if source.is_dir() else [source]
        files.append(sorted(path for path in inside if path.is_file()))
    single = [path for group in files if len(group) < 200 for path in group]
    crowds = [group for group in files if len(group) >= 200]
    streams = [documents(path) for path in single]
    streams += [(text for path in group for text in documents(path)) for group in crowds]
    seen, kept, size = set(), [], 0
    while streams and size < options.mb * 1e6:
        for stream in list(streams):
            text = next(stream, None)
            if text is None:
                streams.remove(stream)
                continue
            text = text.replace(SEPARATOR, " ").encode("utf8", "replace")
            key = hashlib.sha256(text).digest()
            if text and key not in seen:
                seen.add(key)
                kept.append(text)
                size += len(text) + 1
    options.text.write_bytes(SEPARATOR.encode().join(kept))
    print(f"{len(kept)} documents, {size / 1e6:.1f} MB")


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("corpus")
    command.add_argument("text", type=pathlib.Path)
    command.add_argument("sources", type=pathlib.Path, nargs="+")
    command.add_argument("--mb", type=float, default=50)
    command = commands.add_parser("train")
    command.add_argument("text", type=pathlib.Path)
    command.add_argument("--vocab", type=int, default=32_768)
    command.add_argument("--rounds", type=int, default=3)
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--only", help="sides whose name holds this")
    command.add_argument("--python", type=pathlib.Path, help="an environment that has the peers already")
    command = commands.add_parser("encode")
    command.add_argument("text", type=pathlib.Path)
    command.add_argument("--ranks", type=pathlib.Path, required=True)
    command.add_argument("--rounds", type=int, default=3)
    command.add_argument("--passes", type=int, default=3)
    command.add_argument("--skip", nargs="*", default=[], help="sides to leave out")
    command.add_argument("--python", type=pathlib.Path, help="an environment that has the peers already")
    command.add_argument("--next-python", type=pathlib.Path, help=f"one that has tokenizers {NEXT_TOKENIZERS} and numpy")
    command = commands.add_parser("memory")
    command.add_argument("text", type=pathlib.Path)
    command.add_argument("--vocab", type=int, default=32_768)
    command.add_argument("--share", type=float, default=10, help="size of the text over the limit")
    command.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.command in ("corpus", "memory"):
        return {"corpus": corpus, "memory": memory}[options.command](options)
    with tempfile.TemporaryDirectory() as folder:
        python = options.python or environment(pathlib.Path(folder) / "venv", PEERS)
        if options.command == "train":
            return train(options, python)
        following = {"tokenizers": NEXT_TOKENIZERS, "numpy": PEERS["numpy"]}
        encode(options, python, options.next_python or environment(pathlib.Path(folder) / "next", following))


if __name__ == "__main__":
    sys.exit(main())
