//! Where a page links to.
//!
//! In: the tree and the address of the page. Out: absolute link targets in document order.
//! Which part of the page is content is decided in `score`.

use std::collections::HashSet;

use url::Url;

use super::dom::{Attr, Tree};
use super::tag::Tag;

/// Longer targets are not links anybody follows, in bytes.
const MAX_URL_BYTES: usize = 2048;

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
