//! What a page says about itself: title, language, authors, date of publication, site.
//!
//! In: the tree, what names suggest of its elements, which of them are content, and the address. Out: [`About`]. Each fact comes from the first
//! source that has it, in the order written at its function: `meta` tags, linked data, marked-up elements, then names
//! of classes. No clock and no time zone: a date is the one that is written. Links are left to `links`.
//! Names of tags: Open Graph, Dublin Core, schema.org, and the publishers' systems that are common on the web.

use super::date::{date_in, date_in_url};
use super::dom::{Attr, Tree};
use super::hints::Hint;
use super::linked::{self, Linked};
use super::score::Content;
use super::tag::Tag;
use super::work::Work;

/// An author's name or a date with the words around it is shorter than this, in bytes.
const MAX_LABEL_BYTES: usize = 120;

/// A text that is little more than a date, in bytes.
const MAX_BARE_BYTES: usize = 40;

/// Names of `meta` tags that hold the date of publication, the most reliable first.
const DATE_NAMES: &[&str] = &[
    "article:published_time",
    "og:article:published_time",
    "og:published_time",
    "og:pubdate",
    "article:published",
    "article:post_date",
    "datepublished",
    "parsely-pub-date",
    "sailthru.date",
    "cxenseparse:recs:publishtime",
    "publication_date",
    "publication-date",
    "published_date",
    "published_time",
    "publish_date",
    "publish-date",
    "publishdate",
    "publisheddate",
    "published",
    "pubdate",
    "pub_date",
    "ptime",
    "article_date_original",
    "article.published",
    "article:publicationdate",
    "originalpublicationdate",
    "release_date",
    "rnews:datepublished",
    "bt:pubdate",
    "date_published",
    "displaydate",
    "dc.date.issued",
    "dc.date.created",
    "dc.created",
    "dcterms.issued",
    "dcterms.created",
    "dc:created",
    "citation_publication_date",
    "citation_online_date",
    "citation_date",
    "prism.publicationdate",
    "dc.date",
    "dcterms.date",
    "dc:date",
    "date",
    "created",
    "date_created",
    "datecreated",
];

/// Names of `meta` tags that hold an author, the most reliable first.
const AUTHOR_NAMES: &[&str] = &[
    "author",
    "article:author",
    "og:article:author",
    "article:author_name",
    "parsely-author",
    "sailthru.author",
    "citation_author",
    "dc.creator",
    "dcterms.creator",
    "dc:creator",
    "dc.contributor",
    "byl",
    "creator",
];

/// Names of `meta` tags that hold the name of the site.
const SITE_NAMES: &[&str] = &["og:site_name", "application-name", "dc.publisher", "publisher"];

/// Facts about a page.
#[derive(Debug, Default)]
pub(super) struct About {
    pub(super) title: Option<String>,
    pub(super) lang: Option<String>,
    pub(super) author: Option<String>,
    pub(super) date: Option<String>,
    pub(super) site: Option<String>,
}

/// Everything of one pass over the page that a fact may be made of.
#[derive(Default)]
struct Sources<'a> {
    lang: Option<String>,
    og_title: Option<String>,
    title: Option<String>,
    heading: Option<String>,
    any_heading: Option<String>,
    /// Best `meta` value so far with its rank.
    date: Option<(usize, String)>,
    authors: Option<(usize, Vec<String>)>,
    site: Option<(usize, &'a str)>,
    /// Elements with `itemprop`, with `rel=author`, `<time>`, or with a name that speaks of dates or authors.
    date_items: Vec<usize>,
    author_items: Vec<usize>,
    author_links: Vec<usize>,
    times: Vec<usize>,
    dated: Vec<usize>,
    bylines: Vec<usize>,
    linked: Linked,
}

/// Collects the facts.
pub(super) fn about(tree: &Tree, content: &Content, url: Option<&str>, work: &mut Work) -> About {
    let sources = sources(tree, content);
    work.add(tree.nodes.len() * 2);
    let date = date(tree, content, &sources)
        .or_else(|| url.and_then(date_in_url))
        .or_else(|| labelled_date(tree, &sources))
        .or_else(|| bare_date(tree, content));
    let author = authors(tree, &sources);
    let site = sources.site.map(|(_, name)| name).or(sources.linked.publisher.as_deref()).and_then(non_empty);
    let title = sources.og_title.or(sources.heading).or(sources.any_heading).or(sources.title);
    About { title, lang: sources.lang, author, date, site }
}

fn sources<'a>(tree: &'a Tree, content: &Content) -> Sources<'a> {
    let mut sources = Sources::default();
    tree.json.iter().for_each(|span| linked::read(tree.value(*span), &mut sources.linked));
    for at in 0..tree.nodes.len() {
        let tag = tree.nodes[at].tag;
        match tag {
            Tag::Text => continue,
            Tag::Html if sources.lang.is_none() => {
                let lang = tree.attr(at, Attr::Lang).and_then(non_empty);
                sources.lang = lang.or_else(|| tree.attr(at, Attr::XmlLang).and_then(non_empty));
            }
            Tag::Meta => read_meta(tree, at, &mut sources),
            Tag::Title if sources.title.is_none() => sources.title = non_empty(&subtree_text(tree, at, usize::MAX)),
            Tag::H1 if sources.heading.is_none() => {
                let found = non_empty(&subtree_text(tree, at, usize::MAX));
                if content.keeps(at) {
                    sources.heading = found.clone();
                }
                sources.any_heading = sources.any_heading.take().or(found);
            }
            Tag::Time => sources.times.push(at),
            _ => {}
        }
        for (name, value) in tree.attrs(at) {
            match name {
                Attr::Itemprop if value.trim() == "datePublished" => sources.date_items.push(at),
                Attr::Itemprop if matches!(value.trim(), "author" | "creator") => sources.author_items.push(at),
                Attr::Rel if value.split_ascii_whitespace().any(|rel| rel == "author") => sources.author_links.push(at),
                _ => {}
            }
        }
        let hint = content.hint(at);
        if hint.has(Hint::DATE) {
            sources.dated.push(at);
        }
        if hint.has(Hint::BYLINE) {
            sources.bylines.push(at);
        }
    }
    sources
}

fn read_meta<'a>(tree: &'a Tree, at: usize, sources: &mut Sources<'a>) {
    let Some(value) = tree.attr(at, Attr::Content).filter(|value| !value.trim().is_empty()) else { return };
    for name in [Attr::Property, Attr::Name, Attr::Itemprop].into_iter().filter_map(|attr| tree.attr(at, attr)) {
        let name = name.trim().to_ascii_lowercase();
        let rank = |names: &[&str]| names.iter().position(|known| *known == name);
        if name == "og:title" && sources.og_title.is_none() {
            sources.og_title = non_empty(value);
        }
        if let Some(rank) = rank(DATE_NAMES)
            && sources.date.as_ref().is_none_or(|(best, _)| rank < *best)
            && let Some(date) = date_in(value)
        {
            sources.date = Some((rank, date));
        }
        if let Some(rank) = rank(AUTHOR_NAMES)
            && let Some(name) = author_name(value)
        {
            match &mut sources.authors {
                Some((best, names)) if rank == *best => names.push(name),
                Some((best, _)) if rank > *best => {}
                other => *other = Some((rank, vec![name])),
            }
        }
        if let Some(rank) = rank(SITE_NAMES)
            && sources.site.is_none_or(|(best, _)| rank < best)
        {
            sources.site = Some((rank, value));
        }
    }
}

/// `meta`, linked data, `itemprop`, then `<time>`: one in the content before others.
fn date(tree: &Tree, content: &Content, sources: &Sources<'_>) -> Option<String> {
    let item = |&at: &usize| {
        let value = tree.attr(at, Attr::Datetime).or_else(|| tree.attr(at, Attr::Content));
        value.and_then(date_in).or_else(|| date_in(&subtree_text(tree, at, MAX_LABEL_BYTES)))
    };
    let in_content = |at: &&usize| content.ranges(tree).any(|range| range.contains(at));
    (sources.date.as_ref().map(|(_, date)| date.clone()))
        .or_else(|| sources.linked.date.as_deref().and_then(date_in))
        .or_else(|| sources.date_items.iter().find_map(item))
        .or_else(|| sources.linked.created.as_deref().and_then(date_in))
        .or_else(|| sources.times.iter().filter(in_content).find_map(item))
        .or_else(|| sources.times.iter().find_map(item))
}

/// A date in an element whose name says that it holds one, or in a byline.
fn labelled_date(tree: &Tree, sources: &Sources<'_>) -> Option<String> {
    let label = |&at: &usize| {
        let text = subtree_text(tree, at, MAX_LABEL_BYTES * 2);
        if text.len() <= MAX_LABEL_BYTES { date_in(&text) } else { None }
    };
    sources.dated.iter().find_map(label).or_else(|| sources.bylines.iter().find_map(label))
}

/// The first text up to the end of the content that is little more than a date.
fn bare_date(tree: &Tree, content: &Content) -> Option<String> {
    let end = content.ranges(tree).map(|range| range.end).max().unwrap_or(0);
    let short = |at: &usize| {
        let text = tree.text(*at);
        (8..=MAX_BARE_BYTES).contains(&text.trim().len()) && text.bytes().filter(u8::is_ascii_digit).count() >= 5
    };
    let body = tree.nodes.iter().position(|node| node.tag == Tag::Body).unwrap_or(0);
    (body..end).filter(short).find_map(|at| date_in(tree.text(at)))
}

/// `meta`, linked data, `itemprop`, `rel=author`, then bylines; several joined by `; `.
fn authors(tree: &Tree, sources: &Sources<'_>) -> Option<String> {
    let mut names: Vec<String> = sources.authors.as_ref().map_or(Vec::new(), |(_, names)| names.clone());
    if names.is_empty() {
        names = sources.linked.authors.iter().filter_map(|name| author_name(name)).collect();
    }
    if names.is_empty() {
        let named = |&at: &usize| {
            let name =
                tree.subtree(at).find(|&inner| tree.attr(inner, Attr::Itemprop).is_some_and(|p| p.trim() == "name"));
            let at = name.unwrap_or(at);
            author_name(tree.attr(at, Attr::Content).unwrap_or(&subtree_text(tree, at, MAX_LABEL_BYTES * 2)))
        };
        names = sources.author_items.iter().filter_map(named).take(4).collect();
    }
    let label = |&at: &usize| author_name(&subtree_text(tree, at, MAX_LABEL_BYTES * 2));
    if names.is_empty() {
        names.extend(sources.author_links.iter().find_map(label));
    }
    if names.is_empty() {
        names.extend(sources.bylines.iter().find_map(label));
    }
    let mut unique: Vec<String> = Vec::new();
    for name in names {
        if unique.iter().all(|known| !known.eq_ignore_ascii_case(&name)) {
            unique.push(name);
        }
    }
    (!unique.is_empty()).then(|| unique.join("; "))
}

/// A name without what stands around it; none for addresses, accounts and sentences.
fn author_name(text: &str) -> Option<String> {
    let text = non_empty(text)?;
    let mut name = text.as_str();
    for prefix in [
        "written by",
        "posted by",
        "published by",
        "story by",
        "words by",
        "authors:",
        "author:",
        "autor:",
        "by:",
        "by",
        "von",
        "par",
        "por",
        "di",
        "door",
    ] {
        let head = name.get(..prefix.len()).unwrap_or("");
        let rest = name.get(prefix.len()..).unwrap_or("");
        if head.eq_ignore_ascii_case(prefix) && rest.starts_with([' ', ':', '\u{a0}']) {
            name = rest.trim_start_matches([' ', ':', '\u{a0}']);
        }
    }
    let lower = name.to_ascii_lowercase(); // as many bytes as the name
    let words = [" updated", " published", " posted", " on "].iter().filter_map(|word| lower.find(word)).min();
    let cut = name.find(['|', '•', '·']).into_iter().chain(words).min().unwrap_or(name.len());
    let name = name[..cut].trim_matches([' ', ',', ';', '-', '–', '—', ':']);
    let odd = name.len() > MAX_LABEL_BYTES
        || name.contains("://")
        || name.contains('@')
        || name.starts_with("www.")
        || name.split(' ').count() > 12
        || !name.chars().any(char::is_alphabetic)
        || date_in(name).is_some();
    (!odd).then(|| name.to_owned())
}

/// Text under `at`, at least `enough` bytes if there are as many.
fn subtree_text(tree: &Tree, at: usize, enough: usize) -> String {
    let mut out = String::new();
    for node in tree.subtree(at) {
        if tree.nodes[node].tag.is_block() && !out.is_empty() {
            out.push(' ');
        }
        out.push_str(tree.text(node));
        if out.len() > enough {
            break;
        }
    }
    out
}

fn non_empty(text: &str) -> Option<String> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::super::{ExtractConfig, Page, extract};

    fn page(html: &str) -> Page {
        let html = format!("{html}<p>Some text that is content.");
        extract(&html, Some("https://a.org/2001/02/03/x"), &ExtractConfig::default()).expect("a page with text")
    }

    #[test]
    fn meta_tags_come_before_linked_data_and_markup() {
        let linked = r#"<script type="application/ld+json">{"author":{"name":"L"},"datePublished":"2020-02-02",
                        "publisher":{"name":"P"}}</script>"#;
        let html = format!(
            "<meta name=Author content='By A. One'><meta property=article:published_time content=2020-01-01T00:00Z>\
             <meta property=og:site_name content=' The  Site '>{linked}"
        );
        let found = page(&html);
        assert_eq!(found.author.as_deref(), Some("A. One"));
        assert_eq!(found.date.as_deref(), Some("2020-01-01"));
        assert_eq!(found.site_name.as_deref(), Some("The Site"));
        let found = page(linked);
        assert_eq!(
            [found.author, found.date, found.site_name].map(Option::unwrap_or_default),
            ["L", "2020-02-02", "P"]
        );
    }

    #[test]
    fn marked_up_elements_serve_where_nothing_else_does() {
        let found = page(
            "<p><span itemprop=author><span itemprop=name>作家</span></span> <time datetime=2019-03-04>gestern</time>",
        );
        assert_eq!([found.author, found.date].map(Option::unwrap_or_default), ["作家", "2019-03-04"]);
        let found = page("<div class=byline>von Eva Beispiel</div><a rel=author href=/e>E. B.</a>");
        assert_eq!([found.author, found.date].map(Option::unwrap_or_default), ["E. B.", "2001-02-03"]);
    }

    #[test]
    fn what_is_no_name_and_no_date_is_left_out() {
        let found =
            page("<meta name=author content='https://facebook.com/x'><meta name=date content=soon><meta name=author>");
        assert_eq!((found.author, found.date.as_deref()), (None, Some("2001-02-03")));
        let plain = extract("<p>word", None, &ExtractConfig::default()).expect("a word");
        assert_eq!((plain.author, plain.date, plain.site_name), (None, None, None));
    }
}
