"""Quality rules against datatrove 0.10.1 and its spaCy.

    python3 -m venv V && V/bin/pip install --no-deps datatrove==0.10.1
    V/bin/pip install spacy==3.8.7 nltk==3.9.1 ftfy==6.3.1 tldextract==5.4.0 regex loguru multiprocess dill fsspec huggingface_hub \
        numpy humanize tqdm pyahocorasick xxhash orjson warcio==1.7.5
    (the extra `datatrove[processing]` pins packages that pip's resolver does not get together; these are enough for its filters)
    cargo build --release -p filters --example rules_decisions

    V/bin/python tests/parity/rules.py texts OUT.jsonl [--wcxb FOLDER] [--pages FOLDER] [--most N] [--language CODE [--sections]] [--crawls CRAWL.warc.gz ...]
        texts of real pages: `main_content` of WCXB's ground truth, HTML files and pages of a crawl with their markup stripped; with --language only
        pages of a crawl whose address names it, with --sections cut at their headings, those of at least 500 characters
    V/bin/python tests/parity/rules.py dump TEXTS.jsonl OUT.jsonl [--language en]
        what datatrove finds: words and sentences as byte ranges, the decision of each rule, the text that its C4 filter leaves
    V/bin/python tests/parity/rules.py check BINARY DUMP.jsonl given|own [--show N]
        compares with `BINARY DUMP.jsonl MODE`, the example `rules_decisions`: rules on datatrove's words, or on our own
    V/bin/python tests/parity/rules.py tables
        prints filters/src/text/tables.rs (Python 3.11: Unicode 14)
    V/bin/python tests/parity/rules.py goldens
        writes tests/parity/rules/: what spaCy and datatrove make of our own lines and texts (committed, read by the crate's tests)

Each rule is decided by datatrove's own filter with all its other rules switched off, so that no rule hides another.
"""

import argparse
import collections
import contextlib
import hashlib
import html.parser
import io
import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent / "rules"
BLOCKS = set("p div li ul ol h1 h2 h3 h4 h5 h6 tr table pre br dt dd section article header footer nav blockquote title form hr td th".split())


class Strip(html.parser.HTMLParser):
    """Text between tags; a block begins a new line, `pre` keeps its own."""

    def __init__(self):
        super().__init__()
        self.out, self.skip, self.pre = [], 0, 0

    def handle_starttag(self, tag, _):
        self.skip += tag in ("script", "style")
        self.pre += tag == "pre"
        if tag in BLOCKS:
            self.out.append("\n")

    def handle_endtag(self, tag):
        self.skip -= tag in ("script", "style")
        self.pre -= tag == "pre"
        if tag in BLOCKS:
            self.out.append("\n")

    def handle_data(self, data):
        if self.skip <= 0:
            self.out.append(data if self.pre > 0 else re.sub(r"\s+", " ", data))


def strip(page):
    parser = Strip()
    parser.feed(page)
    parser.close()
    lines = (line.strip(" ") for line in "".join(parser.out).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def texts(options):
    rows = []
    if options.wcxb:
        for path in sorted(pathlib.Path(options.wcxb, "ground-truth").glob("*.json")):
            text = json.loads(path.read_text(encoding="utf8"))["ground_truth"].get("main_content")
            rows.append((f"wcxb/{path.stem}", text))
    if options.pages:
        for path in sorted(pathlib.Path(options.pages).glob("*.html")):
            rows.append((f"page/{path.stem}", strip(path.read_text(encoding="utf8", errors="replace"))))
    for crawl in options.crawls:
        from warcio.archiveiterator import ArchiveIterator

        with open(crawl, "rb") as file:
            for number, record in enumerate(ArchiveIterator(file)):
                if record.rec_type == "response" and record.http_headers.get_statuscode() == "200":
                    body = record.content_stream().read().decode("utf8", "replace")
                    uri = record.rec_headers.get_header("WARC-Target-URI")
                    if "<html" not in body[:2000].lower() or (options.language and not re.search(rf"[./]{options.language}(-[A-Z]+)?[./]", uri)):
                        continue
                    pieces = re.split(r"(?=<h[1-4][ >])", body) if options.sections else [body]
                    rows += ((f"{pathlib.Path(crawl).name}/{number}/{at}", strip(piece)) for at, piece in enumerate(pieces))
    least = 500 if options.sections else 1
    rows = [(name, text) for name, text in rows if text and len(text.strip()) >= least]
    if options.most and len(rows) > options.most:
        rows = [rows[at * len(rows) // options.most] for at in range(options.most)]
    with open(options.output, "w", encoding="utf8") as out:
        for name, text in rows:
            out.write(json.dumps({"id": name, "text": text}, ensure_ascii=False) + "\n")
    digest = hashlib.sha256(pathlib.Path(options.output).read_bytes()).hexdigest()
    print(f"{len(rows)} texts, {sum(len(text.encode()) for _, text in rows) / 1e6:.1f} MB, sha256 {digest}")


def filters(language):
    """Name of our rule -> datatrove's filter with only that rule."""
    from datatrove.pipeline import filters as f

    def repetition(**on):
        off = dict(dup_line_frac=None, dup_para_frac=None, dup_line_char_frac=None, dup_para_char_frac=None, top_n_grams=(), dup_n_grams=())
        return f.GopherRepetitionFilter(language=language, **{**off, **on})

    def quality(**on):
        off = dict(min_doc_words=None, max_doc_words=None, min_avg_word_length=None, max_avg_word_length=None, max_symbol_word_ratio=None,
                   max_bullet_lines_ratio=None, max_ellipsis_lines_ratio=None, max_non_alpha_words_ratio=None, min_stop_words=None)
        return f.GopherQualityFilter(language=language, **{**off, **on})

    def c4(**on):
        off = dict(filter_no_terminal_punct=False, filter_lorem_ipsum=False, filter_curly_bracket=False, min_num_sentences=-1)
        return f.C4QualityFilter(language=language, **{**off, **on})

    def fineweb(**on):
        off = dict(line_punct_thr=-1, short_line_thr=9, char_duplicates_ratio=9, new_line_ratio=1e9)
        return f.FineWebQualityFilter(language=language, **{**off, **on})

    rules = {
        "gopher_repetition.duplicate_paragraphs": repetition(dup_para_frac=0.3),
        "gopher_repetition.duplicate_paragraph_chars": repetition(dup_para_char_frac=0.2),
        "gopher_repetition.duplicate_lines": repetition(dup_line_frac=0.3),
        "gopher_repetition.duplicate_line_chars": repetition(dup_line_char_frac=0.2),
    }
    for n, share in (2, 0.2), (3, 0.18), (4, 0.16):
        rules[f"gopher_repetition.top_{n}_gram_chars"] = repetition(top_n_grams=((n, share),))
    for n, share in (5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1):
        rules[f"gopher_repetition.duplicate_{n}_gram_chars"] = repetition(dup_n_grams=((n, share),))
    rules |= {
        "gopher_quality.min_words": quality(min_doc_words=50),
        "gopher_quality.max_words": quality(max_doc_words=100000),
        "gopher_quality.min_mean_word_length": quality(min_avg_word_length=3),
        "gopher_quality.max_mean_word_length": quality(max_avg_word_length=10),
        "gopher_quality.hashes_per_word": quality(max_symbol_word_ratio=0.1),
        "gopher_quality.ellipses_per_word": quality(max_symbol_word_ratio=0.1),
        "gopher_quality.bullet_lines": quality(max_bullet_lines_ratio=0.9),
        "gopher_quality.ellipsis_lines": quality(max_ellipsis_lines_ratio=0.3),
        "gopher_quality.alphabetic_words": quality(max_non_alpha_words_ratio=0.8),
        "gopher_quality.stop_words": quality(min_stop_words=2),
        "c4.lorem_ipsum": c4(filter_lorem_ipsum=True),
        "c4.curly_bracket": c4(filter_curly_bracket=True),
        "c4.min_sentences": c4(min_num_sentences=5),
        "c4.min_long_lines": f.C4ParagraphFilter(),
        "fineweb_quality.terminal_punctuation_lines": fineweb(line_punct_thr=0.12),
        "fineweb_quality.short_lines": fineweb(short_line_thr=0.67),
        "fineweb_quality.duplicate_line_chars": fineweb(char_duplicates_ratio=0.01),
        "fineweb_quality.newlines_per_word": fineweb(new_line_ratio=0.3),
    }
    return rules


def decide(rules, text):
    """Name of rule -> whether datatrove keeps the text; no entry where another reason hides the rule."""
    from datatrove.data import Document

    kept = {}
    for name, rule in rules.items():
        try:
            result = rule.filter(Document(text=text, id="0"))
        except ZeroDivisionError:
            continue
        result, reason = result if isinstance(result, tuple) else (result, "")
        if name == "gopher_quality.hashes_per_word":
            result = reason != "gopher_too_many_hashes"
        elif name == "gopher_quality.ellipses_per_word":
            if reason == "gopher_too_many_hashes":
                continue
            result = reason != "gopher_too_many_ellipsis"
        kept[name] = bool(result)
    return kept


def places(text, words):
    """Byte ranges of words in a text, which has them in this order."""
    raw, at, found = text.encode(), 0, []
    for word in words:
        word = word.encode()
        start = raw.index(word, at)
        at = start + len(word)
        found.append([start, at])
    return found


def sentences(text, language):
    """Byte ranges of datatrove's sentences in the lines as its C4 filter sees them: without citation marks."""
    from datatrove.pipeline.filters.c4_filters import CITATION_REGEX
    from datatrove.utils.text import split_into_sentences

    found, at = [], 0
    for whole in text.splitlines(keepends=True):
        line = whole.splitlines()[0]
        body = line.strip()
        start = at + len(line) - len(line.lstrip()) if body else at
        at += len(whole)
        if not body:
            continue
        marks = [match.span() for match in CITATION_REGEX.finditer(body)]
        place = 0
        for sentence in split_into_sentences(CITATION_REGEX.sub("", body), language):
            before = place + sum(b - a for a, b in marks if a - sum(d - c for c, d in marks if d <= a) <= place)
            found.append(start + min(before, len(body)))
            place += len(sentence)
    raw = [len(text[:start].encode()) for start in found]
    return [[a, b] for a, b in zip(raw, raw[1:] + [len(text.encode())])]


def dump_text(rules, name, text, language):
    from datatrove.data import Document
    from datatrove.pipeline.filters import C4QualityFilter
    from datatrove.utils.text import split_into_words

    document = Document(text=text, id="0")
    c4 = C4QualityFilter(language=language, filter_no_terminal_punct=False, filter_lorem_ipsum=False, filter_curly_bracket=False, min_num_sentences=-1)
    c4.filter(document)
    return {"id": name, "text": text, "kept": decide(rules, text), "words": places(text, split_into_words(text, language)),
            "sentences": sentences(text, language), "c4": document.text}


def dump(options):
    rules = filters(options.language)
    with open(options.texts, encoding="utf8") as rows, open(options.output, "w", encoding="utf8") as out:
        for row in map(json.loads, rows):
            with contextlib.redirect_stdout(io.StringIO()):
                found = dump_text(rules, row["id"], row["text"], options.language)
            out.write(json.dumps(found, ensure_ascii=False) + "\n")


def family(name):
    return name.split(".")[0]


def check(options):
    ours = subprocess.run([options.binary, options.dump, options.mode], check=True, capture_output=True, encoding="utf8").stdout.splitlines()
    equal, compared, shown = collections.Counter(), collections.Counter(), collections.Counter()
    c4_equal, documents, words_equal = 0, 0, 0
    for line, row in zip(ours, open(options.dump, encoding="utf8"), strict=True):
        line, row = json.loads(line), json.loads(row)
        documents += 1
        c4_equal += line["c4"] == row["c4"]
        words_equal += line["words"] == row["words"]
        families = collections.defaultdict(lambda: [True, True])
        for name, kept in row["kept"].items():
            mine = line["kept"][name]
            compared[name] += 1
            equal[name] += mine == kept
            if name != "c4.min_long_lines":
                families[family(name)][0] &= kept
                families[family(name)][1] &= mine
            if mine != kept and shown[name] < options.show:
                shown[name] += 1
                print(f"  {row['id']}: {name} is {line['values'][name]}, datatrove {'keeps' if kept else 'drops'}")
        if options.show and line["c4"] != row["c4"] and shown["c4"] < options.show:
            shown["c4"] += 1
            print(f"  {row['id']}: the C4 edit differs")
        for name, (theirs, mine) in families.items():
            compared[name] += 1
            equal[name] += theirs == mine
        compared["all four"] += 1
        equal["all four"] += all(a for a, _ in families.values()) == all(b for _, b in families.values())
    print(f"{documents} texts ({options.mode}): word lists equal {words_equal}, C4 edits equal {c4_equal}")
    for name in compared:
        print(f"{name:45} {equal[name]}/{compared[name]} {100 * equal[name] / compared[name]:.2f}")


def goldens(_):
    rules = filters("en")
    from datatrove.utils.text import split_into_words

    lines = [line for line in (HERE / "lines.txt").read_text(encoding="utf8").split("\n") if line]
    words = [split_into_words(line, "en") for line in lines]
    rows = ",\n".join(json.dumps([line, found], ensure_ascii=False) for line, found in zip(lines, words))
    (HERE / "words.json").write_text(f"[\n{rows}\n]\n", encoding="utf8")
    texts = (HERE / "texts.txt").read_bytes().decode().split("\n=====8<=====\n")
    rows = [json.dumps(dump_text(rules, str(at), text, "en"), ensure_ascii=False) for at, text in enumerate(texts) if text.strip()]
    (HERE / "decisions.jsonl").write_text("\n".join(rows) + "\n", encoding="utf8")


TABLES = """//! Sets of characters that the splitter and the rules ask for, as first and last of each range, sorted.
//!
//! In: nothing. Out: tables. Facts of Unicode 14 (general categories, UAX #44), of datatrove 0.10.1 (its set of punctuation) and of
//! spaCy 3.8 (its sentence marks); `tests/parity/rules.py tables` prints them again.

/// Whether a sorted table has a character.
pub(super) fn has(table: &[(u32, u32)], code: u32) -> bool {
    let after = table.partition_point(|&(first, _)| first <= code);
    after > 0 && code <= table[after - 1].1
}
"""


def tables(_):
    import unicodedata

    from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION
    from spacy.pipeline import Sentencizer

    def circled(code):
        return any(a <= code <= b for a, b in ((0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189)))

    sets = [
        ("PUNCTUATION", "Every general category of punctuation (P*).", lambda c: unicodedata.category(c)[0] == "P"),
        ("OTHER_SYMBOLS", "Dingbats, emoji and their like (So).", lambda c: unicodedata.category(c) == "So"),
        ("SYMBOLS", "What a word must have something else of, not to be a symbol: datatrove's punctuation, its terminals included.",
         lambda c: c in PUNCTUATION_SET),
        ("SENTENCE_MARKS", "Tokens after which a sentence may begin: spaCy's sentencizer.", lambda c: c in Sentencizer.default_punct_chars),
        ("TERMINALS", "Characters that end a line of prose: datatrove's list, Unicode's Sentence_Terminal (UAX #29) and three Khmer signs.",
         lambda c: c in TERMINAL_PUNCTUATION),
        ("LETTER_NUMBERS", "Alphabetic to Rust, no letters to Python's `isalpha`: letter numbers (Nl) and letters in circles and squares.",
         lambda c: unicodedata.category(c) == "Nl" or circled(ord(c))),
    ]
    print(TABLES, end="")
    for name, about, holds in sets:
        codes = [code for code in range(0x110000) if holds(chr(code))]
        firsts = [code for before, code in zip([-2, *codes], codes) if code != before + 1]
        lasts = [code for code, after in zip(codes, [*codes[1:], -2]) if after != code + 1]
        print(f"\n/// {about}\n#[rustfmt::skip]\npub(super) const {name}: &[(u32, u32)] = &[")
        line = "   "
        for item in (f" (0x{first:X}, 0x{last:X})," for first, last in zip(firsts, lasts)):
            if len(line) + len(item) > 120:
                print(line)
                line = "   "
            line += item
        print(line + "\n];")


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("texts")
    one.add_argument("output")
    one.add_argument("--crawls", nargs="*", default=[])
    one.add_argument("--wcxb")
    one.add_argument("--pages")
    one.add_argument("--most", type=int)
    one.add_argument("--language")
    one.add_argument("--sections", action="store_true")
    one = commands.add_parser("dump")
    one.add_argument("texts")
    one.add_argument("output")
    one.add_argument("--language", default="en")
    one = commands.add_parser("check")
    one.add_argument("binary")
    one.add_argument("dump")
    one.add_argument("mode", choices=["given", "own"])
    one.add_argument("--show", type=int, default=0)
    commands.add_parser("goldens")
    commands.add_parser("tables")
    options = parser.parse_args()
    {"texts": texts, "dump": dump, "check": check, "goldens": goldens, "tables": tables}[options.command](options)


if __name__ == "__main__":
    sys.exit(main())
