//! Tests of the generators: hold-out, headroom, determinism, spans, lengths.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::verify::{Status, verify};

fn crawl() -> Vec<(String, String)> {
    (0..40)
        .map(|d| {
            let lines: Vec<_> = (0..50)
                .map(|i| {
                    format!(
                        "The option number {d} is not set. It takes {i} steps in part {}.",
                        "abcdefgh".repeat(1 + d % 2)
                    )
                })
                .map(|line| line.replace(&format!("number {d} is"), "is also"))
                .map(|line| format!("{line} See item {} of page x{d}.", 7 * d))
                .collect();
            (format!("{d:032x}"), lines.join("\n"))
        })
        .collect()
}

fn made(config: &TasksConfig, seed: u64) -> Vec<TaskRow> {
    let crawl = crawl();
    let documents: Vec<_> = crawl.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
    generate(config, seed, &documents).unwrap()
}

fn small() -> TasksConfig {
    TasksConfig { n_pretrain: 800, n_sft: 800, n_train: 400, n_test: 1_000, ..TasksConfig::default() }
}

/// What a prompt asks about, read back from its text.
fn subject(row: &TaskRow) -> String {
    match row.task {
        TaskKind::LargerNumber => {
            let mut numbers: Vec<u32> = row.prompt.split(' ').filter_map(|w| w.parse().ok()).collect();
            numbers.sort_unstable();
            format!("{numbers:?}")
        }
        _ => row.prompt.split_once(": ").unwrap().1.to_owned(),
    }
}

#[test]
fn nothing_held_out_appears_in_another_split_for_any_seed() {
    for seed in 0..20 {
        let rows = made(&small(), seed);
        let of = |test: bool| {
            rows.iter()
                .filter(|r| (r.split == Split::Test) == test)
                .map(|r| (r.task, subject(r)))
                .collect::<BTreeSet<_>>()
        };
        assert!(of(true).is_disjoint(&of(false)), "seed {seed}");
        let mut prompts = BTreeSet::new();
        for row in rows.iter().filter(|r| r.split == Split::Test) {
            assert!(prompts.insert(&row.prompt), "{} is tested twice", row.prompt);
        }
        assert_eq!(prompts.len(), 1_000);
    }
}

#[test]
fn every_answer_is_right_and_spans_point_at_it() {
    let crawl: BTreeMap<_, _> = crawl().into_iter().collect();
    for row in made(&small(), 17) {
        let good = if row.task == TaskKind::Tag { tag::wrap(&row.answer) } else { format!(" {}", row.answer) };
        assert_eq!(verify(&row.verifier, &good, &row.answer).unwrap().status, Status::Pass);
        let words: Vec<_> = row.prompt.split(' ').collect();
        match row.task {
            TaskKind::KthWord => assert_eq!(words[2 + words[1].parse::<usize>().unwrap()], row.answer),
            TaskKind::Tag => assert_eq!(words[if words[2] == "last" { 6 } else { 4 }], row.answer),
            TaskKind::LargerNumber => {
                let n = |i: usize| words[i].parse::<u32>().unwrap();
                assert_eq!(n(2).max(n(4)).to_string(), row.answer);
            }
            TaskKind::SentenceNumber => {
                let (start, end) = row.span.unwrap();
                let text = &crawl[row.parent_id.as_ref().unwrap()];
                assert_eq!(&text[start as usize..end as usize], row.answer);
                assert!(text.contains(row.prompt.strip_prefix("Number in: ").unwrap()));
            }
        }
        assert_eq!(row.parent_id.is_some(), row.task == TaskKind::SentenceNumber);
        assert_eq!(row.completion.is_some(), row.split.demonstrates());
    }
}

#[test]
fn demonstrations_are_right_as_often_as_the_shares_say() {
    let config = TasksConfig { n_sft: 8_000, distractor_share: 0.3, format_miss_share: 0.2, ..small() };
    let mut right: BTreeMap<TaskKind, (f64, f64)> = BTreeMap::new();
    for row in made(&config, 3).iter().filter(|r| r.split == Split::Sft) {
        let status = verify(&row.verifier, row.completion.as_ref().unwrap(), &row.answer).unwrap().status;
        let (passed, all) = right.entry(row.task).or_default();
        *passed += f64::from(u8::from(status == Status::Pass));
        *all += 1.0;
    }
    for (task, (passed, all)) in right {
        let expected = if task == TaskKind::Tag { 0.7 * 0.8 } else { 0.7 };
        assert!((passed / all - expected).abs() < 0.05, "{task:?}: {passed} of {all}");
    }
    let clean = TasksConfig { distractor_share: 0.0, format_miss_share: 0.0, ..small() };
    for row in made(&clean, 3).iter().filter(|r| r.split.demonstrates()) {
        let status = verify(&row.verifier, row.completion.as_ref().unwrap(), &row.answer).unwrap().status;
        assert_eq!(status, Status::Pass, "{row:?}");
    }
}

#[test]
fn rows_depend_on_the_seed_only_and_not_on_other_splits_or_the_order_of_documents() {
    let rows = made(&small(), 5);
    assert_eq!(rows, made(&small(), 5));
    assert_ne!(rows, made(&small(), 6));
    let crawl = crawl();
    let mut documents: Vec<_> = crawl.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
    documents.reverse();
    assert_eq!(rows, generate(&small(), 5, &documents).unwrap());
    let prompts =
        |rows: &[TaskRow]| rows.iter().filter(|r| r.split == Split::Test).map(|r| r.prompt.clone()).collect::<Vec<_>>();
    assert_eq!(prompts(&rows), prompts(&made(&TasksConfig { n_pretrain: 10, n_sft: 0, ..small() }, 5)));
    let ids: BTreeSet<_> = rows.iter().map(|r| &r.id).collect();
    assert!(ids.len() == rows.len() && ids.iter().all(|id| id.len() == 32));
}

#[test]
fn scarce_sentences_leave_their_place_to_the_other_tasks() {
    let documents =
        [("d", "It takes 3 more steps. It takes 4 more steps. It takes 5 more steps. It takes 6 more steps.")];
    let rows = generate(&small(), 1, &documents).unwrap();
    assert_eq!(rows.len(), 3_000);
    let sentences = |split| rows.iter().filter(|r| r.split == split && r.task == TaskKind::SentenceNumber).count();
    assert!(sentences(Split::Train) + sentences(Split::Test) == 4 && sentences(Split::Sft) <= 16);
}

#[test]
fn prompts_stay_short_and_bad_configs_are_refused() {
    let longest = made(&small(), 2).iter().map(|r| estimated_tokens(&r.prompt)).max().unwrap();
    assert!(longest <= 24, "{longest}");
    let fails = |config: TasksConfig| generate(&config, 1, &[]).unwrap_err();
    assert!(matches!(fails(small()), TasksError::NoSentences { documents: 0 }));
    let numbers = TasksConfig { tasks: vec![TaskKind::LargerNumber], ..small() };
    assert!(matches!(fails(TasksConfig { n_test: 50_000, ..numbers.clone() }), TasksError::TooFew { .. }));
    assert!(generate(&numbers, 1, &[]).is_ok());
    for config in [
        TasksConfig { tasks: vec![], ..small() },
        TasksConfig { distractor_share: 1.5, ..small() },
        TasksConfig { format_miss_share: f64::NAN, ..small() },
        TasksConfig { n_words: 3, ..small() },
        TasksConfig { max_prompt_tokens: 4, ..small() },
    ] {
        assert!(matches!(fails(config), TasksError::Config { .. }));
    }
}
