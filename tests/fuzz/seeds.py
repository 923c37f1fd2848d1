"""Writes the seeds of every fuzz target: `python3 tests/fuzz/seeds.py FOLDER` fills FOLDER/TARGET.

From files of this repository alone: `tests/fixtures` and `tests/fixtures/micro`. Each seed begins with the bytes ("knobs") that its
target takes off the front; see `src/checks`.
"""

import hashlib
import pathlib
import re
import sys
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = pathlib.Path(sys.argv[1])
LONGEST = 6000


def seed(target, knobs, content):
    data = bytes(knobs) + content[:LONGEST]
    folder = OUT / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)


def members(data):
    while data:
        inflate = zlib.decompressobj(31)
        yield inflate.decompress(data)
        data = inflate.unused_data


for path in sorted((ROOT / "tests/fixtures/warc").glob("*arc*")):
    data = path.read_bytes()
    packed = data[:2] == b"\x1f\x8b"
    if packed:
        for ranges in (0, 4):
            seed("members", [0, 0, ranges, 0, 0], data)
    try:
        plain = b"".join(members(data)) if packed else data
    except zlib.error:
        continue
    for form in (1, 2, 3):
        seed("members", [form, 0, 2, 0, 0], plain)
        seed("members", [form, 20, 2, 1, 90], plain)
    seed("records", [0, 3], plain)

for form in (1, 2):
    seed("records", [form, 8], "page?a=b c\nbody\r\n\r\n\xffü\nWARC/1.0\r\nContent-Length: 3\r\n\r\nabc".encode("latin1"))
    seed("records", [form, 30], b"x\n" + b"http://a.test/ 192.0.2.1 20200102030405 text/html 3\nabc\n" + b"\xff")
seed("members", [2, 0, 1, 0, 0], b"WARC/1.0\r\nContent-Length: 5000\r\n\r\n" + bytes(5000))

pages = []
for name in ("a.warc.gz", "b.warc.gz"):
    for record in members((ROOT / "tests/fixtures/micro" / name).read_bytes()):
        block = record.split(b"\r\n\r\n", 1)[1]
        if not block.startswith(b"HTTP/"):
            continue
        head, body = block.split(b"\r\n\r\n", 1)
        seed("http", [0, 255], head + b"\r\n\r\n" + body[:300])
        seed("http", [1, 0], head)
        for encoding in range(10):
            seed("chunks", [1, encoding, 40, encoding * 3, 0, 0], body[:400])
        seed("chunks", [0, 1, 9, 0], body[:400])
        if b"<body" in body:
            pages.append(body)

for body in (b"5\r\nhello\r\n0\r\n\r\n", b"3;x=y\r\nhel2\r\nlo0\r\n", b"FFFFFFFFFFFFFFFF\r\nhello", b"3\r\nhel\r\nzz\r\nlo"):
    seed("chunks", [0, 0, 255, 0, 0, 0], body)
for status in (b"HTTP/1.1 200\nbad name : v\r\nno colon\r\n folded\r\n\r\n<!-- c --><p>", b"HTTP/2 404\r\r\n\r\r\n<?xml?><html>"):
    seed("http", [0, 4], status)

for page in pages:
    # From the start, and from where the text begins.
    for part in (page[:3000], page[page.find(b"<body") :][:3000]):
        for flags in (0, 3):
            seed("extract", [flags, 9, 200, 255, 20], part)
    seed("charset", [1, 0], page[:300])
hostile = (ROOT / "filters/src/extract/hostile.rs").read_text()
for literal in re.findall(r'"((?:[^"\\]|\\.)*)"', hostile, re.S):
    if "<" in literal or "&" in literal:
        text = re.sub(r"\\\n\s*", "", literal).replace('\\"', '"').replace("\\n", "\n").replace("\\0", "\0")
        for flags in (0, 1):
            seed("extract", [flags, 30, 100, 0, 8], text.encode() * (1 if len(text) > 60 else 20))

RUSSIAN = "<p>Съешь ещё этих мягких французских булок, да выпей чаю.</p>"
JAPANESE = "<html><p>吾輩は猫である。名前はまだ無い。カタカナも混ぜる。</p>"
CHINESE = "<p>敏捷的棕色狐狸跳过了懒狗。</p>"
LABELS = ("cp1252 utf-8 latin-1 cp1251 shift_jis euc-jp iso-2022-jp gb18030 big5 euc-kr utf-16le utf-16be latin-1 hz koi8-r utf-8").split()
for number, label in enumerate(LABELS):
    for text in (RUSSIAN, JAPANESE, CHINESE, "Füße und Köpfe", f"<meta charset={label}>" + RUSSIAN, f"<?xml encoding='{label}'?>" + JAPANESE):
        data = text.encode(label, "ignore")
        seed("charset", [0, number], data)
        seed("charset", [0, 255], data)
for form in range(1, 8):
    seed("charset", [form, form], (RUSSIAN + "Füße" + JAPANESE + "\U0001f98a").encode())

URLS = """HTTP://Example.ORG:80 https://example.org:443/a/../b/./c#top https://example.org.:8443/ https://example.org/%7euser/%C3%a9%2f?
https://example.org/p?utm_Source=x&id=7&GCLID=1&fbclid http://Bücher.example/ http://user:p@example.org/100% http://[2001:DB8::1]:80/
http://example.org/%4%31 mailto:a@b.example file:///etc/x http://127.1/ http://a.b.example.co.uk/ http://user.github.io/x?y=z&&
ftp://例え.jp/カジノ data:text/plain,x foo://h/%zz? //x http://a..b./ https://example.org/?utm%5Fa=1""".split()
links = sorted({link.decode("utf-8", "ignore") for page in pages for link in re.findall(rb'href="([^"]{1,90})"', page)})
for url in URLS + links[:60]:
    for knob in range(4):
        seed("url", [knob], url.encode())

LINES = [
    b'{"text": "one"}\n{"text": "two"}\r\n\n{"text":',
    b'id,text\n1,"a ""b""\nc, d"\n2,5" pipe\n"3"x,""\n\n4,"last\nline"',
    b'1,"never closed\n2,fine\n',
    b'a\t"b\n"\tc\r\n"\r\n"\r\n',
]
for text in LINES:
    for shape in range(3):
        seed("lines", [shape, 3, 1], text)
