"""MinHash signatures of datatrove 0.10.1, for dedup/tests/minhash_parity.rs and the example `minhash_parity`.

    python3 -m venv /tmp/minhash && /tmp/minhash/bin/pip install -r tests/parity/minhash_requirements.txt
    /tmp/minhash/bin/python tests/parity/minhash.py tests/parity/minhash/goldens.jsonl          # the committed file, byte for byte
    /tmp/minhash/bin/python tests/parity/minhash.py /tmp/pages.jsonl --jsonl FILE.jsonl.zst... --warc FILE.warc.gz... --limit 500
    cargo run --release -p dedup --example minhash_parity /tmp/pages.jsonl

One JSON object a line: `source`, `text`, `simplified` and `words` (datatrove's normalisation and its English splitter), `xxhash` and
`sha1` (112 numbers, seed 1, 14 x 8, word 5-grams; empty if there are fewer than 5 words). datatrove's own classes compute all of it.
Without input files: the texts below, our own. `--jsonl` takes the field `text` (zstd on PATH); `--warc` takes the HTML pages, tags
removed by a regular expression: any text will do.
"""

import argparse
import html
import json
import pathlib
import re
import subprocess

from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import simplify_text

TEXTS = [
    "",
    "Word",
    "only four words here",
    "now there are five words",
    "A mill grinds slowly, but it grinds exceedingly fine: 1,000 sacks in 3.5 hours, on 12.11.2026!",
    "I dont know; we cannot say. Im sure theyre gonna be late, wont they? Yall've heard: it's the miller's.",
    "Weights: 12km, 3.5kg and 7 g; prices from €5 to 10£, $3.50, 100¥ or 20 ₽. ©2026 ★★★☆ a★b 30°C 5mb.",
    "Crème brûlée, naïve façade, Ångström, İstanbul'da, Straße, ŒUVRE, ﬁne ﬂour, Ⅷ ½ ² e\u0301te\u0301 \u0301.",
    "ΟΔΥΣΣΕΥΣ ΣΟΦΟΣ: ο μύλος αλέθει αργά, αλλά αλέθει ψιλά. Πόσα σακιά; Δέκα.",
    "Мельница мелет медленно, но мелет мелко: 1 000 мешков за 3,5 часа, 5км и 7кг. «Ёлка» – это не мельница.",
    "الطاحونة تطحن ببطء، لكنها تطحن ناعماً؛ ١٬٠٠٠ كيس في ٣٫٥ ساعات؟ نعم! 5كم",
    "चक्की धीरे पीसती है, लेकिन बारीक पीसती है। १,००० बोरे ३.५ घंटे में॥ हाँ!",
    "磨坊磨得慢，却磨得细：3.5小时磨1,000袋。好吗？好！「谷物」 和 『面粉』",
    "製粉所は ゆっくり 挽くが、細かく 挽く。１２袋／時間。ガギグゲゴ パピプペポ",
    "방앗간은 천천히 빻지만 아주 곱게 빻는다. 세 시간 반에 1,000 자루!",
    "โรงสี บด ช้า แต่ บด ละเอียด มาก ๑,๐๐๐ กระสอบ ใน ๓.๕ ชั่วโมง",
    "emoji \U0001f600\U0001f600 between\U0001f33e words \U0001f468\u200d\U0001f33e and \u2713 marks \u2192 here \u2260 there \u221e",
    "tabs\tand\nlines\r\nand\u00a0spaces\u2003of\u3000all\u2028kinds\u0085and\x00control\x1f\x7fcharacters\u200bhere",
    "one two three four five " * 40,
    "\n\n".join(f"Paragraph {n}: the mill at the river grinds sack number {n * 37} for the {n}th farmer." for n in range(60)),
    "http://mill.example/path?x=1&y=2#top user@mill.example C:\\mill\\grist.txt `code` a=b a==b x<y ‘quoted’ ‚low‘ §5 ¿qué? ¡sí! a·b",
]


def texts(arguments):
    if not arguments.jsonl and not arguments.warc:
        yield from (("own", text) for text in TEXTS)
    for path in arguments.jsonl:
        lines = subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout.decode().splitlines()
        step = max(1, len(lines) // arguments.limit)
        yield from ((pathlib.Path(path).name, json.loads(line)["text"]) for line in lines[::step][: arguments.limit])
    for path in arguments.warc:
        yield from ((pathlib.Path(path).name, text) for text in pages(path, arguments.limit))


def pages(path, limit):
    from warcio.archiveiterator import ArchiveIterator

    count = 0
    with open(path, "rb") as stream:
        for record in ArchiveIterator(stream):
            kind = record.http_headers and record.http_headers.get_header("Content-Type", "")
            if record.rec_type != "response" or "html" not in (kind or ""):
                continue
            body = record.content_stream().read().decode("utf8", "replace")
            body = re.sub(r"(?is)<(script|style)\b.*?</\1>", " ", body)
            yield html.unescape(re.sub(r"<[^>]*>", "\n", body)).encode("utf8", "replace").decode("utf8")
            count += 1
            if count == limit:
                return


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--jsonl", nargs="*", default=[])
    parser.add_argument("--warc", nargs="*", default=[])
    parser.add_argument("--limit", type=int, default=1 << 30, help="texts of each file")
    arguments = parser.parse_args()
    steps = {
        name: MinhashDedupSignature("/tmp/unused", MinhashConfig(hash_config=HashConfig(precision=64, hash_fc=name)))
        for name in ["xxhash", "sha1"]
    }
    with open(arguments.out, "w", encoding="utf8", newline="\n") as out:
        for source, text in texts(arguments):
            row = {"source": source, "text": text, "simplified": simplify_text(text)}
            row["words"] = steps["xxhash"].word_tokenizer.word_tokenize(row["simplified"])
            for name, step in steps.items():
                shingles = step.get_shingles(text)
                row[name] = sum(step.get_signature(shingles), []) if shingles.size else []
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


main()
