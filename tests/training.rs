//! What a manifest can say about the way a model is trained: schedules, what is watched and measured, means of weights.

use crate::family::{digests_of, stages};
use crate::support::{arg, fails_with, manifest, root, run, stdout, text};
use std::path::Path;

/// Rows of a query as lines of CSV, without the header.
fn rows(run: &Path, query: &str) -> Vec<String> {
    stdout(&["sql", arg(run), query, "--format", "csv"]).lines().skip(1).map(String::from).collect()
}

/// The micro crawl up to a model, with a `budget` in place of the usual one.
fn with_budget(budget: u64, base: &str) -> String {
    stages(base).replace("budget_tokens = 1024", &format!("budget_tokens = {budget}"))
}

#[test]
fn batch_rows_rates_and_means_follow_their_options_and_a_kill_changes_no_bit() {
    let base = "warmup_steps = 2, final_weight_decay_share = 0.0, batch_doublings = 1, batch_warmup_share = 0.5, \
                sequence_doublings = 1, sequence_warmup_share = 0.5, micro_batch_tokens = 64, noise_scale = true, ema_decay = 0.5";
    let with = |base: &str| {
        let more = "mean = { kind = \"export\", model = \"base\", weights = \"ema\" }\n\
                    last = { kind = \"export\", model = \"base\" }\n\
                    scores = { kind = \"eval\", models = [\"base\"], shards = \"shards\", weights = \"ema\" }\n";
        let text =
            with_budget(2048, base).replace("tokenizer = \"bpe\" }", "tokenizer = \"bpe\", holdout_share = 0.2 }");
        format!("{}{more}", text.replace("micro_batch_tokens = 128, ", ""))
    };
    let whole = tempfile::tempdir().unwrap();
    let expected = digests_of(whole.path(), &with(base), None);
    let killed = tempfile::tempdir().unwrap();
    assert_eq!(digests_of(killed.path(), &with(base), Some("commit:24")), expected);
    let folder = whole.path().join("family");
    // Eight windows at two a step, then six steps of four: 128 and 256 tokens.
    let steps = rows(&folder, "SELECT step, count(*) AS windows FROM base_trace GROUP BY step ORDER BY step");
    let of = |n: usize, windows: usize| (n, format!("{n},{windows}"));
    let wanted: Vec<String> =
        [of(1, 2), of(2, 2), of(3, 2), of(4, 2), of(5, 2), of(6, 2), of(7, 2), of(8, 2)].map(|(_, line)| line).to_vec();
    assert_eq!(steps[..8], wanted, "{steps:?}");
    assert_eq!(steps[8..], [of(9, 4), of(10, 4), of(11, 4), of(12, 4)].map(|(_, line)| line), "{steps:?}");
    let rates = rows(&folder, "SELECT round(learning_rate, 6) FROM base_metrics ORDER BY step LIMIT 3");
    assert_eq!(rates[..2], ["0.0015", "0.003"]);
    assert_eq!(rows(&folder, "SELECT count(noise_scale) > 0 FROM base_metrics"), ["true"]);
    let weights = |stage: &str| std::fs::read(folder.join(stage).join("model.safetensors")).unwrap();
    assert_ne!(weights("mean"), weights("last"));
    let kept = folder.join("base/step-000012/ema.safetensors");
    assert_eq!(std::fs::read(kept).unwrap().len(), weights("mean").len());
}

#[test]
fn a_step_that_diverges_is_not_taken_and_its_documents_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let base = "learning_rate = 1e30, warmup_share = 0.0, weight_decay = 0.0";
    let text_of = |more: &str| {
        with_budget(2048, &format!("{base}{more}")).replace("checkpoint_every = 1,", "checkpoint_every = 100,")
    };
    let path = manifest(folder.path(), &text_of(""));
    let said = fails_with(&["run", arg(&path), "--root", arg(folder.path())], 1);
    assert!(said.contains("stage `base`: loss of step 2 is NaN") || said.contains("gradient norm of step"), "{said}");
    assert!(said.matches(" (http://").count() >= 2, "{said}");
    assert!(said.contains("hint: lower learning_rate"), "{said}");
    // The state before it was saved, so running again begins right there.
    let again = fails_with(&["run", arg(&path), "--root", arg(folder.path())], 1);
    let fault = |said: &str| said.lines().find(|l| l.starts_with("error")).unwrap().to_string();
    assert_eq!(fault(&again), fault(&said));
    let store = std::fs::read_dir(folder.path().join("family/.store")).unwrap();
    let saved = store.filter(|e| e.as_ref().unwrap().path().join("checkpoints/step-000001/state.json").exists());
    assert_eq!(saved.count(), 1);
}

#[test]
fn a_loss_that_jumps_stops_the_run_and_another_limit_goes_on_from_there() {
    let folder = tempfile::tempdir().unwrap();
    // Without warm-up a rate far too large makes the loss climb within a few steps.
    let base = "learning_rate = 0.3, warmup_steps = 9, spike_window = 8";
    let path = manifest(folder.path(), &with_budget(6400, base));
    let call = |sets: &[&str]| {
        let mut call = vec!["run", arg(&path), "--root", arg(folder.path())];
        sets.iter().for_each(|set| call.extend(["--set", set]));
        run(&call)
    };
    let stopped = call(&["base.spike_sigmas=1.0"]);
    assert_eq!(stopped.status.code(), Some(1), "{}", text(&stopped.stderr));
    assert!(text(&stopped.stderr).contains("deviations above the mean of 8 steps"), "{}", text(&stopped.stderr));
    let went_on = call(&["base.spike_sigmas=0"]);
    assert!(went_on.status.success(), "{}", text(&went_on.stderr));
    let whole = tempfile::tempdir().unwrap();
    assert_eq!(
        stdout(&["verify", arg(&folder.path().join("family"))]),
        digests_of(whole.path(), &with_budget(6400, base), None)
    );
}

#[test]
fn schedules_and_means_that_cannot_be_are_told_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let export = "out = { kind = \"export\", model = \"base\", weights = \"ema\" }\n";
    for (base, more, wanted) in [
        ("warmup_steps = 2, warmup_tokens = 9", "", "warmup_steps"),
        ("batch_doublings = 3", "", "batch_doublings"),
        ("sequence_doublings = 11", "", "sequence_doublings"),
        ("final_weight_decay_share = 2.0", "", "final_weight_decay_share"),
        ("spike_window = 1", "", "spike_window"),
        ("ema_decay = 1.0", "", "ema_decay"),
        ("noise_scale = true, batch_tokens = 128", "", "noise_scale"),
        ("tied = true", export, "keeps no running mean"),
    ] {
        let text = stages(base);
        let text =
            if base.contains("batch_tokens") { text.replace("batch_tokens = 256, micro", "micro") } else { text };
        let path = manifest(folder.path(), &format!("{text}{more}"));
        let said = fails_with(&["check", arg(&path)], 2);
        assert!(said.contains(wanted) && said.contains("-->"), "{base}: {said}");
    }
}

/// A stage of the micro crawl that goes on from a folder.
fn going_on(from: &Path, more: &str) -> String {
    let text = with_budget(1024, &format!("from = \"{}\"{more}", from.display()));
    text.replace("n_layer = 2, n_embd = 32, n_head = 2, n_kv_head = 1, ", "")
}

#[test]
fn training_goes_on_from_a_hugging_face_folder() {
    let first = tempfile::tempdir().unwrap();
    let export = "model = { kind = \"export\", model = \"base\" }\n";
    digests_of(first.path(), &format!("{}{export}", stages("qk_norm = \"head\"")), None);
    let model = first.path().join("family/model");
    // A rate so small that no weight moves: what comes out is what went in.
    let still = ", learning_rate = 1e-30, weight_decay = 0.0, sequence_len = 32, dropout = 0.1";
    let second = tempfile::tempdir().unwrap();
    let text = going_on(&model, still).replace("sequence_len = 64, ", "");
    let expected = digests_of(second.path(), &format!("{text}{export}"), None);
    let same = second.path().join("family/model");
    for file in ["model.safetensors", "config.json", "tokenizer.json"] {
        assert_eq!(std::fs::read(same.join(file)).unwrap(), std::fs::read(model.join(file)).unwrap(), "{file}");
    }
    // And it is where the first one ended: better than its start.
    let loss = |run: &Path, order: &str| -> f64 {
        rows(&run.join("family"), &format!("SELECT loss FROM base_metrics ORDER BY step {order} LIMIT 1"))[0]
            .parse()
            .unwrap()
    };
    assert!(loss(second.path(), "ASC") < loss(first.path(), "ASC"));
    let killed = tempfile::tempdir().unwrap();
    assert_eq!(digests_of(killed.path(), &format!("{text}{export}"), Some("commit:22")), expected);
}

#[test]
fn a_folder_that_does_not_fit_is_told_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let run = ["run", "PATH", "--root", arg(folder.path())];
    let fails = |text: &str, command: &str, code: i32| {
        let path = manifest(folder.path(), text);
        let call: Vec<&str> = run.iter().map(|word| if *word == "PATH" { arg(&path) } else { word }).collect();
        if command == "check" { fails_with(&["check", arg(&path)], code) } else { fails_with(&call, code) }
    };
    let model = folder.path().join("model");
    let said = fails(&going_on(&model, ""), "check", 2);
    assert!(said.contains("`from`: cannot read"), "{said}");

    // Made by transformers (tests/parity/make_family.py), with 43 ids.
    let golden = root().join("tests/parity/goldens/family");
    let facts: serde_json::Value = serde_json::from_slice(&std::fs::read(golden.join("llama3.json")).unwrap()).unwrap();
    let bytes = std::fs::read(golden.join("llama3.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let weights = tensors.iter().filter_map(|(name, view)| Some((name.strip_prefix("weight.")?.to_string(), view)));
    std::fs::create_dir(&model).unwrap();
    std::fs::write(model.join("config.json"), facts["config"].to_string()).unwrap();
    std::fs::write(model.join("model.safetensors"), safetensors::serialize(weights, None).unwrap()).unwrap();
    let short = |more: &str| going_on(&model, more).replace("sequence_len = 64", "sequence_len = 32");
    let said = fails(&short(""), "check", 2);
    assert!(said.contains("there is no file") && said.contains("tokenizer.json"), "{said}");

    let other = tempfile::tempdir().unwrap();
    let tokenizer = manifest(other.path(), &stages("tied = true").replace("vocab_size = 400", "vocab_size = 300"));
    stdout(&["run", arg(&tokenizer), "--root", arg(other.path()), "--only", "bpe"]);
    std::fs::copy(other.path().join("family/bpe/tokenizer.json"), model.join("tokenizer.json")).unwrap();
    let said = fails(&short(", n_embd = 16, norm = \"layer\", dropout = 0.1"), "check", 2);
    assert!(said.contains("`n_embd`") && said.contains("`norm`") && !said.contains("`dropout`"), "{said}");
    let said = fails(&going_on(&model, ""), "check", 2);
    assert!(said.contains("expected at most 32"), "{said}");
    let said = fails(&short(""), "run", 3);
    assert!(said.contains("it has 300 ids, that of the shards 400") && said.contains("file = "), "{said}");
    std::fs::copy(folder.path().join("family/bpe/tokenizer.json"), model.join("tokenizer.json")).unwrap();
    let said = fails(&short(""), "run", 3);
    assert!(said.contains("rows for 43 ids, its tokenizer has 400"), "{said}");
}

#[test]
fn the_plan_shows_what_depth_comes_to() {
    let folder = tempfile::tempdir().unwrap();
    let text = stages("depth = 3, n_ffn = 512").replace("n_layer = 2, n_embd = 32, n_head = 2, n_kv_head = 1, ", "");
    let path = manifest(folder.path(), &text);
    let shown = stdout(&["plan", arg(&path), "--root", arg(folder.path())]);
    // Per layer: queries and output 192 x 192, keys and values 192 x 192 (three heads are odd), three matrices 192 x 512, two norms.
    let parameters = 400 * 192 + 3 * (4 * 192 * 192 + 3 * 192 * 512 + 2 * 192) + 192;
    let model = format!(
        "base: 3 layers of width 192, 3 heads (3 of keys and values), feed-forward 512, 400 ids, {parameters} parameters"
    );
    assert!(shown.contains(&model), "{shown}");
    let flops = 1024.0 * (6.0 * f64::from(parameters) + 12.0 * 3.0 * 192.0 * 64.0);
    let run = format!("base: 4 steps, 1024 tokens, 0.0 per parameter, {flops:.2e} floating-point operations");
    assert!(shown.contains(&run), "{shown}");
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&["plan", arg(&path), "--root", arg(folder.path()), "--json"])).unwrap();
    let base = json["stages"].as_array().unwrap().iter().find(|s| s["name"] == "base").unwrap();
    assert_eq!(base["model"]["parameters"], parameters);
}

#[test]
fn data_and_pipeline_parallel_training_is_equal_in_every_bit_and_tensor_parallel_within_its_bound() {
    let folder = tempfile::tempdir().unwrap();
    let path = manifest(folder.path(), &stages("optimizer = \"muon\", dropout = 0.1, qk_norm = \"head\""));
    let shown = stdout(&["verify-parallel", arg(&path)]);
    assert_eq!((shown.lines().count(), shown.matches("all equal").count()), (12, 12), "{shown}");
    // Whole: two losses, and gradients in two steps and parameters of each tensor, on each rank.
    let tensors = 1 + 2 * 11 + 1;
    for dp in 2..=4 {
        let line = format!("base         dp{dp}          zero 0  f32  {} compared, all equal", dp * (2 + 3 * tensors));
        assert!(shown.contains(&line), "{line}: {shown}");
        let spread = format!(
            "base         dp{dp}          zero 1  f32  {} compared, all equal",
            dp * (2 + tensors) + 2 * tensors
        );
        assert!(shown.contains(&spread), "{spread}: {shown}");
    }
    let said = fails_with(&["verify-parallel", arg(&path), "--mesh", "dp2 cp2"], 2);
    assert!(said.contains("other axes are not there yet"), "{said}");
    let heads = stages("dropout = 0.1").replace("n_head = 2, n_kv_head = 1", "n_head = 4, n_kv_head = 2");
    let path = manifest(folder.path(), &heads);
    let shown = stdout(&["verify-parallel", arg(&path), "--mesh", "pp2", "--mesh", "tp2", "--mesh", "dp2 tp2 pp2"]);
    assert_eq!((shown.lines().count(), shown.matches("all equal").count()), (5, 1), "{shown}");
    assert_eq!(shown.matches("1e-12 allowed").count(), 2, "{shown}");
}
