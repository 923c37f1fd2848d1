//! Leftovers inside the content, and paragraphs that stand before it.
//!
//! In: a page with its content found. Out: more nodes to leave out: paragraphs said twice everywhere; on pages of prose
//! also captions, buttons, dates, paragraphs that are nothing but a link, and labels such as "Read also"; and the leading
//! paragraphs that sites put outside the element of the article. What holds the content is decided in `score`.
//! Words and limits were chosen on the even half of the benchmarks' pages (see `tests/peers/extraction.py`).

use std::collections::HashSet;
use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use super::dom::{Attr, Tree};
use super::hints::Hint;
use super::measure::Sums;
use super::score::{Kind, Page};
use super::tag::Tag;

/// From this weight on (750 bytes of prose) what is not prose is taken for an addition to it.
const PROSE_PAGE: f64 = 3000.0;

/// Captions are a small part of the content, as a share and in bytes.
const CAPTION_SHARE: f64 = 0.2;
const CAPTION_BYTES: f64 = 600.0;

/// Nodes around a caption among which what it describes is looked for.
const CAPTION_NODES: usize = 200;

/// Buttons and dates are shorter than this, labels than that, in bytes.
const SMALL_BYTES: f64 = 60.0;
const LABEL_BYTES: f64 = 100.0;

/// A paragraph is a link to something else when this share of it is link, and it says at least so much (bytes).
const LINK_SHARE: f64 = 0.8;
const LINK_BYTES: u32 = 10;

/// A paragraph of at least so many bytes is not said twice on purpose.
const REPEAT_BYTES: u32 = 100;

/// A leading paragraph has at least so many bytes, less than a third of them in links.
const LEAD_BYTES: u32 = 100;

/// Beginnings of lines that lead elsewhere or credit a picture, lower-cased.
const LABELS: &[&str] = &[
    "read more:",
    "read also",
    "also read",
    "read next",
    "see more:",
    "see also:",
    "related:",
    "related article",
    "related stor",
    "related post",
    "related topics",
    "more on this",
    "more from",
    "don't miss",
    "don’t miss",
    "share this",
    "share on",
    "share:",
    "follow us",
    "sign up for our",
    "sign up to our",
    "sign up now",
    "sign up today",
    "subscribe to our",
    "subscribe now",
    "subscribe today",
    "filed under",
    "tagged:",
    "tags:",
    "posted in",
    "categories:",
    "category:",
    "lesen sie auch",
    "lesen sie mehr",
    "mehr zum thema",
    "mehr dazu",
    "mehr über",
    "auch interessant",
    "schon gelesen",
    "lust auf mehr",
    "if you enjoyed",
    "das könnte",
    "schlagwörter",
    "schlagworte",
    "teilen:",
    "lire aussi",
    "à lire aussi",
    "a lire aussi",
    "lee también",
    "leer también",
    "lea también",
    "lea además",
    "vea también",
    "ver también",
    "te puede interesar",
    "leggi anche",
    "leia também",
    "leia mais",
    "lees ook",
    "czytaj także",
    "czytaj też",
    "zobacz także",
    "zobacz też",
    "czytaj więcej",
    "читайте также",
    "baca juga",
    "etiquetas:",
    "continue reading",
    "click here to",
    "photo:",
    "photo by",
    "image credit",
    "foto:",
    "fotos:",
    "bild:",
    "source: getty",
    "image source",
    "getty images",
];

/// Whole lines that a page says of itself, lower-cased, without the punctuation at their end.
const WHOLE_LABELS: &[&str] = &[
    "advertisement",
    "advertisements",
    "advert",
    "sponsored",
    "anzeige",
    "werbung",
    "publicité",
    "publicidad",
    "pubblicità",
    "iklan",
    "reklama",
    "реклама",
    "comments",
    "kommentare",
    "comentarios",
    "commentaires",
    "share",
    "teilen",
    "tweet",
    "read more",
    "weiterlesen",
    "related",
    "caption",
    "back to top",
    "nach oben",
];

/// Leaves out the leftovers under `root`.
pub(super) fn trim(page: &Page<'_>, kind: &Kind, sums: &Sums, root: usize, dropped: &mut [bool]) {
    let direct = page.measures.direct(dropped, kind.listing);
    if !kind.listing && !kind.discussion && sums.of(page.tree.subtree(root)).weight >= PROSE_PAGE {
        drop_small(page, sums, root, dropped);
        drop_link_paragraphs(page, &direct, root, dropped);
    }
    drop_repeats(page, &direct, root, dropped);
}

/// Paragraphs of prose before `root`, up to the element that is declared to be the main one, or the body.
pub(super) fn leads(page: &Page<'_>, root: usize, dropped: &[bool]) -> Vec<usize> {
    let nodes = &page.tree.nodes;
    let mut top = root;
    while top != page.body && !matches!(nodes[top].tag, Tag::Main | Tag::Article) {
        top = nodes[top].parent as usize;
    }
    let direct = page.measures.direct(dropped, false);
    let is_lead = |at: &usize| {
        let (text, link) = direct[*at];
        let tag = nodes[*at].tag;
        page.measures.is_leaf(*at)
            && nodes[*at].end as usize <= root
            && text >= LEAD_BYTES
            && link * 3 < text
            && matches!(tag, Tag::P | Tag::Div | Tag::Blockquote | Tag::H2 | Tag::H3 | Tag::H4)
    };
    kept(page.tree, top..root, dropped).filter(is_lead).collect()
}

/// Nodes in a range that are not left out.
fn kept<'a>(tree: &'a Tree, range: Range<usize>, dropped: &'a [bool]) -> impl Iterator<Item = usize> + 'a {
    let mut at = range.start;
    std::iter::from_fn(move || {
        while at < range.end && dropped[at] {
            at = tree.nodes[at].end as usize;
        }
        at += 1;
        (at <= range.end).then(|| at - 1)
    })
}

/// Captions, buttons, dates and labels.
fn drop_small(page: &Page<'_>, sums: &Sums, root: usize, dropped: &mut [bool]) {
    let all = sums.of(page.tree.subtree(root)).text;
    let mut code_end = 0;
    for at in page.tree.subtree(root).skip(1) {
        let (tag, hint) = (page.tree.nodes[at].tag, page.hints[at]);
        let bytes = sums.of(page.tree.subtree(at)).text;
        if tag == Tag::Code || tag.is_preformatted() {
            code_end = code_end.max(page.tree.nodes[at].end as usize);
        }
        if tag == Tag::Text || dropped[at] || bytes == 0.0 || at < code_end {
            continue;
        }
        let caption = tag == Tag::Figcaption || (hint.has(Hint::CAPTION) && tag != Tag::Caption);
        let may_be_label = !matches!(tag, Tag::Dt | Tag::Td | Tag::Th | Tag::Pre);
        let small = (tag == Tag::A && hint.has(Hint::BUTTON)) || tag == Tag::Time || hint.has(Hint::DATE);
        dropped[at] = (caption && bytes < all * CAPTION_SHARE && bytes < CAPTION_BYTES && !names_code(page.tree, at))
            || (small && bytes < SMALL_BYTES)
            || (bytes < LABEL_BYTES && may_be_label && page.measures.is_leaf(at) && is_label(page.tree, at));
    }
}

/// True for the caption of a listing or table, which says what the reader sees there.
fn names_code(tree: &Tree, at: usize) -> bool {
    let around = tree.subtree(tree.nodes[at].parent as usize).take(CAPTION_NODES);
    around.into_iter().any(|inner| tree.nodes[inner].tag.is_preformatted() || tree.nodes[inner].tag == Tag::Table)
}

fn is_label(tree: &Tree, at: usize) -> bool {
    let text: String = tree.subtree(at).map(|inner| tree.text(inner)).collect();
    let text = text.trim().to_lowercase();
    let whole = text.trim_end_matches(|c: char| matches!(c, ':' | '.' | '…' | '!' | '?') || c.is_whitespace());
    LABELS.iter().any(|label| text.starts_with(label)) || WHOLE_LABELS.contains(&whole)
}

/// Paragraphs that are nothing but a link to another page; in a list they are the list.
fn drop_link_paragraphs(page: &Page<'_>, direct: &[(u32, u32)], root: usize, dropped: &mut [bool]) {
    let is_address = |at: usize| {
        let href = page.tree.attr(at, Attr::Href).unwrap_or("");
        href.starts_with("mailto:") || href.starts_with("tel:")
    };
    let leads_away = |at: &usize| {
        let (text, link) = direct[*at];
        *at != root
            && matches!(page.tree.nodes[*at].tag, Tag::P | Tag::Div)
            && link >= LINK_BYTES
            && f64::from(link) >= f64::from(text) * LINK_SHARE
            && page.measures.is_leaf(*at)
            && !matches!(page.tree.nodes[page.tree.nodes[*at].parent as usize].tag, Tag::Li | Tag::Dd)
            && !page.tree.subtree(*at).any(is_address)
    };
    let found: Vec<usize> = kept(page.tree, page.tree.subtree(root), dropped).filter(leads_away).collect();
    found.into_iter().for_each(|at| dropped[at] = true);
}

/// Paragraphs that were said before, as slide shows and pages for several widths do; code, list
/// items and cells of tables may repeat.
fn drop_repeats(page: &Page<'_>, direct: &[(u32, u32)], root: usize, dropped: &mut [bool]) {
    let mut seen = HashSet::new();
    let mut said = |at: &usize| {
        let tag = page.tree.nodes[*at].tag;
        if direct[*at].0 < REPEAT_BYTES || tag.is_preformatted() || matches!(tag, Tag::Td | Tag::Th | Tag::Li | Tag::Dd)
        {
            return false;
        }
        let text = || page.tree.subtree(*at).flat_map(|inner| page.tree.text(inner).bytes());
        page.measures.is_leaf(*at) && !seen.insert(xxh3_64(&text().filter(|b| *b > b' ').collect::<Vec<u8>>()))
    };
    let found: Vec<usize> = kept(page.tree, page.tree.subtree(root), dropped).filter(|at| said(at)).collect();
    found.into_iter().for_each(|at| dropped[at] = true);
}

#[cfg(test)]
mod tests {
    use super::super::{ExtractConfig, extract};

    const PROSE: &str = "<p>The quick brown fox jumps over the lazy dog, and then it rests in the shade for a while, quite unlike the dog, who only ever sleeps, number ";

    fn article(extra: &str) -> String {
        let prose: String = (0..12).map(|i| format!("{PROSE}{i}.</p>")).collect();
        let html =
            format!("<body><div id=x><p>{}</p></div><article><div>{prose}{extra}</div></article>", "intro ".repeat(4));
        extract(&html, None, &ExtractConfig::default()).expect("an article").text
    }

    #[test]
    fn additions_to_prose_are_left_out() {
        for extra in [
            "<figure><img><figcaption>A fox, seen from afar</figcaption></figure>",
            "<p><a href=/y>Another story about foxes</a></p>",
            "<p>Lesen Sie auch: <b>Füchse</b></p>",
            "<p>Advertisement</p>",
            "<a class='btn big' href=/buy>Buy a fox</a>",
            "<time datetime=2020-01-01>1 January</time>",
        ] {
            assert_eq!(article(extra), article(""), "{extra}");
        }
        for extra in [
            "<p>狐について</p>",
            "<p>Readers also like foxes.</p>",
            "<p>Ask <a href=mailto:a@b.org>a@b.org</a></p>",
            "<pre>advert</pre>x",
            "<figure><pre>fox()</pre><figcaption>Listing 1: a fox</figcaption></figure>",
        ] {
            assert_ne!(article(extra), article(""), "{extra}");
        }
    }

    #[test]
    fn long_paragraphs_are_kept_once_and_code_as_often_as_it_stands() {
        let again =
            format!("{PROSE}7.</p>{PROSE}7.</p><pre>{}</pre><pre>{}</pre>", "code ".repeat(30), "code ".repeat(30));
        let text = article(&again);
        assert_eq!(text.matches("number 7.").count(), 1);
        assert_eq!(text.matches("code").count(), 60);
    }

    #[test]
    fn a_leading_paragraph_outside_the_article_element_is_kept() {
        let prose: String = (0..12).map(|i| format!("{PROSE}{i}.</p>")).collect();
        let html = format!(
            "<body><main><header><p>In short: {}.</p></header><div class=entry-content>{prose}</div></main>",
            "foxes rest ".repeat(12)
        );
        let text = extract(&html, None, &ExtractConfig::default()).expect("an article").text;
        assert!(text.starts_with("In short: foxes rest"), "{text}");
        assert_eq!(text.matches("number 0.").count(), 1);
    }
}
