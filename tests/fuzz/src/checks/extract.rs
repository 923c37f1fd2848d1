//! Web pages to text.
//!
//! Any bytes, decoded: the same page twice, text that is not empty and holds no control characters, links that are absolute and each
//! once, dates that are dates, text of at most a fixed multiple of the page. Under a smaller budget of work, nodes or bytes: the same
//! page or a fault whose value is past its threshold, and not far past it.

use super::knobs;
use filters::charset;
use filters::extract::{ExtractConfig, ExtractFault, Format, Page, extract};
use std::collections::BTreeSet;

/// Most bytes of text for one of HTML: a line break inside the deepest list repeats the list's indentation.
const MOST_TEXT: usize = 256;
/// Most units of work for one byte of HTML between two looks at the limit.
const MOST_OVER: u64 = 64;

/// Knobs: flags, nesting, nodes, work (two bytes).
pub fn check(bytes: &[u8]) {
    let ([flags, depth, nodes, low, high], bytes) = knobs(bytes);
    let html = charset::decode(bytes, None).text;
    let format = if flags & 1 == 0 { Format::Text } else { Format::Markdown };
    let base = ["https://a.org/b/c", "http://a.org/2020/01/02/x?y#z", "mailto:a@b", ""][usize::from(flags >> 1 & 3)];
    let base = (!base.is_empty()).then_some(base);
    let config = ExtractConfig { format, ..Default::default() };
    let found = extract(&html, base, &config);
    assert_eq!(found, extract(&html, base, &config));
    match &found {
        Ok(page) => sound(page, &html),
        Err(fault) => assert_eq!(*fault, ExtractFault::NoText),
    }
    let max_work = u64::from(u16::from_le_bytes([low, high]));
    for limited in [
        ExtractConfig { max_work, ..config.clone() },
        ExtractConfig { max_nodes: usize::from(nodes), ..config.clone() },
        ExtractConfig { max_html_bytes: usize::from(high) << 6, ..config.clone() },
    ] {
        match extract(&html, base, &limited) {
            Err(fault) if fault != ExtractFault::NoText => past(&fault, &html),
            other => assert_eq!(other, found, "a smaller budget changes the page"),
        }
    }
    let shallow = ExtractConfig { max_depth: usize::from(depth), ..config };
    if let Ok(page) = extract(&html, base, &shallow) {
        sound(&page, &html);
    }
}

fn past(fault: &ExtractFault, html: &str) {
    assert!(fault.value() > fault.threshold(), "{fault}");
    if let ExtractFault::TooMuchWork { units, limit } = fault {
        assert!(*units <= limit + MOST_OVER * (html.len() as u64 + 64), "{fault} for {} bytes", html.len());
    }
}

fn sound(page: &Page, html: &str) {
    let text = &page.text;
    assert!(!text.is_empty() && text.trim_end().len() == text.len(), "{text:?}");
    assert!(!text.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "{text:?}");
    assert!(text.len() <= MOST_TEXT * html.len(), "{} bytes of text from {}", text.len(), html.len());
    for link in &page.links {
        let rest = link.strip_prefix("https://").or_else(|| link.strip_prefix("http://"));
        assert!(rest.is_some_and(|rest| !rest.is_empty()) && !link.contains('#'), "{link}");
        assert!(!link.contains(|c: char| c.is_control() || c == ' '), "{link:?}");
    }
    assert_eq!(page.links.iter().collect::<BTreeSet<_>>().len(), page.links.len());
    if let Some(date) = &page.date {
        let parts: Vec<u32> = date.split('-').filter_map(|part| part.parse().ok()).collect();
        assert!(matches!(parts[..], [1000..=9999, 1..=12, 1..=31]) && date.len() == 10, "{date}");
    }
    for value in [&page.title, &page.html_lang, &page.author, &page.site_name].into_iter().flatten() {
        assert!(!value.is_empty() && value.trim() == value, "{value:?}");
    }
}
