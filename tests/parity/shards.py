"""Token shards as other programs see them.

    shards.py golden tokenizer/fixtures/megatron.idx    writes the golden index, from the published description alone
    shards.py check RUN/STAGE [EXPORT]                  opens the shards of a `tokenize` stage, and an `export` of them

In:  numpy, pyarrow, duckdb, datasets, megatron-core without its dependencies (tests/parity/shards_requirements.txt).
     Megatron-LM's own `indexed_dataset.py` runs as it is; it needs of torch only a base class, which stands in here. Beside it
     thirty lines written from its description read the same files.
Out: one line per reader; exit 1 at the first difference.
"""

import importlib
import json
import os
import struct
import sys
import tempfile
import types

import numpy as np

CODES = {8: np.dtype("<u2"), 4: np.dtype("<i4")}


def megatron_index(path):
    """-> dtype, sequence lengths, byte pointers, document list of a version 1 index."""
    raw = open(path, "rb").read()
    assert raw[:9] == b"MMIDIDX\x00\x00", "magic"
    version, code, sequences, documents = struct.unpack_from("<QBQQ", raw, 9)
    assert version == 1, "version"
    at = 9 + struct.calcsize("<QBQQ")
    arrays = []
    for dtype, count in (("<i4", sequences), ("<i8", sequences), ("<i8", documents)):
        arrays.append(np.frombuffer(raw, dtype, count, at))
        at += arrays[-1].nbytes
    assert at == len(raw), "length"
    return (CODES[code], *arrays)


def megatron_sequences(prefix):
    """-> one array of ids per sequence, as Megatron-LM reads them: from pointer and length."""
    dtype, lengths, pointers, _ = megatron_index(prefix + ".idx")
    if os.path.getsize(prefix + ".bin") == 0:
        assert len(lengths) == 0
        return []
    tokens = np.memmap(prefix + ".bin", mode="r", dtype=np.uint8)
    return [np.frombuffer(tokens, dtype, n, p) for n, p in zip(lengths.tolist(), pointers.tolist())]


def megatron():
    """-> Megatron-LM's module `indexed_dataset`, without the rest of the package and without torch."""
    torch = types.ModuleType("torch")
    torch.Tensor = object
    torch.utils = types.ModuleType("torch.utils")
    torch.utils.data = types.ModuleType("torch.utils.data")
    torch.utils.data.Dataset = object
    utils = types.ModuleType("megatron.core.utils")
    utils.log_single_rank = lambda *_: None
    sys.modules |= {"torch": torch, "torch.utils": torch.utils, "torch.utils.data": torch.utils.data}
    for name in ("megatron", "megatron.core", "megatron.core.datasets"):
        package = types.ModuleType(name)
        package.__path__ = [os.path.join(p, *name.split(".")) for p in sys.path]
        sys.modules[name] = package
    sys.modules["megatron.core.utils"] = utils
    module = importlib.import_module("megatron.core.datasets.indexed_dataset")
    for name in ("torch", "torch.utils", "torch.utils.data"):
        del sys.modules[name]
    return module


def golden(path):
    lengths = np.array([3, 1, 70000, 2], "<i4")
    pointers = np.concatenate([[0], np.cumsum(lengths[:-1].astype("<i8") * 2)]).astype("<i8")
    documents = np.arange(len(lengths) + 1, dtype="<i8")
    head = b"MMIDIDX\x00\x00" + struct.pack("<Q", 1) + struct.pack("<B", 8)
    head += struct.pack("<Q", len(lengths)) + struct.pack("<Q", len(documents))
    with open(path, "wb") as f:
        f.write(head + lengths.tobytes() + pointers.tobytes() + documents.tobytes())
    with tempfile.TemporaryDirectory() as folder:
        builder = megatron().IndexedDatasetBuilder(os.path.join(folder, "x.bin"), dtype=np.uint16)
        for n in lengths.tolist():
            builder.add_document(FakeTensor(n), [n])
        builder.finalize(os.path.join(folder, "x.idx"))
        assert open(os.path.join(folder, "x.idx"), "rb").read() == open(path, "rb").read()
    say("the golden is what Megatron-LM's IndexedDatasetBuilder writes", f"{os.path.getsize(path)} bytes")


class FakeTensor:
    """As much of a torch tensor as the builder asks for: `n` ids."""

    def __init__(self, n):
        self.ids = np.ones(n, np.int64)

    def numpy(self):
        return self.ids

    def __array__(self, dtype=None, copy=None):
        return self.ids if dtype is None else self.ids.astype(dtype)


def say(reader, found):
    print(f"ok   {reader}: {found}")


def check(stage, export):
    receipt = json.load(open(os.path.join(stage, "shards.json")))
    dtype = {"u16": np.dtype("<u2"), "u32": np.dtype("<u4")}[receipt["width"]]
    end = receipt["tokenizer"]["end_of_text"]
    documents, streams = [], {"train": [], "holdout": []}
    for shard in receipt["shards"]:
        prefix = os.path.join(stage, shard["name"])
        own = megatron_sequences(prefix)
        assert len(own) == shard["documents"] and sum(map(len, own)) == shard["tokens"]
        assert all(d[-1] == end and not (d[:-1] == end).any() for d in own)
        documents += [(shard, d) for d in own]
        # nanoGPT: np.memmap(os.path.join(data_dir, 'train.bin'), dtype=np.uint16, mode='r')
        flat = np.memmap(prefix + ".bin", dtype=dtype, mode="r") if shard["tokens"] else np.empty(0, dtype)
        assert np.array_equal(flat, np.concatenate(own) if own else flat)
        streams[shard["split"]].append(flat)
    streams = {split: np.concatenate(flats).astype(np.int64) for split, flats in streams.items()}
    say("index as described, np.memmap of nanoGPT", f"{len(documents)} documents, {sum(map(len, streams.values()))} tokens")
    reader, count = megatron().IndexedDataset, 0
    for shard in (s for s in receipt["shards"] if s["tokens"]):
        theirs = reader(os.path.join(stage, shard["name"]), mmap=True)
        ours = [d for s, d in documents if s is shard]
        assert len(theirs) == len(ours) and all(np.array_equal(theirs[i], d) for i, d in enumerate(ours))
        assert theirs.document_indices.tolist() == list(range(len(ours) + 1))
        count += len(ours)
    say("Megatron-LM's IndexedDataset", f"{count} documents")
    table(stage, documents)
    if export:
        exported(export, documents, streams, end)


def table(stage, documents):
    import duckdb

    path = os.path.join(stage, "docs.parquet")
    rows = duckdb.sql(f"SELECT split, shard, document, token_start, token_count FROM '{path}'").fetchall()
    assert len(rows) == len(documents)
    starts = {}
    for (split, number, ordinal, start, count), (shard, ids) in zip(rows, documents):
        assert (f"{split}-{number:05}", split, count) == (shard["name"], shard["split"], len(ids))
        assert (ordinal, start) == starts.get(shard["name"], (0, 0))
        starts[shard["name"]] = (ordinal + 1, start + count)
    columns = [c[0] for c in duckdb.sql(f"DESCRIBE SELECT * FROM '{path}'").fetchall()]
    say("DuckDB", f"{len(rows)} rows of docs.parquet, columns {' '.join(columns)}")


def exported(folder, documents, streams, end):
    import datasets

    found = 0
    loaded = datasets.load_dataset(folder, cache_dir=os.environ.get("CACHE", "/tmp/shards-datasets-cache"))
    for split, name in (("train", "train"), ("test", "holdout")):
        ours = [d for shard, d in documents if shard["split"] == name]
        theirs = loaded[split] if ours else []
        assert len(theirs) == len(ours), (split, len(theirs), len(ours))
        assert all(row["input_ids"] == d.tolist() for row, d in zip(theirs, ours))
        found += len(ours)
    say("datasets.load_dataset", f"{found} documents, {loaded['train'].features}")
    for split, name in (("train", "train"), ("val", "holdout")):
        files = sorted(f for f in os.listdir(os.path.join(folder, "llmc")) if f.startswith(split))
        stream = []
        for file in files:
            raw = open(os.path.join(folder, "llmc", file), "rb").read()
            head = np.frombuffer(raw, "<i4", 256)
            kind = {(20240520, 1): "<u2", (20240801, 7): "<u4"}[(int(head[0]), int(head[1]))]
            stream.append(np.frombuffer(raw, kind, offset=1024))
            assert len(stream[-1]) == head[2] and not head[3:].any()
        stream = np.concatenate(stream) if stream else np.empty(0)
        assert np.array_equal(stream, streams[name]), f"llm.c {split}"
        say(f"llm.c header, {split}", f"{len(stream)} tokens in {len(files)} files")


if __name__ == "__main__":
    if sys.argv[1] == "golden":
        golden(sys.argv[2])
    else:
        check(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
