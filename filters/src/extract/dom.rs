//! A web page as one flat array in document order.
//!
//! In: HTML text and limits (bytes, nodes, nesting, work). Out: a [`Tree`]: nodes in pre-order, each knowing where its
//! subtree ends, so that every walk is a loop over a slice and no input can overflow the stack.
//! `token` splits the markup, `build` repairs it. What is content is left to `score`.

use std::ops::Range;

use super::build::Builder;
use super::names::Lookup;
use super::tag::Tag;
use super::token::tokenize;
use super::work::Work;
use super::{ExtractConfig, ExtractFault};

macro_rules! attrs {
    ($($name:literal => $attr:ident,)*) => {
        /// Attribute names extraction reads; the tokeniser drops all others.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Attr { $($attr,)* }

        const ATTRS: &[Attr] = &[$(Attr::$attr),*];
        static LOOKUP: Lookup = Lookup::new(&[$($name),*]);
    };
}

attrs! {
    "class" => Class, "id" => Id, "href" => Href, "role" => Role, "style" => Style, "hidden" => Hidden,
    "aria-hidden" => AriaHidden, "lang" => Lang, "xml:lang" => XmlLang, "property" => Property, "name" => Name,
    "content" => Content, "itemprop" => Itemprop, "type" => Type, "start" => Start, "alttext" => Alttext,
    "datetime" => Datetime, "rel" => Rel,
}

impl Attr {
    /// Attribute of a packed name.
    pub(super) fn of(key: u128) -> Option<Self> {
        LOOKUP.find(key).map(|i| ATTRS[i])
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
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    pub(super) text: String,
    /// Attributes kept, each with the byte range of its value in `values`.
    pub(super) attrs: Vec<(Attr, (u32, u32))>,
    pub(super) values: String,
    /// Scripts of type `application/ld+json`, as byte ranges of `values`.
    pub(super) json: Vec<(u32, u32)>,
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
        self.attrs(at).find(|(name, _)| *name == wanted).map(|(_, value)| value)
    }

    /// All kept attributes of an element, each once.
    pub(super) fn attrs(&self, at: usize) -> impl Iterator<Item = (Attr, &str)> {
        let node = &self.nodes[at];
        let span = if node.tag == Tag::Text { 0..0 } else { node.span.0 as usize..node.span.1 as usize };
        self.attrs[span].iter().map(|(name, value)| (*name, self.value(*value)))
    }

    /// A range of `values`.
    pub(super) fn value(&self, (from, to): (u32, u32)) -> &str {
        &self.values[from as usize..to as usize]
    }
}

/// Parses `html`; fails only on a limit.
pub(super) fn parse(html: &str, config: &ExtractConfig, work: &mut Work) -> Result<Tree, ExtractFault> {
    // Spans are 32-bit numbers, and no character reference is longer as text than as markup by more than half.
    let limit = config.max_html_bytes.min(1 << 31);
    if html.len() > limit {
        return Err(ExtractFault::TooLarge { bytes: html.len(), limit });
    }
    let mut builder = Builder::new(html.len(), config.max_depth, work);
    tokenize(html, &mut builder, |builder| builder.node_count() <= config.max_nodes && builder.may_go_on());
    let nodes = builder.node_count();
    if nodes > config.max_nodes {
        return Err(ExtractFault::TooManyNodes { nodes, limit: config.max_nodes });
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::super::score::content;
    use super::*;

    fn parsed(html: &str) -> Result<Tree, ExtractFault> {
        let config = ExtractConfig::default();
        parse(html, &config, &mut Work::new(config.max_work))
    }

    fn tree(html: &str) -> Tree {
        parsed(html).expect("within the limits")
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

    /// Elements and text below the body, as nested lists.
    fn outline(html: &str) -> String {
        let tree = tree(html);
        let body = tree.nodes.iter().position(|node| node.tag == Tag::Body).expect("a body");
        let mut out = String::new();
        let mut open: Vec<usize> = Vec::new();
        for at in tree.subtree(body).skip(1) {
            while open.last().is_some_and(|&end| end <= at) {
                open.pop();
                out.push(')');
            }
            match tree.nodes[at].tag {
                Tag::Text => out += tree.text(at),
                tag => out += &format!("({tag:?}:").to_lowercase(),
            }
            if tree.nodes[at].tag != Tag::Text {
                open.push(tree.nodes[at].end as usize);
            }
        }
        out + &")".repeat(open.len())
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

    #[test]
    fn missing_and_wrong_tags_are_repaired_as_browsers_do() {
        for (html, expected) in [
            ("", ""),
            ("x", "x"),
            ("<p>a<p>b<div>c</div>d", "(p:a)(p:b)(div:c)d"),
            ("<ul><li>a<li>b<ul><li>c</ul><li>d</ul>e", "(ul:(li:a)(li:b(ul:(li:c)))(li:d))e"),
            ("<dl><dt>a<dd>b<dt>c</dl>", "(dl:(dt:a)(dd:b)(dt:c))"),
            ("<table><td>a<td>b<tr><th>c</table>d", "(table:(tr:(td:a)(td:b))(tr:(th:c)))d"),
            ("<table><tr><td><table><tr><td>x</table>y</table>z", "(table:(tr:(td:(table:(tr:(td:x)))y)))z"),
            ("<td>a</td>b", "ab"),
            ("<div>a</span>b</p>c</div>d", "(div:ab(p:)c)d"),
            ("<div><table></div><tr><td>x</div></table>y</div>z", "(div:(table:(tr:(td:x)))y)z"),
            ("<a href=1>x<a href=2>y", "(a:x)(a:y)"),
            ("<a><h3>x</a></h3>y", "(a:(h3:x))y"),
            ("<h1>x<h2>y</h3>z", "(h1:x)(h2:y)z"),
            ("<svg><path/><g><title>t</title></g></svg>x", "(svg:(other:)(other:(title:)))x"),
            ("<svg><g><p>x", "(svg:(other:))(p:x)"),
            ("<br/>a</br>b<hr>c", "(br:)a(br:)b(hr:)c"),
            ("<select><option>a<option>b</select>c", "(select:(option:a)(option:b))c"),
            ("<p>a <b>b</b> c</p> <p>d</p>", "(p:a (other:b) c)(p:d)"),
            ("<head><title>t</title><body>x", "(title:t)x"),
            ("<noscript><p>x</noscript><p>y", "(noscript:(p:x))(p:y)"),
        ] {
            let outline = outline(&format!("<body>{html}"));
            assert_eq!(outline, expected, "{html}");
        }
    }

    #[test]
    fn head_and_body_are_found_where_tags_are_missing() {
        for html in [
            "<title>t</title>x",
            "<html><head><title>t</title></head>x",
            "<!doctype html><meta charset=utf-8><title>t</title><body>x",
            "<head><noscript><img src=y></noscript><title>t</title><body>x",
        ] {
            let tree = tree(html);
            let body = tree.nodes.iter().position(|node| node.tag == Tag::Body).expect("a body");
            let inside: String = tree.subtree(body).map(|at| tree.text(at)).collect();
            assert_eq!((inside.as_str(), all_text(&tree).as_str()), ("x", "tx"), "{html}");
        }
    }

    /// 94 seconds with an unlimited tree builder; every shape here was quadratic or deep in some parser.
    #[test]
    fn hostile_nesting_is_linear_and_keeps_its_text() {
        let half_a_megabyte = |unit: &str| format!("{}<p>end", unit.repeat(512 * 1024 / unit.len()));
        for unit in [
            "<ul><li>",
            "<div>",
            "<b>",
            "<b class=x>",
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
            let config = ExtractConfig::default();
            let mut work = Work::new(config.max_work);
            let Ok(tree) = parse(&half_a_megabyte(unit), &config, &mut work) else { continue };
            assert!(depth(&tree) <= 513, "{unit}: {}", depth(&tree));
            if unit.ends_with('>') && !["<template>", "<frameset>", "<title>"].contains(&unit) {
                assert!(all_text(&tree).ends_with("end"), "{unit}");
            }
            let _ = content(&tree, &mut work);
        }
    }

    #[test]
    fn searches_without_end_run_out_of_work() {
        let html = format!("{}{}", "<b>".repeat(600), "</x>".repeat(300_000));
        let fault = parsed(&html).expect_err("each end tag looks at 500 open elements");
        assert_eq!((fault.rule(), fault.threshold()), ("too_much_work", ExtractConfig::default().max_work as f64));
        assert!(fault.value() > fault.threshold());
    }

    /// Comparing each attribute with all before it would take minutes here.
    #[test]
    fn a_tag_of_a_megabyte_of_attributes_is_linear() {
        let attributes: String = (0..100_000).map(|i| format!(" a{i}='>'")).collect();
        assert_eq!(all_text(&tree(&format!("<p{attributes} class=x>end"))), "end");
        let repeated = tree(&format!("<p{}>end", " class=x".repeat(100_000)));
        assert_eq!((all_text(&repeated).as_str(), repeated.attrs.len()), ("end", 1));
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
    fn misnested_markup_loses_nothing() {
        assert_eq!(all_text(&tree("<b>1<p>2</b>3</p>4")), "1234");
        assert_eq!(all_text(&tree("<table>1<tr><td>2</td></tr>3</table>4")), "1234");
        assert_eq!(all_text(&tree("<p>a<script>b</script>c<style>d</style>")), "ac");
    }
}
