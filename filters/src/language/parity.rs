//! Seven models that fastText's C++ trained, and what it says about lines in twenty languages and about odd ones.
//!
//! Files: `tests/parity/language/`, made by `tests/parity/language.py` with `fasttext-wheel` 0.9.2 (CC0 sentences of Common Voice).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::LanguageModel;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/language")
}

fn read<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(folder().join(name)).expect("the goldens are in the repository");
    serde_json::from_str(&text).expect("the script wrote JSON")
}

#[test]
fn labels_are_those_of_the_cpp_library_and_scores_within_1e_5_for_every_loss() {
    let lines: Vec<String> = read("lines.json");
    let expected: BTreeMap<String, Vec<(String, f32)>> = read("expected.json");
    assert_eq!(expected.len(), 7);
    for (name, rows) in expected {
        let model = LanguageModel::load(&folder().join(&name)).expect("C++ wrote the model");
        assert_eq!(rows.len(), lines.len());
        for (line, (label, score)) in lines.iter().zip(rows) {
            match model.predict_label(line) {
                None => assert!(line.trim_matches(&[' ', '\t'][..]).is_empty(), "{name}: {line}"),
                Some((found, found_score)) => {
                    assert_eq!(found, label, "{name}: {line}");
                    assert!((found_score - score).abs() < 1e-5, "{name}: {found_score} {score} {line}");
                }
            }
        }
    }
}

#[test]
fn models_cut_anywhere_are_errors_and_models_changed_anywhere_never_panic() {
    let mut draw = 1_u64;
    for name in ["hs.bin", "softmax_pruned.ftz", "ns_labels_quantised.ftz", "ova_words.bin", "hs_pruned.ftz"] {
        let bytes = std::fs::read(folder().join(name)).expect("the goldens are in the repository");
        for length in (0..bytes.len()).step_by(331) {
            assert!(LanguageModel::from_bytes(bytes[..length].to_vec()).is_err(), "{name}: {length} bytes");
        }
        for round in 0..400 {
            let mut changed = bytes.clone();
            for _ in 0..=round % 4 {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Half of the changes go where the sizes are.
                let span = if round % 2 == 0 { 200 } else { bytes.len() };
                let value = [0, 1, 0x7F, 0x80, 0xFF, (draw >> 8) as u8][(draw >> 20) as usize % 6];
                changed[(draw >> 33) as usize % span] = value;
            }
            if let Ok(model) = LanguageModel::from_bytes(changed)
                && let Some(found) = model.predict("eine Zeile mit Wörtern и ещё немного 日本語 __label__de")
            {
                assert!((0.0..=1.0).contains(&found.score), "{name}: {}", found.score);
            }
        }
    }
}
