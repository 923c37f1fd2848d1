//! The page itself: a template filled with what was collected, and charts drawn as inline SVG.

use super::svg;
use crate::error::{Error, Result};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value as Item, context};
use serde_json::{Value, json};
use std::path::Path;

/// Fills the template.
pub fn page(run: &Path, stages: &[Value]) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_filter("number", number);
    environment.add_filter("short", short);
    environment.add_template("report", include_str!("report.html.j2")).map_err(wrong)?;
    let template = environment.get_template("report").map_err(wrong)?;
    let safe = |svg: String| Item::from_safe_string(svg);
    let curves: Vec<Item> = stages.iter().filter(|s| s["metrics"].is_array()).map(|s| context! { name => s["name"].as_str(), charts => charts(s).into_iter().map(|(n, c)| context! { name => n, svg => safe(c) }).collect::<Vec<_>>() }).collect();
    let bars = |key: &str, label: &dyn Fn(&Value) -> String| -> Vec<Item> {
        let with = stages.iter().filter(|s| s[key].as_array().is_some_and(|a| !a.is_empty()));
        with.map(|s| {
            let rows: Vec<(String, f64)> =
                s[key].as_array().into_iter().flatten().map(|r| (label(r), r["n"].as_f64().unwrap_or(0.0))).collect();
            context! { name => s["name"].as_str(), svg => safe(svg::bars(&rows)) }
        })
        .collect()
    };
    let languages = bars("languages", &|r| r["language"].as_str().unwrap_or("none").to_string());
    let lengths = bars("lengths", &|r| format!("{} B and more", number(2f64.powf(r["power"].as_f64().unwrap_or(0.0)))));
    let funnel: Vec<(String, f64)> = stages
        .iter()
        .filter(|s| s["counts"]["in"].is_number() || s["kind"] == "ingest")
        .map(|s| (s["name"].as_str().unwrap_or("").to_string(), s["rows"].as_f64().unwrap_or(0.0)))
        .collect();
    template
        .render(context! {
            run => run.file_name().map(|n| n.to_string_lossy().into_owned()), stages => Item::from(Serde(stages)),
            funnel => safe(svg::bars(&funnel)), graph => safe(svg::graph(stages)), curves, languages, lengths,
            scores => Item::from(Serde(scores(stages))), total_secs => stages.iter().filter_map(|s| s["secs"].as_f64()).sum::<f64>(),
        })
        .map_err(wrong)
}

fn wrong(e: minijinja::Error) -> Error {
    Error::Query(format!("the report's template: {e:#}"))
}

/// `1234567` as `1,234,567`; fractions with four digits.
fn number(value: f64) -> String {
    if value.fract() != 0.0 {
        return format!("{value:.4}");
    }
    let digits = format!("{}", value.abs() as u64);
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    if value < 0.0 { format!("-{out}") } else { out }
}

fn short(text: String) -> String {
    if text.chars().count() <= 160 { text } else { text.chars().take(157).chain("...".chars()).collect() }
}

/// The curves of one model stage worth a look, by metric.
fn charts(stage: &Value) -> Vec<(String, String)> {
    let wanted = ["loss", "reward", "rewards/accuracies", "rewards/margins", "entropy", "grad_norm", "learning_rate"];
    let rows: Vec<&Value> = stage["metrics"].as_array().into_iter().flatten().collect();
    let series = |name: &str| -> Vec<(f64, f64)> {
        rows.iter().filter_map(|r| Some((r["step"].as_f64()?, r[name].as_f64()?))).collect()
    };
    wanted
        .iter()
        .map(|n| (n.to_string(), series(n)))
        .filter(|(_, s)| s.len() > 1)
        .map(|(n, s)| (n, svg::line(&s)))
        .collect()
}

/// The evaluation as a table: one row per task and metric, one column per model.
fn scores(stages: &[Value]) -> Vec<Value> {
    let mut tables = Vec::new();
    for stage in stages.iter().filter(|s| s["scores"].is_array()) {
        let rows: Vec<&Value> = stage["scores"].as_array().into_iter().flatten().collect();
        let mut models: Vec<&str> = Vec::new();
        let mut lines: Vec<(&str, &str)> = Vec::new();
        for row in &rows {
            let (model, line) = (
                row["model"].as_str().unwrap_or(""),
                (row["task"].as_str().unwrap_or(""), row["metric"].as_str().unwrap_or("")),
            );
            if !models.contains(&model) {
                models.push(model);
            }
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let order: Vec<&str> =
            stage["references"]["models"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        models.sort_by_key(|m| order.iter().position(|o| o == m).unwrap_or(usize::MAX));
        let cell = |model: &str, line: &(&str, &str)| {
            let row = rows.iter().find(|r| r["model"] == model && r["task"] == line.0 && r["metric"] == line.1)?;
            let error = row["standard_error"].as_f64().map(|e| format!(" ± {e:.3}")).unwrap_or_default();
            Some(format!("{:.3}{error}", row["value"].as_f64()?))
        };
        let body: Vec<Value> = lines.iter().map(|l| json!({ "task": l.0, "metric": l.1, "cells": models.iter().map(|m| cell(m, l).unwrap_or_default()).collect::<Vec<_>>() })).collect();
        tables.push(json!({ "name": stage["name"], "models": models, "rows": body }));
    }
    tables
}
