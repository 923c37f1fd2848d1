//! What a page says about itself: title, language, and where it links to.
//!
//! In: the tree. Out: `og:title` or a fallback, the root's `lang`, and absolute link targets in document order.
//! Which part of the page is content is decided in `score`.

use std::collections::HashSet;

use url::Url;

use super::dom::{Attr, Tree};
use super::score::Content;
use super::tag::Tag;

/// Longer targets are not links anybody follows, in bytes.
const MAX_URL_BYTES: usize = 2048;

/// The declared language, and the best title: `og:title`, first heading of the content, first heading, `<title>`.
pub(super) fn language_and_title(tree: &Tree, content: &Content) -> (Option<String>, Option<String>) {
    let mut lang = None;
    let (mut og, mut heading, mut any_heading, mut title) = (None, None, None, None);
    for at in 0..tree.nodes.len() {
        match tree.nodes[at].tag {
            Tag::Html if lang.is_none() => lang = tree.attr(at, Attr::Lang).and_then(non_empty),
            Tag::Meta if og.is_none() => {
                let property = tree.attr(at, Attr::Property).or_else(|| tree.attr(at, Attr::Name));
                if property.is_some_and(|p| p.eq_ignore_ascii_case("og:title")) {
                    og = tree.attr(at, Attr::Content).and_then(non_empty);
                }
            }
            Tag::Title if title.is_none() => title = non_empty(&subtree_text(tree, at)),
            Tag::H1 if heading.is_none() => {
                let found = non_empty(&subtree_text(tree, at));
                if content.keeps(at) {
                    heading = found.clone();
                }
                any_heading = any_heading.or(found);
            }
            _ => {}
        }
    }
    (lang, og.or(heading).or(any_heading).or(title))
}

/// Text under `at`, white space collapsed.
fn subtree_text(tree: &Tree, at: usize) -> String {
    let mut out = String::new();
    for node in tree.subtree(at) {
        out.push_str(tree.text(node));
    }
    out
}

fn non_empty(text: &str) -> Option<String> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}

/// Absolute http(s) targets without fragments, first occurrence first.
pub(super) fn links(tree: &Tree, base_url: Option<&str>) -> Vec<String> {
    let page = base_url.and_then(|base| Url::parse(base).ok());
    let declared = (0..tree.nodes.len())
        .find(|&at| tree.nodes[at].tag == Tag::Base)
        .and_then(|at| tree.attr(at, Attr::Href))
        .and_then(|href| Url::options().base_url(page.as_ref()).parse(href).ok());
    let base = declared.or(page);
    let mut seen_raw: HashSet<&str> = HashSet::new();
    let mut seen: HashSet<String> = HashSet::new();
    let mut out = Vec::new();
    for at in 0..tree.nodes.len() {
        if tree.nodes[at].tag != Tag::A {
            continue;
        }
        let Some(href) = tree.attr(at, Attr::Href) else { continue };
        let href = href.trim().split('#').next().unwrap_or("");
        if href.is_empty() || href.len() > MAX_URL_BYTES || !seen_raw.insert(href) {
            continue;
        }
        let Ok(url) = Url::options().base_url(base.as_ref()).parse(href) else { continue };
        if matches!(url.scheme(), "http" | "https") {
            let url = String::from(url);
            if seen.insert(url.clone()) {
                out.push(url);
            }
        }
    }
    out
}
