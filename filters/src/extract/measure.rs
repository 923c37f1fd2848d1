//! How much text, link text and prose each part of a page holds.
//!
//! In: the flat tree and the subtrees left out so far. Out: [`Sums`], running totals by node index, so that the amount
//! under any node is a difference of two entries. Bytes stand for information: one ideograph (3 bytes) says about as much
//! as three Latin letters, so one set of thresholds serves all scripts. What follows from the amounts is left to `score`.
//! Background: Kohlschütter et al. 2010, "Boilerplate detection using shallow text features" (link and text density).

use std::ops::Range;

use super::ExtractFault;
use super::dom::{Attr, Tree};
use super::tag::Tag;
use super::work::Work;

/// A block with this many bytes without white space counts as prose, about ten words.
const PROSE_BYTES: u32 = 60;

/// How much more a byte of prose weighs than a byte of a short block.
const PROSE_WEIGHT: u32 = 4;

/// Amounts under one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount {
    /// Bytes that are not white space.
    pub(super) text: f64,
    /// Those of them inside links.
    pub(super) link: f64,
    /// Bytes outside links in blocks that are not mostly links; prose counts [`PROSE_WEIGHT`] times.
    pub(super) weight: f64,
    /// Number of links.
    pub(super) links: f64,
}

/// Running totals before each node index; one entry more than there are nodes.
pub(super) struct Sums(Vec<[u32; 4]>);

impl Sums {
    /// Amounts over a range of nodes, usually `tree.subtree(at)`.
    pub(super) fn of(&self, range: Range<usize>) -> Amount {
        let (from, to) = (self.0[range.start], self.0[range.end]);
        let [text, link, weight, links] = std::array::from_fn(|i| f64::from(to[i].wrapping_sub(from[i])));
        Amount { text, link, weight, links }
    }
}

/// What can be known about each node once, whatever is left out later.
pub(super) struct Measures<'a> {
    tree: &'a Tree,
    /// Bytes of a text node that are not white space.
    bytes: Vec<u32>,
    /// True for links, and for those among them that are entries of a listing.
    links: Vec<(bool, bool)>,
    /// Nearest block at or above the node.
    blocks: Vec<u32>,
    /// True for blocks that hold other blocks.
    holds_blocks: Vec<bool>,
}

impl<'a> Measures<'a> {
    /// Looks at every node.
    pub(super) fn new(tree: &'a Tree, work: &mut Work) -> Result<Self, ExtractFault> {
        let n = tree.nodes.len();
        let mut measures = Self {
            tree,
            bytes: vec![0; n],
            links: vec![(false, false); n],
            blocks: vec![0; n],
            holds_blocks: vec![false; n],
        };
        for (at, node) in tree.nodes.iter().enumerate() {
            let above = measures.blocks[node.parent as usize];
            measures.blocks[at] = if node.tag.is_block() { at as u32 } else { above };
            measures.holds_blocks[above as usize] |= node.tag.is_block();
            if node.tag == Tag::Text {
                measures.bytes[at] = tree.text(at).bytes().filter(|byte| *byte > b' ').count() as u32;
            } else if node.tag == Tag::A && tree.attr(at, Attr::Href).is_some() {
                work.charge(tree.subtree(at).len())?;
                measures.links[at] = (true, is_card(tree, at));
            }
        }
        Ok(measures)
    }

    /// True for a block without blocks inside.
    pub(super) fn is_leaf(&self, at: usize) -> bool {
        self.tree.nodes[at].tag.is_block() && !self.holds_blocks[at]
    }

    /// Bytes of text under a node that are not white space, left out or not.
    pub(super) fn bytes(&self, at: usize) -> f64 {
        f64::from(self.bytes[self.tree.subtree(at)].iter().sum::<u32>())
    }

    /// Text and link bytes directly in each block, of what is not left out.
    pub(super) fn direct(&self, dropped: &[bool], listing: bool) -> Vec<(u32, u32)> {
        let mut blocks = vec![(0_u32, 0_u32); self.tree.nodes.len()];
        self.visit(dropped, listing, |at, in_link| {
            let block = &mut blocks[self.blocks[at] as usize];
            block.0 += self.bytes[at];
            block.1 += if in_link { self.bytes[at] } else { 0 };
        });
        blocks
    }

    /// Totals over the nodes that are not left out; in a `listing`, cards are content and not links.
    pub(super) fn sums(&self, dropped: &[bool], listing: bool) -> Sums {
        let n = self.tree.nodes.len();
        let mut state = vec![Seen::LeftOut; n];
        let mut blocks = vec![(0_u32, 0_u32); n]; // text and link bytes directly in each block
        self.visit(dropped, listing, |at, in_link| {
            state[at] = if in_link { Seen::Link } else { Seen::Plain };
            let block = &mut blocks[self.blocks[at] as usize];
            block.0 += self.bytes[at];
            block.1 += if in_link { self.bytes[at] } else { 0 };
        });
        let mut totals = vec![[0_u32; 4]; n + 1];
        for at in 0..n {
            let mut total = totals[at];
            let bytes = self.bytes[at];
            match state[at] {
                Seen::LeftOut => {}
                Seen::Link => {
                    total[0] += bytes;
                    total[1] += bytes;
                    total[3] += u32::from(self.links[at].0);
                }
                Seen::Plain => {
                    let owner = self.blocks[at] as usize;
                    total[0] += bytes;
                    total[2] = total[2].wrapping_add(bytes * self.byte_weight(owner, blocks[owner]));
                }
            }
            totals[at + 1] = total;
        }
        Sums(totals)
    }

    /// Calls `visit(node, is inside a link)` for every node that is not left out.
    fn visit(&self, dropped: &[bool], listing: bool, mut visit: impl FnMut(usize, bool)) {
        let (mut at, mut link_end) = (0, 0);
        while at < self.tree.nodes.len() {
            let end = self.tree.nodes[at].end as usize;
            if dropped[at] {
                at = end;
                continue;
            }
            let (is_link, is_card) = self.links[at];
            if is_link && !(listing && is_card) {
                link_end = link_end.max(end);
            }
            visit(at, at < link_end);
            at += 1;
        }
    }

    fn byte_weight(&self, block: usize, (text, link): (u32, u32)) -> u32 {
        let tag = self.tree.nodes[block].tag;
        if link * 2 > text {
            0
        } else if text >= PROSE_BYTES || tag == Tag::P || tag.is_preformatted() {
            PROSE_WEIGHT
        } else {
            1
        }
    }
}

#[derive(Clone, Copy)]
enum Seen {
    LeftOut,
    Link,
    Plain,
}

/// True for a link around a heading or paragraph, or inside a heading: an entry of a listing, not navigation.
fn is_card(tree: &Tree, at: usize) -> bool {
    let around = |n: usize| tree.nodes[n].tag.heading_level().is_some() || tree.nodes[n].tag == Tag::P;
    let parent = tree.nodes[at].parent as usize;
    tree.nodes[parent].tag.heading_level().is_some() || tree.subtree(at).skip(1).any(around)
}
