//! The manifest chooses what a model is made of and what trains it.

use crate::support::{arg, fails_with, gristmill, manifest, root, stdout, text};
use std::path::Path;

/// The micro crawl up to a small model with these options.
pub fn stages(base: &str) -> String {
    format!(
        "name = \"family\"\nseed = 5\n[stage]\ncrawl = {{ kind = \"ingest\", source = \"{}/tests/fixtures/micro/*.warc.gz\" }}\n\
         page = {{ kind = \"extract\", input = \"crawl\" }}\n\
         bpe = {{ kind = \"tokenizer\", input = \"page\", vocab_size = 400 }}\n\
         shards = {{ kind = \"tokenize\", input = \"page\", tokenizer = \"bpe\" }}\n\
         base = {{ kind = \"pretrain\", input = \"shards\", n_layer = 2, n_embd = 32, n_head = 2, n_kv_head = 1, sequence_len = 64, \
         batch_tokens = 256, micro_batch_tokens = 128, budget_tokens = 1024, checkpoint_every = 1, {base} }}\n",
        root().display()
    )
}

/// Digests of all stages, after a run that may be killed once.
pub fn digests(folder: &Path, base: &str, kill: Option<&str>) -> String {
    digests_of(folder, &stages(base), kill)
}

/// The same for a whole manifest.
pub fn digests_of(folder: &Path, stages: &str, kill: Option<&str>) -> String {
    let path = manifest(folder, stages);
    let call = ["run", arg(&path), "--root", arg(folder)];
    if let Some(point) = kill {
        let said = gristmill(&call).env("GRISTMILL_FAIL", point).output().unwrap();
        assert!(!said.status.success(), "{}", text(&said.stderr));
    }
    stdout(&call);
    stdout(&["verify", arg(&folder.join("family"))])
}

#[test]
fn families_and_optimizers_train_and_a_kill_changes_no_bit_of_them() {
    let chosen = [
        "norm = \"layer\", position = \"learned\", mlp = \"gelu\", attention_bias = \"all\", mlp_bias = true, dropout = 0.1",
        "placement = \"sandwich\", qk_norm = \"head\", optimizer = \"muon\"",
        "layers = \"SL\", window = 16, mlp = \"relu2\", tied = false, optimizer = \"lion\", learning_rate = 1e-4",
        "optimizer = \"adamw\", state_bits = 8",
    ];
    let mut seen = Vec::new();
    for base in chosen {
        let whole = tempfile::tempdir().unwrap();
        let expected = digests(whole.path(), base, None);
        let killed = tempfile::tempdir().unwrap();
        assert_eq!(digests(killed.path(), base, Some("commit:22")), expected, "{base}");
        seen.push(expected.lines().last().unwrap().to_string());
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), chosen.len(), "each gives a model of its own");
}

#[test]
fn what_cannot_be_built_is_told_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    for (base, wanted) in [
        ("norm = \"batch\"", "norm"),
        ("dropout = 1.5", "dropout"),
        ("layers = \"SX\"", "layers"),
        ("optimizer = \"adam\"", "optimizer"),
        ("optimizer = \"lion\", state_bits = 8", "state_bits"),
    ] {
        let path = manifest(folder.path(), &stages(base));
        let said = fails_with(&["check", arg(&path)], 2);
        assert!(said.contains(wanted) && said.contains("-->"), "{base}: {said}");
    }
}
