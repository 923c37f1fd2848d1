//! A web page as one flat array in document order.
//!
//! In: HTML text and three limits (bytes, nodes, nesting). Out: a [`Tree`]: nodes in pre-order, each knowing where its
//! subtree ends, so that every walk is a loop over a slice and no input can overflow the stack.
//! `token` splits the markup, the tree builder of `html5ever` repairs it. Its open-element searches make it quadratic
//! in nesting (512 KB of nested lists took 94 s), so [`Capped`] stands between the two and drops start tags deeper
//! than the cap, as browsers do; the text in them stays. What is content is left to `score`.
//! Spec: WHATWG HTML "tree construction".

use std::cell::{Cell, RefCell};
use std::ops::Range;

use html5ever::tendril::StrTendril;
use html5ever::tokenizer::{Tag as TagToken, TagKind, Token, TokenSink, TokenSinkResult};
use html5ever::tree_builder::{TreeBuilder, TreeBuilderOpts};
use html5ever::{LocalName, local_name};

use super::arena::{Arena, Handle};
use super::tag::Tag;
use super::token::tokenize;
use super::{ExtractConfig, ExtractFault};

/// Attribute names extraction reads; the tokeniser drops all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attr {
    Class,
    Id,
    Href,
    Role,
    Style,
    Hidden,
    AriaHidden,
    Lang,
    Property,
    Name,
    Content,
    Itemprop,
    Type,
    Start,
    Alttext,
}

impl Attr {
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "class" => Self::Class,
            "id" => Self::Id,
            "href" => Self::Href,
            "role" => Self::Role,
            "style" => Self::Style,
            "hidden" => Self::Hidden,
            "aria-hidden" => Self::AriaHidden,
            "lang" | "xml:lang" => Self::Lang,
            "property" => Self::Property,
            "name" => Self::Name,
            "content" => Self::Content,
            "itemprop" => Self::Itemprop,
            "type" => Self::Type,
            "start" => Self::Start,
            "alttext" => Self::Alttext,
            _ => return None,
        })
    }
}

/// One node; node 0 is the document.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) tag: Tag,
    pub(super) parent: u32,
    /// Index one past the last node of the subtree.
    pub(super) end: u32,
    /// Byte range of `Tree::text` for a text node, of `Tree::attrs` otherwise.
    pub(super) span: (u32, u32),
}

/// A page in document order.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    pub(super) text: String,
    pub(super) attrs: Vec<(Attr, StrTendril)>,
}

impl Tree {
    /// Nodes of the subtree at `at`, itself included.
    pub(super) fn subtree(&self, at: usize) -> Range<usize> {
        at..self.nodes[at].end as usize
    }

    /// Text of a text node, empty for elements.
    pub(super) fn text(&self, at: usize) -> &str {
        let node = &self.nodes[at];
        if node.tag == Tag::Text { &self.text[node.span.0 as usize..node.span.1 as usize] } else { "" }
    }

    /// Value of an attribute.
    pub(super) fn attr(&self, at: usize, wanted: Attr) -> Option<&str> {
        self.attrs(at).iter().find(|(name, _)| *name == wanted).map(|(_, value)| &**value)
    }

    /// All kept attributes of an element.
    pub(super) fn attrs(&self, at: usize) -> &[(Attr, StrTendril)] {
        let node = &self.nodes[at];
        if node.tag == Tag::Text { &[] } else { &self.attrs[node.span.0 as usize..node.span.1 as usize] }
    }
}

/// Parses `html`; fails only on a limit.
pub(super) fn parse(html: &str, config: &ExtractConfig) -> Result<Tree, ExtractFault> {
    if html.len() > config.max_html_bytes {
        return Err(ExtractFault::TooLarge { bytes: html.len(), limit: config.max_html_bytes });
    }
    let options = TreeBuilderOpts { scripting_enabled: false, drop_doctype: true, ..Default::default() };
    let builder = TreeBuilder::new(Arena::default(), options);
    let capped = Capped { builder, max_depth: config.max_depth, depth: Cell::new(0), dropped: RefCell::default() };
    let count = || capped.builder.sink.node_count();
    tokenize(html, &capped, || count() <= config.max_nodes);
    let nodes = count();
    if nodes > config.max_nodes {
        return Err(ExtractFault::TooManyNodes { nodes, limit: config.max_nodes });
    }
    Ok(capped.builder.sink.into_tree())
}

/// Passes tokens on to the tree builder, except start tags below the depth cap and the end tags that belong to them.
struct Capped {
    builder: TreeBuilder<Handle, Arena>,
    max_depth: usize,
    /// Depth of the element being filled: exact after each insertion, one less per end tag in between.
    depth: Cell<usize>,
    /// Names of dropped start tags that are still open.
    dropped: RefCell<Vec<LocalName>>,
}

impl Capped {
    /// True if the builder is not to see this tag.
    fn drops(&self, tag: &TagToken) -> bool {
        let mut dropped = self.dropped.borrow_mut();
        if tag.kind == TagKind::EndTag {
            // Only the innermost names are searched: more would make this search the quadratic one.
            let open = dropped.iter().rev().take(64).position(|name| *name == tag.name);
            if let Some(back) = open {
                let keep = dropped.len() - 1 - back;
                dropped.truncate(keep);
            } else {
                self.depth.set(self.depth.get().saturating_sub(1));
            }
            return open.is_some();
        }
        let raw_text = matches!(
            tag.name,
            local_name!("script")
                | local_name!("style")
                | local_name!("textarea")
                | local_name!("title")
                | local_name!("br")
                | local_name!("img")
                | local_name!("hr")
                | local_name!("input")
                | local_name!("iframe")
                | local_name!("xmp")
                | local_name!("noframes")
                | local_name!("noembed")
                | local_name!("meta")
                | local_name!("link")
        );
        let drop = self.depth.get() >= self.max_depth && !raw_text;
        if drop && !tag.self_closing {
            dropped.push(tag.name.clone());
        }
        drop
    }
}

impl TokenSink for Capped {
    type Handle = Handle;

    fn process_token(&self, token: Token, line: u64) -> TokenSinkResult<Handle> {
        match &token {
            Token::CommentToken(_) | Token::ParseError(_) => return TokenSinkResult::Continue,
            Token::TagToken(tag) if self.drops(tag) => return TokenSinkResult::Continue,
            _ => {}
        }
        let arena = &self.builder.sink;
        arena.forget_depth();
        let result = self.builder.process_token(token, line);
        if let Some(depth) = arena.inserted_depth() {
            self.depth.set(depth);
            if depth < self.max_depth {
                self.dropped.borrow_mut().clear();
            }
        }
        match result {
            // Scripts are not run, and the encoding was settled before.
            TokenSinkResult::Script(_) | TokenSinkResult::EncodingIndicator(_) => TokenSinkResult::Continue,
            other => other,
        }
    }

    fn end(&self) {
        self.builder.end();
    }

    fn adjusted_current_node_present_but_not_in_html_namespace(&self) -> bool {
        self.builder.adjusted_current_node_present_but_not_in_html_namespace()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(html: &str) -> Tree {
        parse(html, &ExtractConfig::default()).expect("within the limits")
    }

    fn depth(tree: &Tree) -> usize {
        let mut depths = vec![0; tree.nodes.len()];
        for at in 1..tree.nodes.len() {
            depths[at] = depths[tree.nodes[at].parent as usize] + 1;
        }
        depths.into_iter().max().unwrap_or(0)
    }

    fn all_text(tree: &Tree) -> String {
        (0..tree.nodes.len()).map(|at| tree.text(at)).collect()
    }

    #[test]
    fn subtrees_are_ranges_in_document_order() {
        let tree = tree("<body><p class=a>x<b>y</b></p><p>z");
        assert_eq!(all_text(&tree), "xyz");
        for (at, node) in tree.nodes.iter().enumerate().skip(1) {
            let parent = tree.subtree(node.parent as usize);
            assert!(parent.contains(&at) && node.end as usize <= parent.end);
        }
        let p = tree.nodes.iter().position(|node| node.tag == Tag::P).expect("a paragraph");
        assert_eq!(tree.attr(p, Attr::Class), Some("a"));
        assert_eq!(tree.attr(p, Attr::Id), None);
    }

    /// 94 seconds before the cap; every shape here was quadratic or deep in some parser.
    #[test]
    fn hostile_nesting_is_linear_and_keeps_its_text() {
        let half_a_megabyte = |unit: &str| format!("{}<p>end", unit.repeat(512 * 1024 / unit.len()));
        for unit in [
            "<ul><li>",
            "<div>",
            "<b>",
            "<a><div>",
            "<table><tr><td>",
            "<table><div>",
            "<p><b><i>x</p>",
            "</p>",
            "<font color=x>y",
            "<svg><g>",
            "<template>",
            "<select><option>",
            "<div></x>",
            "<frameset>",
            "<math><mi>",
            "<h1><button>",
            "<",
            "</",
            "<!--",
            "<a href='",
            "&#x",
            "\0",
            "<a b='>' ",
            "<![CDATA[",
            "<title>",
            "</p",
            "&am",
        ] {
            let Ok(tree) = parse(&half_a_megabyte(unit), &ExtractConfig::default()) else { continue };
            assert!(depth(&tree) < 3000, "{unit}: {}", depth(&tree));
            if unit.ends_with('>') && !["<template>", "<frameset>"].contains(&unit) {
                assert!(all_text(&tree).ends_with("end"), "{unit}");
            }
        }
    }

    /// Comparing each attribute with all before it would take minutes here.
    #[test]
    fn a_tag_of_a_megabyte_of_attributes_is_linear() {
        let attributes: String = (0..100_000).map(|i| format!(" a{i}='>'")).collect();
        assert_eq!(all_text(&tree(&format!("<p{attributes} class=x>end"))), "end");
    }

    #[test]
    fn text_and_structure_return_after_a_deep_part() {
        let html = format!("{}x{}<p id=after>y", "<div>".repeat(2000), "</div>".repeat(2000));
        let tree = tree(&html);
        assert_eq!(all_text(&tree), "xy");
        assert_eq!(depth(&tree), 513);
        let p = (0..tree.nodes.len()).find(|&at| tree.attr(at, Attr::Id) == Some("after")).expect("the paragraph");
        assert_eq!(tree.nodes[tree.nodes[p].parent as usize].tag, Tag::Body);
    }

    #[test]
    fn misnested_and_foster_parented_markup_loses_nothing() {
        assert_eq!(all_text(&tree("<b>1<p>2</b>3</p>4")), "1234");
        assert_eq!(all_text(&tree("<table>1<tr><td>2</td></tr>3</table>4")), "1324");
        assert_eq!(all_text(&tree("<p>a<script>b</script>c<style>d</style>")), "ac");
    }
}
