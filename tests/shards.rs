//! Token shards end to end: the same bytes at any number of threads and after any kill, whole documents behind every token,
//! damage and mixed tokenizers found before use, and the files of other programs.

use crate::support::{arg, fails_with, gristmill, manifest, root, run, stdout, text};
use pipeline::dataset::Dataset;
use pipeline::stage::tokenize::open;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

/// Two archives to shards, their export, a small model on them, and shards of another tokenizer.
fn mill(folder: &Path) -> PathBuf {
    let archives = root().join("tests/fixtures/micro/*.warc.gz");
    let text = format!(
        "name = \"mill\"\nseed = 3\n[stage]\n\
         crawl = {{ kind = \"ingest\", source = {:?} }}\n\
         text = {{ kind = \"extract\", input = \"crawl\" }}\n\
         lang = {{ kind = \"language\", input = \"text\" }}\n\
         mixture = {{ kind = \"mix\", input = \"lang\", by = \"language\", budget_bytes = 400_000, max_epochs = 3.0 }}\n\
         bpe = {{ kind = \"tokenizer\", input = \"text\", vocab_size = 400 }}\n\
         shards = {{ kind = \"tokenize\", inputs = [\"lang\", \"mixture\"], tokenizer = \"bpe\", holdout_share = 0.3 }}\n\
         files = {{ kind = \"export\", shards = \"shards\" }}\n\
         base = {{ kind = \"pretrain\", input = \"shards\", n_layer = 1, n_embd = 16, n_head = 1, sequence_len = 64, batch_tokens = 256, micro_batch_tokens = 256, budget_tokens = 512 }}\n\
         other = {{ kind = \"tokenizer\", input = \"text\", vocab_size = 300 }}\n\
         strange = {{ kind = \"tokenize\", input = \"text\", tokenizer = \"other\", holdout_share = 0.3 }}\n\
         scores = {{ kind = \"eval\", models = [\"base\"], shards = \"strange\" }}\n",
        arg(&archives)
    );
    manifest(folder, &text)
}

fn made(folder: &Path, only: &str, threads: &str) -> PathBuf {
    let path = mill(folder);
    let said = run(&["run", arg(&path), "--root", arg(folder), "--only", only, "--threads", threads]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    folder.join("mill")
}

fn digest(run_folder: &Path, stage: &str) -> String {
    let all = stdout(&["verify", arg(run_folder)]);
    all.lines().find(|l| l.starts_with(&format!("{stage} "))).expect("the stage is there").to_string()
}

fn dataset(run_folder: &Path, stage: &str) -> Dataset {
    Dataset::open(stage, std::fs::canonicalize(run_folder.join(stage)).unwrap()).unwrap()
}

fn count(run_folder: &Path, query: &str) -> u64 {
    let said = stdout(&["sql", arg(run_folder), query, "--format", "csv"]);
    said.lines().nth(1).unwrap().parse().unwrap()
}

#[test]
fn one_two_and_sixteen_threads_write_the_same_shards() {
    let digests = ["1", "2", "16"].map(|threads| {
        let folder = tempfile::tempdir().unwrap();
        digest(&made(folder.path(), "files", threads), "files") + &digest(&folder.path().join("mill"), "shards")
    });
    assert!(digests[0] == digests[1] && digests[1] == digests[2], "{digests:?}");
}

#[test]
fn every_token_leads_to_its_document_and_every_document_to_its_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = made(folder.path(), "shards", "2");
    let shards = dataset(&run_folder, "shards");
    let tokenizer = pipeline::stage::tokenize::load_tokenizer(&shards.path).unwrap();
    // Text by id, over both inputs: what the tokens of a document must spell.
    let mut texts = std::collections::BTreeMap::new();
    for stage in ["lang", "mixture"] {
        let input = dataset(&run_folder, stage);
        texts.extend(input.strings("id").unwrap().into_iter().zip(input.strings("text").unwrap()));
    }
    let table = open::Documents::open(&shards).unwrap();
    let mut seen = 0;
    for split in ["train", "holdout"] {
        let set = open::shards(&shards, split).unwrap();
        let mut spelled = Vec::new();
        for piece in set.documents(0..set.n_tokens()) {
            let row = table.rows(&[set.row(piece.shard, piece.document)], &["id", "split"]).unwrap();
            let id = pipeline::dataset::string_column(&row, "id").unwrap().value(0).to_string();
            assert_eq!(pipeline::dataset::string_column(&row, "split").unwrap().value(0), split);
            let ids = set.shards()[piece.shard].tokens(piece.tokens.clone()).unwrap();
            assert_eq!(tokenizer.decode(&ids[..ids.len() - 1]), texts[&id]);
            assert_eq!(ids.last(), Some(&tokenizer.eot_id()));
            assert!(set.find(tokenizer::shard::key_of(&id)).unwrap().contains(&piece));
            spelled.extend(ids);
            seen += 1;
        }
        let mut all = Vec::new();
        set.tokens_into(0..set.n_tokens(), &mut all).unwrap();
        assert!(all == spelled && !all.is_empty());
    }
    assert_eq!(seen, count(&run_folder, "SELECT count(*) FROM shards"));
    // The table knows where each came from: the record, the language, the source in the mixture and its other copies.
    let known = count(
        &run_folder,
        "SELECT count(*) FROM shards s JOIN crawl c ON c.id = coalesce(s.parent_id, s.id) \
         WHERE c.source['offset'] = s.source['offset'] AND c.source['file'] = s.source['file'] AND c.url = s.url \
         AND s.language IS NOT NULL AND s.language_score > 0 AND (s.mix_source = s.language OR s.stage = 'lang')",
    );
    assert_eq!(known, seen);
    assert!(count(&run_folder, "SELECT count(*) FROM shards WHERE stage = 'mixture' AND parent_id IS NOT NULL") > 0);
}

#[test]
fn killed_before_any_operation_of_the_shards_and_run_again_they_have_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = made(folder.path(), "files", "1");
    let expected = stdout(&["verify", arg(&run_folder)]);
    let path = mill(folder.path());
    let arguments = ["run", arg(&path), "--root", arg(folder.path()), "--only", "files", "--threads", "1"];
    for point in ["write", "fsync", "rename", "commit"] {
        let (mut ordinal, mut kills) = (1, 0);
        loop {
            stdout(&["rm", arg(&run_folder), "shards"]);
            let said = gristmill(&arguments).env("GRISTMILL_FAIL", format!("{point}:{ordinal}")).output().unwrap();
            match said.status.signal() {
                Some(signal) => assert_eq!(signal, 9),
                None => break assert!(said.status.success(), "{}", text(&said.stderr)),
            }
            kills += 1;
            let said = run(&arguments);
            assert!(said.status.success(), "{}", text(&said.stderr));
            assert_eq!(stdout(&["verify", arg(&run_folder)]), expected, "{point} {ordinal}");
            ordinal += crate::kills::stride();
        }
        assert!(kills > 0, "{point} was reached {kills} times");
    }
}

#[test]
fn flipped_short_and_swapped_shards_stop_a_training_before_its_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = made(folder.path(), "shards", "2");
    let shards = dataset(&run_folder, "shards");
    let path = mill(folder.path());
    let refused = |name: &str, change: &dyn Fn(&mut Vec<u8>), part: &str| {
        let file = shards.path.join(name);
        let good = std::fs::read(&file).unwrap();
        let mut bytes = good.clone();
        change(&mut bytes);
        assert_ne!(bytes, good);
        std::fs::write(&file, &bytes).unwrap();
        let said = fails_with(&["run", arg(&path), "--root", arg(folder.path()), "--only", "base"], 6);
        assert!(said.contains(name) && said.contains(part) && said.contains("hint: `gristmill verify"), "{said}");
        std::fs::write(&file, good).unwrap();
    };
    refused("train-00000.bin", &|b| b[101] ^= 1, "CRC32C");
    refused("train-00000.bin", &|b| b.rotate_left(2), "CRC32C");
    refused("train-00000.idx", &|b| b[40] ^= 1, "CRC32C");
    refused("shards.json", &|b| b.swap(40, 41), "blake3");
    // A short file shows before anything is read: the run makes the shards again, with the same bytes.
    let (short, whole) = (shards.path.join("train-00001.bin"), digest(&run_folder, "shards"));
    let bytes = std::fs::read(&short).unwrap();
    std::fs::write(&short, &bytes[..bytes.len() - 2]).unwrap();
    let said = run(&["run", arg(&path), "--root", arg(folder.path()), "--only", "base"]);
    assert!(said.status.success() && text(&said.stderr).contains("2 stages run"), "{}", text(&said.stderr));
    assert_eq!(digest(&run_folder, "shards"), whole);
    // A model is not measured on tokens of another tokenizer.
    let said = fails_with(&["run", arg(&path), "--root", arg(folder.path()), "--only", "scores"], 3);
    assert!(said.contains("`strange`") && said.contains("of 300 ids") && said.contains("hint: tokenize"), "{said}");
}

#[test]
fn the_export_holds_the_tokens_for_other_programs() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = made(folder.path(), "files", "2");
    let (shards, files) = (dataset(&run_folder, "shards"), dataset(&run_folder, "files").path);
    for (split, word) in [("train", "train"), ("holdout", "val")] {
        let set = open::shards(&shards, split).unwrap();
        let mut tokens = Vec::new();
        set.tokens_into(0..set.n_tokens(), &mut tokens).unwrap();
        let bytes = std::fs::read(files.join(format!("llmc/{word}_000000.bin"))).unwrap();
        let field = |i: usize| i32::from_le_bytes(bytes[i * 4..i * 4 + 4].try_into().unwrap());
        assert_eq!((field(0), field(1), field(2) as usize), (20_240_520, 1, tokens.len()));
        let stored: Vec<u32> =
            bytes[1024..].as_chunks::<2>().0.iter().map(|&id| u32::from(u16::from_le_bytes(id))).collect();
        assert!(stored == tokens);
    }
    let said = stdout(&["--json", "status", arg(&run_folder)]);
    assert!(said.contains("files"), "{said}");
    let nothing = manifest(folder.path(), "name = \"none\"\n[stage]\nfiles = { kind = \"export\" }\n");
    let said = fails_with(&["check", arg(&nothing)], 2);
    assert!(said.contains("names nothing to export") && said.contains("hint: add  model = "), "{said}");
}
