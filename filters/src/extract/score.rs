//! Which nodes of a page are content.
//!
//! In: the flat tree. Out: [`Content`]: the subtree that holds the content and, inside it, the subtrees left out.
//! Four steps, each a few passes over the array: leave out what is never shown; leave out furniture (what tags,
//! names or roles betray as navigation, promotion, comments); walk down from the body while one child holds nearly
//! all the weight; leave out lists of links there. A page on which that finds almost nothing is taken more whole.
//! Three kinds of page turn the rules around: on a listing links are the content, in a discussion comments are, and on
//! the page of a product the buyers' opinions are not. Shares below were chosen on the half of the benchmarks' pages
//! whose ids hash to an even number (see `tests/peers/extraction.py`); few move the mean F1 by more than 0.005.
//! Small leftovers inside the content are `trim`'s; how nodes become text is left to `render`. Background: Kohlschütter et al. 2010; readability's paragraph scores.

use std::ops::Range;

use super::ExtractFault;
use super::dom::{Attr, Tree};
use super::hints::{Hint, hints};
use super::measure::{Amount, Measures, Sums};
use super::tag::Tag;
use super::trim;
use super::work::Work;

/// With fewer bytes of text than this (about twenty words) extraction was too strict.
const TOO_LITTLE: f64 = 120.0;

/// A page with fewer bytes of text than this is taken whole, without its furniture.
const SHORT_PAGE: f64 = 300.0;

/// Furniture may not hold more than this share of the weight of the page, whatever it is called.
const FURNITURE_WEIGHT: f64 = 0.5;

/// Nor than this share, inside `<main>` or `<article>`, if only a class or id speaks against it.
const NAMED_WEIGHT: f64 = 0.3;

/// An element named after navigation is none with so many bytes of text, most of it prose outside links.
const LONG_PROSE: f64 = 1200.0;

/// Prose of less weight (1250 bytes) than this can be the frame of a listing or of a discussion.
const LITTLE_PROSE: f64 = 5000.0;

/// On a listing, less than this share of the weight remains when cards count as links.
const LISTING_SHARE: f64 = 0.7;

/// Elements named after forums from which on a page is a discussion.
const FORUM_NAMES: usize = 6;

/// Share of the weight a child must hold for the walk to go on into it: anything, or what says it is the content.
const NEARLY_ALL: f64 = 0.83;
const NAMED_CONTENT: f64 = 0.4;

/// A list of links: at least so many, this dense, shorter than this on average (bytes), and a part of the content.
const LIST_LINKS: f64 = 3.0;
const LIST_DENSITY: f64 = 0.7;
const LIST_LINK_BYTES: f64 = 15.0;
const LIST_SHARE: f64 = 0.2;

/// Kept nodes.
#[derive(Debug)]
pub(super) struct Content {
    dropped: Vec<bool>,
    hints: Vec<Hint>,
    /// Paragraphs before the element that holds the content, then that element.
    roots: Vec<usize>,
}

impl Content {
    /// False for the top of a subtree that is left out.
    pub(super) fn keeps(&self, at: usize) -> bool {
        !self.dropped[at]
    }

    /// What the names of an element suggest.
    pub(super) fn hint(&self, at: usize) -> Hint {
        self.hints[at]
    }

    /// The subtrees that hold the content, in document order.
    pub(super) fn ranges(&self, tree: &Tree) -> impl Iterator<Item = Range<usize>> {
        self.roots.iter().map(|at| tree.subtree(*at))
    }
}

/// Decides for a whole page.
pub(super) fn content(tree: &Tree, work: &mut Work) -> Result<Content, ExtractFault> {
    // Some twenty passes over the array, none of which depends on how its nodes are nested.
    work.charge(tree.nodes.len() * 20)?;
    let page = Page::new(tree, work)?;
    let shown = page.shown();
    let kind = page.kind(&shown);
    let mut dropped = shown.clone();
    page.drop_furniture(&page.measures.sums(&shown, kind.listing), &kind, &mut dropped);
    let sums = page.measures.sums(&dropped, kind.listing);
    let short = sums.of(tree.subtree(page.body)).text < SHORT_PAGE;
    let root = if short { page.body } else { page.descend(&sums) };
    let lenient = dropped.clone();
    page.drop_link_lists(&sums, root, &mut dropped);
    trim::trim(&page, &kind, &sums, root, &mut dropped);
    let bytes = |dropped: &[bool], at| page.measures.sums(dropped, kind.listing).of(tree.subtree(at)).text;
    let kept = bytes(&dropped, root);
    let all = bytes(&shown, page.body);
    if kept >= TOO_LITTLE || all <= kept * 2.0 {
        let mut roots = if short || kind.listing { Vec::new() } else { trim::leads(&page, root, &dropped) };
        roots.push(root);
        return Ok(Content { dropped, hints: page.hints, roots });
    }
    let dropped = if bytes(&lenient, page.body) >= TOO_LITTLE { lenient } else { shown };
    Ok(Content { dropped, hints: page.hints, roots: vec![page.body] })
}

/// What turns the rules around.
pub(super) struct Kind {
    /// Links are the content.
    pub(super) listing: bool,
    /// Comments are the content.
    pub(super) discussion: bool,
    /// Buyers' opinions are not the content.
    product: bool,
}

/// A page with what is known about each of its nodes.
pub(super) struct Page<'a> {
    pub(super) tree: &'a Tree,
    pub(super) measures: Measures<'a>,
    pub(super) hints: Vec<Hint>,
    pub(super) body: usize,
}

impl<'a> Page<'a> {
    fn new(tree: &'a Tree, work: &mut Work) -> Result<Self, ExtractFault> {
        let hints = hints(tree);
        let body = tree.nodes.iter().position(|node| node.tag == Tag::Body).unwrap_or(0);
        Ok(Self { tree, measures: Measures::new(tree, work)?, hints, body })
    }

    /// Marks everything a reader does not see.
    fn shown(&self) -> Vec<bool> {
        let nodes = &self.tree.nodes;
        let mut dropped: Vec<bool> = nodes.iter().map(|n| n.tag.is_invisible() || n.tag.is_control()).collect();
        let all = self.measures.sums(&dropped, false).of(0..nodes.len()).text;
        // A forum or application that needs scripts may carry its whole text for readers without them.
        for at in (0..nodes.len()).filter(|&at| nodes[at].tag == Tag::Noscript) {
            let bytes = self.measures.bytes(at);
            dropped[at] = bytes < 300.0 || bytes < all * 0.5;
        }
        let sums = self.measures.sums(&dropped, false);
        let all = sums.of(0..nodes.len()).text;
        for at in (0..nodes.len()).filter(|&at| self.hints[at].has(Hint::HIDDEN)) {
            // Some sites show their body by script, and formulas are hidden behind pictures of themselves.
            let formula = nodes.get(at + 1).is_some_and(|next| next.tag == Tag::Math);
            // What is folded away is one press from being read.
            let folded = self.hints[at].has(Hint::FOLD);
            dropped[at] |= !formula && !folded && sums.of(self.tree.subtree(at)).text < all * 0.5;
        }
        dropped
    }

    /// What kind of page this is.
    fn kind(&self, shown: &[bool]) -> Kind {
        let (strict, wide) = (self.measures.sums(shown, false), self.measures.sums(shown, true));
        let body = self.tree.subtree(self.body);
        let forum = self.hints.iter().filter(|hint| hint.has(Hint::FORUM)).count() >= FORUM_NAMES;
        let mut dropped = shown.to_vec();
        let product = is_product(self.tree);
        let kind = Kind { listing: false, discussion: forum, product };
        self.drop_furniture(&strict, &kind, &mut dropped);
        let prose = self.measures.sums(&dropped, false).of(body.clone()).weight;
        let share = strict.of(body.clone()).weight / wide.of(body).weight.max(1.0);
        let listing = prose < LITTLE_PROSE && share < LISTING_SHARE;
        let posts = self.posts_weight(if listing { &wide } else { &strict });
        Kind { listing, discussion: forum || (prose < LITTLE_PROSE && posts > prose), product }
    }

    /// Weight in elements named as comments.
    fn posts_weight(&self, sums: &Sums) -> f64 {
        let (mut posts, mut at) = (0.0, self.body);
        while at < self.tree.subtree(self.body).end {
            if self.hints[at].has(Hint::COMMENT) {
                posts += sums.of(self.tree.subtree(at)).weight;
                at = self.tree.subtree(at).end;
            } else {
                at += 1;
            }
        }
        posts
    }

    /// Leaves out navigation, overlays, promotions, columns and comments, each only while it is a small part of the page.
    fn drop_furniture(&self, sums: &Sums, kind: &Kind, dropped: &mut [bool]) {
        let all = sums.of(self.tree.subtree(self.body));
        let end = self.tree.subtree(self.body).end;
        let (mut at, mut content_end) = (self.body + 1, 0); // end of the outermost open <main> or <article>
        while at < end {
            let node = &self.tree.nodes[at];
            if matches!(node.tag, Tag::Main | Tag::Article) && !dropped[at] {
                content_end = content_end.max(node.end as usize);
            }
            if !dropped[at] && node.tag != Tag::Text {
                let amount = sums.of(self.tree.subtree(at));
                let hint = self.hints[at];
                let in_content = at < content_end;
                let hint = if hint.has(Hint::NAV) && is_long_prose(amount) { hint.without(Hint::NAV) } else { hint };
                let limit = furniture_limit(node.tag, hint, in_content, kind);
                let named_only = in_content && !matches!(node.tag, Tag::Nav | Tag::Footer | Tag::Aside);
                let sure = hint.has(Hint::COMMENT.or(Hint::RELATED).or(Hint::REVIEW));
                let weight = if named_only && !sure { NAMED_WEIGHT } else { FURNITURE_WEIGHT };
                dropped[at] =
                    amount.text > 0.0 && amount.text < all.text * limit && amount.weight <= all.weight * weight;
            }
            // Highlighters name parts of code: `comment` there is no reader's.
            let passed = dropped[at] || node.tag == Tag::Code || node.tag.is_preformatted();
            at = if passed { node.end as usize } else { at + 1 };
        }
    }

    /// Walks from the body to the smallest element that still holds nearly all the weight.
    fn descend(&self, sums: &Sums) -> usize {
        let mut at = self.body;
        loop {
            let total = sums.of(self.tree.subtree(at)).weight;
            let mut best: Option<(usize, f64)> = None;
            let mut child = at + 1;
            while child < self.tree.subtree(at).end {
                let weight = sums.of(self.tree.subtree(child)).weight;
                let wanted = total * descent_share(self.tree.nodes[child].tag, self.hints[child]);
                if weight > 0.0 && weight >= wanted && best.is_none_or(|(_, most)| weight > most) {
                    best = Some((child, weight));
                }
                child = self.tree.subtree(child).end;
            }
            match best {
                Some((child, _)) => at = child,
                None => return at,
            }
        }
    }

    /// Leaves out lists of short links inside the content.
    fn drop_link_lists(&self, sums: &Sums, root: usize, dropped: &mut [bool]) {
        let all = sums.of(self.tree.subtree(root)).text;
        let (mut at, end) = (root + 1, self.tree.subtree(root).end);
        while at < end {
            let tag = self.tree.nodes[at].tag;
            if !dropped[at] && tag.is_block() && tag.heading_level().is_none() {
                let amount = sums.of(self.tree.subtree(at));
                dropped[at] = amount.links >= LIST_LINKS
                    && amount.link > amount.text * LIST_DENSITY
                    && amount.link < amount.links * LIST_LINK_BYTES
                    && amount.text < all * LIST_SHARE;
            }
            at = if dropped[at] { self.tree.subtree(at).end } else { at + 1 };
        }
    }
}

/// True for more prose than any navigation holds, whatever the element is called.
fn is_long_prose(amount: Amount) -> bool {
    amount.text >= LONG_PROSE && amount.weight >= amount.text * 3.0 && amount.link < amount.text * 0.2
}

/// True for the page of one thing that is sold, as its linked data or Open Graph type says.
fn is_product(tree: &Tree) -> bool {
    let typed = |names: &[&str]| {
        tree.json.iter().map(|span| tree.value(*span)).any(|json| {
            let is_type = |at: usize| json[..at].trim_end().ends_with([':', '[']);
            names.iter().any(|name| json.match_indices(name).any(|(at, _)| is_type(at)))
        })
    };
    let sold = typed(&["\"Product\"", "\"ProductGroup\""]);
    let told = typed(&["\"Article\"", "\"NewsArticle\"", "\"BlogPosting\""]);
    let says_product = |at: usize| {
        tree.attr(at, Attr::Property) == Some("og:type")
            && tree.attr(at, Attr::Content).is_some_and(|kind| kind.contains("product"))
    };
    (sold && !told) || (0..tree.nodes.len()).any(|at| tree.nodes[at].tag == Tag::Meta && says_product(at))
}

/// Largest share of the page's text an element may hold and still be left out as furniture; 0 keeps it.
fn furniture_limit(tag: Tag, hint: Hint, in_content: bool, kind: &Kind) -> f64 {
    let by_tag = match tag {
        Tag::Main | Tag::Article | Tag::Body | Tag::Html => return 0.0,
        Tag::Nav | Tag::Footer => 0.9,
        Tag::Aside => 0.4,
        Tag::Header if !in_content => 0.4,
        Tag::Form if kind.product => 0.2,
        _ => 0.0,
    };
    let by_name = if hint.has(Hint::NAV) {
        0.6
    } else if hint.has(Hint::OVERLAY) {
        0.5
    } else if hint.has(Hint::PROMO) {
        0.3
    } else if hint.has(Hint::RELATED) {
        0.5
    } else if hint.has(Hint::ASIDE) {
        0.6
    } else if !kind.discussion && (hint.has(Hint::COMMENT) || (hint.has(Hint::REVIEW) && kind.product)) {
        0.5
    } else if hint.has(Hint::META) && !kind.discussion {
        0.15
    } else if hint.has(Hint::HEADER) && !in_content {
        0.05
    } else {
        0.0
    };
    f64::max(by_tag, by_name)
}

/// Share of the weight of its parent an element must hold to take its place; above 1 it never does.
fn descent_share(tag: Tag, hint: Hint) -> f64 {
    match tag {
        Tag::Main | Tag::Article => NAMED_CONTENT,
        _ if hint.has(Hint::CONTENT) => NAMED_CONTENT,
        Tag::Div | Tag::Section | Tag::Body | Tag::Form | Tag::Center | Tag::Td | Tag::Tr | Tag::Other => NEARLY_ALL,
        // A layout table is walked through, a table or list that is the content is not taken apart.
        Tag::Table | Tag::Tbody => NEARLY_ALL,
        _ => 2.0,
    }
}
