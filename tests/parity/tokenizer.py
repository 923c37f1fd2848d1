"""Token ids of gristmill against tiktoken and Hugging Face `tokenizers`, on vocabularies that people use.

    python3 -m venv /tmp/parity && /tmp/parity/bin/pip install tiktoken==0.14.0 tokenizers==0.23.3 regex==2026.11.19
    cargo build --release -p tokenizer --example encode_ids
    /tmp/parity/bin/python tests/parity/tokenizer.py check VOCABULARIES TEXT...     # prints one line a vocabulary and group
    /tmp/parity/bin/python tests/parity/tokenizer.py golden tokenizer/fixtures      # writes tokenizer/fixtures/tiktoken.*

`check`: VOCABULARIES is a folder with any of `r50k_base.tiktoken`, `p50k_base.tiktoken`, `cl100k_base.tiktoken`,
`o200k_base.tiktoken`, `llama3.tiktoken`, `llama4.tiktoken`, `qwen.tiktoken` (the rank files as published), `encoder.json` with
`vocab.bpe` (GPT-2), and `*.json` (any other byte-level BPE `tokenizer.json`). TEXT is a file of documents separated by the byte
0x1e. Groups: every Unicode scalar alone, doubled, and beside space, newline, digit and apostrophe; and each TEXT. A wrong id
ends with status 1.

`golden`: trains a small vocabulary with `tokenizers` on the texts in the folder, writes it as a rank file, and writes the CRC-32
of tiktoken's ids for each split and group, which the tests of the crate compare without Python.
"""

import argparse
import base64
import json
import pathlib
import subprocess
import sys
import tempfile
import zlib

import tiktoken
import tokenizers

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "target" / "release" / "examples" / "encode_ids"
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = LLAMA3.replace("{1,3}", "")
O200K = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)
# Rank file -> (tiktoken's pattern, what `encode_ids` is told)
RANK_FILES = {
    "r50k_base": (GPT2, "r50k_base"),
    "p50k_base": (GPT2, "p50k_base"),
    "cl100k_base": (CL100K, "cl100k_base"),
    "o200k_base": (O200K, "o200k_base"),
    "llama3": (LLAMA3, "llama3"),
    "llama4": (O200K, "o200k"),
    "qwen": (QWEN, QWEN),
}
AROUND = ["{0}", "{0}{0}", " {0}", "{0} ", "\n{0}", "{0}\n", "7{0}", "{0}7", "'{0}", "{0}'s", "a{0}b", "{0}B ", ". {0}.", "\n {0}\n"]


def is_uniform(code):
    """Large blocks of one class: ideographs, Hangul, private use, unassigned planes."""
    blocks = [(0x3400, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xF8FF), (0x17000, 0x18CFF), (0x20000, 0x10FFFF)]
    return any(first <= code <= last for first, last in blocks)


def scalars(step=1):
    """Texts around every Unicode scalar (of large uniform blocks, every `step`-th): each alone, then one form of 256 of them."""
    every = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000 and code != 0x1E]
    every = [chr(code) for code in every if code % step == 0 or not is_uniform(code)]
    yield from every
    for form in AROUND[1:]:
        for start in range(0, len(every), 256):
            yield "".join(form.format(c) for c in every[start : start + 256])


def ours(texts, how, *arguments):
    with tempfile.TemporaryDirectory() as folder:
        source, out = pathlib.Path(folder) / "texts", pathlib.Path(folder) / "ids"
        source.write_text("\x1e".join(texts), encoding="utf8", newline="")
        subprocess.run([EXAMPLE, source, out, how, *map(str, arguments)], check=True)
        ids = memoryview(out.read_bytes()).cast("I")
    rows, row = [], []
    for token in ids:
        if token == 0xFFFFFFFF:
            rows.append(row)
            row = []
        else:
            row.append(token)
    return rows


def compare(name, peer, groups, encode, *arguments, how="plain"):
    wrong = 0
    for group, texts in groups.items():
        mine = ours(texts, how, *arguments)
        theirs = [encode(text) for text in texts]
        differ = [i for i in range(len(texts)) if mine[i] != theirs[i]]
        count = sum(map(len, theirs))
        print(f"{name:24} {peer:12} {group:24} {len(texts):8} texts {count:10} ids {len(differ):6} wrong", flush=True)
        for i in differ[:3]:
            at = next((k for k, (a, b) in enumerate(zip(mine[i], theirs[i])) if a != b), 0)
            print("   ", ascii(texts[i][:60]), mine[i][at : at + 8], theirs[i][at : at + 8])
        wrong += len(differ)
    return wrong


def ranks_of(file):
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in file.read_bytes().splitlines() if line)}


def check(options):
    groups = {"scalars": list(scalars(options.step))}
    groups |= {path.name: path.read_text(encoding="utf8").split("\x1e") for path in options.texts}
    wrong = 0
    for name, (pattern, split) in RANK_FILES.items():
        file = options.folder / f"{name}.tiktoken"
        if file.exists():
            theirs = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks_of(file), special_tokens={})
            wrong += compare(name, "tiktoken", groups, theirs.encode_ordinary, "ranks", file, split)
    gpt2 = [options.folder / "encoder.json", options.folder / "vocab.bpe"]
    if gpt2[0].exists():
        theirs = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(*map(str, gpt2)))
        theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        wrong += compare("gpt2", "tokenizers", groups, lambda text: theirs.encode(text).ids, "gpt2", *gpt2)
    for file in sorted(options.folder.glob("*.json")):
        if file.name != "encoder.json":
            theirs = tokenizers.Tokenizer.from_file(str(file))
            encode = lambda text: theirs.encode(text, add_special_tokens=False).ids  # noqa: B023
            wrong += compare(file.stem, "tokenizers", groups, encode, "json", file, how="specials")
    return int(wrong > 0)


def golden(options):
    folder = options.folder
    texts = [(folder / name).read_text(encoding="utf8") for name in ("shakespeare.txt", "multilingual.txt", "peps.txt")]
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=2000, show_progress=False, initial_alphabet=alphabet)
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    stand_in = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    byte_of = {chr(byte): byte for byte in stand_in}
    byte_of |= {chr(256 + i): byte for i, byte in enumerate(sorted(set(range(256)) - set(stand_in)))}
    ranks = {bytes(byte_of[c] for c in token): rank for token, rank in model["vocab"].items()}
    lines = [b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in sorted(ranks.items(), key=lambda pair: pair[1])]
    (folder / "tiktoken.ranks").write_bytes(b"".join(lines))
    groups = {"scalars": list(scalars(61)), "texts": texts}
    out = {"versions": f"tiktoken {tiktoken.__version__}, tokenizers {tokenizers.__version__}", "around": AROUND}
    for split, pattern in {"r50k_base": GPT2, "cl100k_base": CL100K, "o200k_base": O200K, "llama3": LLAMA3}.items():
        theirs = tiktoken.Encoding(split, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        sums = {}
        for group, members in groups.items():
            crc = 0
            for text in members:
                crc = zlib.crc32(b"".join(token.to_bytes(4, "little") for token in theirs.encode_ordinary(text)), crc)
            sums[group] = crc
        out[split] = sums | {"first": theirs.encode_ordinary(texts[1][:120])}
    rows = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in out.items())
    (folder / "tiktoken.json").write_text("{\n" + rows + "\n}\n", newline="")
    return 0


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("check")
    command.add_argument("folder", type=pathlib.Path)
    command.add_argument("texts", type=pathlib.Path, nargs="*")
    command.add_argument("--step", type=int, default=1, help="take every STEP-th scalar of large blocks of one class")
    command = commands.add_parser("golden")
    command.add_argument("folder", type=pathlib.Path)
    options = parser.parse_args()
    return {"check": check, "golden": golden}[options.command](options)


if __name__ == "__main__":
    sys.exit(main())
