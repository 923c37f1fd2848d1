//! Charts as SVG text: no script, no font, no network.

use serde_json::Value;
use std::fmt::Write;

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A line chart of (x, y) with its range written beside it.
pub fn line(points: &[(f64, f64)]) -> String {
    let (width, height, left, bottom) = (420.0, 150.0, 54.0, 18.0);
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)))
    };
    let (x0, x1) = range(&mut points.iter().map(|p| p.0));
    let (y0, y1) = range(&mut points.iter().map(|p| p.1));
    let (dx, dy) = ((x1 - x0).max(1e-12), (y1 - y0).max(1e-12));
    let at = |p: &(f64, f64)| {
        (left + (p.0 - x0) / dx * (width - left - 8.0), 8.0 + (1.0 - (p.1 - y0) / dy) * (height - bottom - 16.0))
    };
    let step = points.len().div_ceil(400);
    let mut path = String::new();
    for (i, p) in points.iter().step_by(step).chain(points.last()).enumerate() {
        let (x, y) = at(p);
        let _ = write!(path, "{}{x:.1},{y:.1}", if i == 0 { "M" } else { "L" });
    }
    let base = height - bottom;
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\"><line class=\"axis\" x1=\"{left}\" y1=\"4\" x2=\"{left}\" y2=\"{base}\"/>\
         <line class=\"axis\" x1=\"{left}\" y1=\"{base}\" x2=\"{width}\" y2=\"{base}\"/><path class=\"curve\" d=\"{path}\"/>\
         <text x=\"{a}\" y=\"14\" text-anchor=\"end\">{y1:.3}</text><text x=\"{a}\" y=\"{base}\" text-anchor=\"end\">{y0:.3}</text>\
         <text x=\"{left}\" y=\"{height}\">{x0}</text><text x=\"{width}\" y=\"{height}\" text-anchor=\"end\">{x1} steps</text></svg>",
        a = left - 4.0
    )
}

/// Horizontal bars with labels and numbers.
pub fn bars(rows: &[(String, f64)]) -> String {
    let largest = rows.iter().map(|r| r.1).fold(1.0, f64::max);
    let height = rows.len() * 20 + 4;
    let mut out = format!("<svg viewBox=\"0 0 420 {height}\" role=\"img\">");
    for (i, (label, n)) in rows.iter().enumerate() {
        let (y, w) = (i * 20 + 2, n / largest * 220.0);
        let _ = write!(
            out,
            "<text x=\"128\" y=\"{t}\" text-anchor=\"end\">{}</text><rect class=\"bar\" x=\"134\" y=\"{y}\" width=\"{w:.1}\" height=\"15\"/><text x=\"{e:.1}\" y=\"{t}\">{n}</text>",
            escape(&label.chars().take(22).collect::<String>()),
            t = y + 12,
            e = 140.0 + w
        );
    }
    out.push_str("</svg>");
    out
}

/// The stages as boxes in columns by distance from the sources, with their edges.
pub fn graph(stages: &[Value]) -> String {
    let name = |s: &Value| s["name"].as_str().unwrap_or("").to_string();
    let needs = |s: &Value| -> Vec<String> {
        let list = |v: &Value| {
            v.as_array().into_iter().flatten().filter_map(|n| n.as_str().map(String::from)).collect::<Vec<_>>()
        };
        let mut all = list(&s["inputs"]);
        all.extend(s["references"].as_object().into_iter().flat_map(|o| o.values()).flat_map(list));
        all
    };
    let mut level: Vec<usize> = Vec::new();
    for (i, stage) in stages.iter().enumerate() {
        let above = needs(stage)
            .iter()
            .filter_map(|n| stages[..i].iter().position(|s| name(s) == *n))
            .map(|j| level[j] + 1)
            .max();
        level.push(above.unwrap_or(0));
    }
    let mut used = vec![0usize; level.iter().max().map_or(1, |m| m + 1)];
    let mut place = Vec::new();
    for l in &level {
        place.push((12 + used[*l] * 124, 12 + l * 58));
        used[*l] += 1;
    }
    let (width, height) = (used.iter().max().unwrap_or(&1) * 124 + 20, used.len() * 58 + 8);
    let mut out =
        format!("<svg class=\"graph\" viewBox=\"0 0 {width} {height}\" style=\"max-width:{width}px\" role=\"img\">");
    for (i, stage) in stages.iter().enumerate() {
        for j in needs(stage).iter().filter_map(|n| stages[..i].iter().position(|s| name(s) == *n)) {
            let ((x1, y1), (x2, y2)) = (place[j], place[i]);
            let _ = write!(
                out,
                "<path class=\"edge\" d=\"M{},{} C{},{} {},{} {},{}\"/>",
                x1 + 56,
                y1 + 34,
                x1 + 56,
                y1 + 50,
                x2 + 56,
                y2 - 16,
                x2 + 56,
                y2
            );
        }
    }
    for (stage, (x, y)) in stages.iter().zip(&place) {
        let _ = write!(
            out,
            "<rect class=\"node\" x=\"{x}\" y=\"{y}\" width=\"112\" height=\"34\" rx=\"4\"/><text x=\"{c}\" y=\"{a}\" text-anchor=\"middle\">{}</text><text class=\"dim\" x=\"{c}\" y=\"{b}\" text-anchor=\"middle\">{}</text>",
            escape(&name(stage)),
            escape(stage["kind"].as_str().unwrap_or("")),
            c = x + 56,
            a = y + 14,
            b = y + 28
        );
    }
    out.push_str("</svg>");
    out
}
