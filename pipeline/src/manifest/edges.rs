//! What stages read of each other: names that exist, outputs of the right sort, and an order without circles.

use super::Stage;
use super::faults::{Fault, Faults};
use super::kinds::Output;
use super::read::Raw;
use crate::retain::{RETAIN, Retain};
use std::collections::BTreeSet;

/// Gives the stages that read what is not there or of the wrong kind.
pub(super) fn check_edges(raws: &[Raw], stages: &[Stage], faults: &mut Faults) -> BTreeSet<String> {
    let mut wrong = BTreeSet::new();
    let names: Vec<String> = raws.iter().map(|r| r.name.clone()).collect();
    for stage in stages {
        let raw = raws.iter().find(|r| r.name == stage.name).expect("stages come from raws");
        let info = stage.info();
        if stage.retain == Retain::Verdicts && !stages.iter().any(|s| s.needs().any(|n| *n == stage.name)) {
            faults.push(Fault {
                line: raw.line_of(RETAIN),
                message: format!(
                    "no stage reads `{}`, so nothing would be left to be had of its documents",
                    stage.name
                ),
                hint: Some(format!("take `{RETAIN}` away, or name the stage as an input of another one")),
            });
        }
        let wanted =
            |reference: &str| info.references.iter().find(|r| r.key == reference).map_or(info.reads, |r| r.makes);
        let inputs = stage.inputs.iter().map(|n| ("inputs", n, info.reads));
        let references = stage.references.iter().flat_map(|(key, ns)| ns.iter().map(move |n| (key.as_str(), n)));
        for (key, name, expected) in inputs.chain(references.map(|(k, n)| (k, n, wanted(k)))) {
            let line = if raw.lines.contains_key(key) { raw.line_of(key) } else { raw.line_of("input") };
            if !names.contains(name) {
                wrong.insert(stage.name.clone());
                faults.unknown_on_line(
                    line,
                    &format!("stage `{}` reads `{name}`, which is no stage", stage.name),
                    name,
                    &names,
                );
            } else if let Some(source) = stages.iter().find(|s| s.name == *name) {
                let makes = source.info().makes;
                if makes != expected {
                    wrong.insert(stage.name.clone());
                    faults.push(Fault {
                        line,
                        message: format!(
                            "stage `{}` needs a {} from `{name}`, which (kind {}) makes a {}",
                            stage.name,
                            word(expected),
                            source.kind,
                            word(makes)
                        ),
                        hint: None,
                    });
                }
            }
        }
    }
    wrong
}

fn word(output: Output) -> String {
    format!("{output:?}").to_lowercase()
}

/// Orders stages so that each comes after those it needs, keeping the written order where it is free.
pub(super) fn order(stages: Vec<Stage>, faults: &mut Faults) -> Vec<Stage> {
    // Names that are no stage are faults of their own.
    let known: BTreeSet<String> = stages.iter().map(|s| s.name.clone()).collect();
    let mut left = stages;
    let mut done: Vec<Stage> = Vec::new();
    while !left.is_empty() {
        let ready =
            left.iter().position(|s| s.needs().all(|n| !known.contains(n) || done.iter().any(|d| d.name == *n)));
        match ready {
            Some(i) => done.push(left.remove(i)),
            None => {
                faults.push(cycle(&left));
                break;
            }
        }
    }
    done
}

fn cycle(left: &[Stage]) -> Fault {
    let mut path: Vec<&Stage> = vec![&left[0]];
    loop {
        let last = path[path.len() - 1];
        let next = last
            .needs()
            .find_map(|n| left.iter().find(|s| s.name == *n))
            .expect("a stage that never gets ready needs one that does not either");
        if let Some(start) = path.iter().position(|s| s.name == next.name) {
            let mut names: Vec<&str> = path[start..].iter().map(|s| s.name.as_str()).collect();
            names.push(&next.name);
            let line = path[start].line;
            return Fault {
                line,
                message: format!("the stages go in a circle: {}", names.join(" reads ")),
                hint: Some("take one of these inputs away".into()),
            };
        }
        path.push(next);
    }
}
