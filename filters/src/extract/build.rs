//! Tags and text to a tree.
//!
//! In: calls of the tokeniser. Out: a [`Tree`], built in document order. Missing end tags, misplaced table parts and a
//! missing head or body are repaired as the WHATWG tree builder repairs them, as far as a reader of text can tell. Where
//! that one moves nodes (formatting that crosses blocks, text between table rows) this one leaves them in place, which
//! keeps the order of the text as written and makes the array final as it grows. Start tags deeper than the cap are
//! dropped, as in browsers; the text in them stays. Every search through the open elements is charged as work.
//! Spec: WHATWG HTML "tree construction".

use super::ExtractFault;
use super::dom::{Attr, Node, Tree};
use super::names::pack;
use super::tag::{TAG_COUNT, Tag};
use super::token::decode_into;
use super::work::Work;

/// Longest script of linked data that is kept, in bytes; whole catalogues say nothing about one page.
const MAX_JSON_BYTES: usize = 1 << 20;

/// Dropped tags are matched with this many names; a longer search would be the quadratic one.
const DROPPED_SEARCHED: usize = 64;

/// HTML inside an SVG picture.
const FOREIGN_OBJECT: u128 = pack(b"foreignobject");

/// An open element.
struct Open {
    node: u32,
    tag: Tag,
    key: u128,
    /// Its end tag came while a block inside was open: ends with that block.
    ending: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    Head,
    AfterHead,
    Body,
}

/// A tree under construction.
pub(super) struct Builder<'a> {
    tree: Tree,
    work: &'a mut Work,
    max_depth: usize,
    stack: Vec<Open>,
    /// Open elements of each tag.
    open: [u16; TAG_COUNT],
    foreign_objects: usize,
    place: Place,
    /// Names of start tags dropped for their depth that are still open.
    dropped: Vec<u128>,
    /// First attribute of the tag being read, and which attributes it has.
    attrs_from: usize,
    attrs_seen: u32,
    /// No text since the last line break: white space does not show.
    at_break: bool,
}

impl<'a> Builder<'a> {
    /// An empty page; `bytes` is the size of its markup.
    pub(super) fn new(bytes: usize, max_depth: usize, work: &'a mut Work) -> Self {
        let mut tree = Tree::default();
        tree.nodes.reserve(bytes / 48);
        tree.text.reserve(bytes / 6);
        tree.values.reserve(bytes / 6);
        tree.attrs.reserve(bytes / 64);
        tree.nodes.push(Node { tag: Tag::Other, parent: 0, end: 1, span: (0, 0) });
        Self {
            tree,
            work,
            max_depth: max_depth.max(2), // the root and the body
            stack: Vec::new(),
            open: [0; TAG_COUNT],
            foreign_objects: 0,
            place: Place::Start,
            dropped: Vec::new(),
            attrs_from: 0,
            attrs_seen: 0,
            at_break: true,
        }
    }

    /// Nodes made so far.
    pub(super) fn node_count(&self) -> usize {
        self.tree.nodes.len()
    }

    /// False once all allowed work is done.
    pub(super) fn may_go_on(&self) -> bool {
        self.work.check().is_ok()
    }

    /// The finished tree.
    pub(super) fn finish(mut self) -> Result<Tree, ExtractFault> {
        self.work.check()?;
        if self.place != Place::Body {
            self.open_body();
        }
        self.pop_to(0);
        self.tree.nodes[0].end = self.tree.nodes.len() as u32;
        Ok(self.tree)
    }

    /// True inside SVG and MathML, where CDATA sections are text and `/>` ends an element.
    pub(super) fn in_foreign(&self) -> bool {
        self.is_open(Tag::Svg) || self.is_open(Tag::Math)
    }

    /// Text as written in the markup.
    pub(super) fn text(&mut self, raw: &str, has_references: bool) {
        if self.is_open(Tag::Svg) {
            return;
        }
        let verbatim = self.is_open(Tag::Pre) || self.is_open(Tag::Listing) || self.is_open(Tag::Plaintext);
        let blank = raw.bytes().all(|byte| matches!(byte, b' ' | b'\n' | b'\t' | b'\x0c'));
        if blank && !verbatim {
            if !self.at_break && self.place == Place::Body {
                self.add_text(" ", false);
            }
            return;
        }
        if self.place != Place::Body && !self.is_open(Tag::Noscript) && !self.is_open(Tag::Template) {
            self.open_body();
        }
        self.at_break = false;
        self.add_text(raw, has_references);
    }

    /// The whole content of an element without markup inside.
    pub(super) fn raw_text(&mut self, tag: Tag, raw: &str) {
        match tag {
            Tag::Title | Tag::Xmp => {
                let (parent, from) = (self.tree.nodes.len() as u32 - 1, self.tree.text.len() as u32);
                if tag == Tag::Title {
                    decode_into(raw, false, &mut self.tree.text);
                } else {
                    self.tree.text.push_str(raw);
                }
                let span = (from, self.tree.text.len() as u32);
                self.tree.nodes.push(Node { tag: Tag::Text, parent, end: parent + 2, span });
                self.tree.nodes[parent as usize].end += 1;
            }
            Tag::Script if raw.len() <= MAX_JSON_BYTES => {
                let at = self.tree.nodes.len() - 1;
                let kind = self.tree.attr(at, Attr::Type).unwrap_or("");
                if kind.trim().get(..19).is_some_and(|kind| kind.eq_ignore_ascii_case("application/ld+json")) {
                    let from = self.tree.values.len() as u32;
                    self.tree.values.push_str(raw);
                    self.tree.json.push((from, self.tree.values.len() as u32));
                }
            }
            _ => {}
        }
    }

    /// A tag begins; attributes may follow.
    pub(super) fn begin_tag(&mut self) {
        self.attrs_from = self.tree.attrs.len();
        self.attrs_seen = 0;
    }

    /// An attribute of the tag begun last; the first of each name counts.
    pub(super) fn attribute(&mut self, attr: Attr, raw: &str) {
        let bit = 1 << attr as u32;
        if self.attrs_seen & bit != 0 {
            return;
        }
        self.attrs_seen |= bit;
        let from = self.tree.values.len() as u32;
        decode_into(raw, true, &mut self.tree.values);
        self.tree.attrs.push((attr, (from, self.tree.values.len() as u32)));
    }

    /// The start tag begun last is complete; says how the tokeniser goes on: with the tag whose raw text follows, if any.
    pub(super) fn start(&mut self, key: u128, self_closing: bool) -> Option<Tag> {
        self.work.add(1);
        let tag = Tag::of(key);
        let foreign = self.in_foreign();
        let raw = tag.is_raw_text() && !self.is_open(Tag::Svg);
        if foreign {
            self.leave_foreign(tag);
        }
        if !self.find_place(tag) || !self.make_room(tag) {
            self.tree.attrs.truncate(self.attrs_from);
            return raw.then_some(Tag::Other);
        }
        if tag.is_block() || tag == Tag::Br {
            self.at_break = true;
        }
        if raw || tag.is_void() || (self_closing && foreign) {
            self.push_node(tag);
            return raw.then_some(tag);
        }
        if self.stack.len() >= self.max_depth {
            self.tree.attrs.truncate(self.attrs_from);
            if !self_closing {
                self.dropped.push(key);
            }
            return None;
        }
        self.push_open(tag, key);
        None
    }

    /// An end tag.
    pub(super) fn end(&mut self, key: u128) {
        self.work.add(1);
        let tag = Tag::of(key);
        if !self.dropped.is_empty() {
            self.work.add(self.dropped.len().min(DROPPED_SEARCHED));
            let searched = self.dropped.iter().rev().take(DROPPED_SEARCHED);
            if let Some(back) = searched.into_iter().position(|name| *name == key) {
                self.dropped.truncate(self.dropped.len() - 1 - back);
                return;
            }
        }
        if tag.is_block() {
            self.at_break = true;
        }
        match tag {
            Tag::Html | Tag::Body => {}
            Tag::Br => self.void_node(Tag::Br),
            Tag::Head if self.place == Place::Head => {
                self.pop_to(1);
                self.place = Place::AfterHead;
            }
            Tag::P if self.paragraph().is_none() && self.place == Place::Body => self.void_node(Tag::P),
            Tag::A => self.end_link(),
            _ if tag != Tag::Other && self.open[tag as usize] == 0 && tag.heading_level().is_none() => {}
            _ => {
                if let Some(at) = self.find_open(tag, key) {
                    self.pop_to(at);
                }
            }
        }
    }

    /// Opens head and body where they belong; false if the tag is to be ignored.
    fn find_place(&mut self, tag: Tag) -> bool {
        if self.stack.is_empty() {
            if tag == Tag::Html {
                self.push_open(Tag::Html, pack(b"html"));
                return false;
            }
            self.push_implied(Tag::Html, pack(b"html"));
        }
        if self.place == Place::Body {
            return !matches!(tag, Tag::Html | Tag::Head | Tag::Body | Tag::Frameset);
        }
        match tag {
            Tag::Html => return false,
            Tag::Head if self.place == Place::Start => {
                self.place = Place::Head;
                self.push_open(Tag::Head, pack(b"head"));
                return false;
            }
            Tag::Head => return false,
            Tag::Body | Tag::Frameset => {
                self.pop_to(1);
                self.place = Place::Body;
                self.push_open(Tag::Body, pack(b"body"));
                return false;
            }
            _ if tag.is_in_head() || self.is_open(Tag::Noscript) || self.is_open(Tag::Template) => {
                if self.place == Place::Start {
                    self.place = Place::Head;
                    self.push_implied(Tag::Head, pack(b"head"));
                }
            }
            _ => self.open_body(),
        }
        true
    }

    /// Opens a body nobody wrote.
    fn open_body(&mut self) {
        if self.stack.is_empty() {
            self.push_implied(Tag::Html, pack(b"html"));
        }
        self.pop_to(1);
        self.place = Place::Body;
        self.push_implied(Tag::Body, pack(b"body"));
    }

    /// Blocks end a picture or formula that was left open.
    fn leave_foreign(&mut self, tag: Tag) {
        if self.foreign_objects == 0 && (tag.is_block() || matches!(tag, Tag::Br | Tag::Img | Tag::Code)) {
            let at = self.stack.iter().position(|open| matches!(open.tag, Tag::Svg | Tag::Math));
            self.work.add(self.stack.len());
            self.pop_to(at.unwrap_or(self.stack.len()));
        }
    }

    /// Ends what may not hold this tag; false if the tag is to be ignored.
    fn make_room(&mut self, tag: Tag) -> bool {
        match tag {
            Tag::Li => self.end_item(|open| open == Tag::Li),
            Tag::Dd | Tag::Dt => self.end_item(|open| matches!(open, Tag::Dd | Tag::Dt)),
            _ => {}
        }
        if tag.ends_paragraph()
            && let Some(at) = self.paragraph()
        {
            self.pop_to(at);
        }
        let top = self.stack.last().map_or(Tag::Other, |open| open.tag);
        match tag {
            _ if tag.heading_level().is_some() && top.heading_level().is_some() => self.pop_to(self.stack.len() - 1),
            Tag::A if self.is_open(Tag::A) => self.end_link(),
            Tag::Button if self.is_open(Tag::Button) => self.end_open(Tag::Button),
            Tag::Form if self.is_open(Tag::Form) => return false,
            Tag::Select if self.is_open(Tag::Select) => {
                self.end_open(Tag::Select);
                return false;
            }
            Tag::Option if top == Tag::Option => self.pop_to(self.stack.len() - 1),
            Tag::Optgroup if self.is_open(Tag::Optgroup) => self.end_open(Tag::Optgroup),
            Tag::Td | Tag::Th | Tag::Tr | Tag::Tbody | Tag::Thead | Tag::Tfoot | Tag::Caption | Tag::Colgroup => {
                return self.make_room_in_table(tag);
            }
            _ => {}
        }
        true
    }

    /// Goes back to the part of the table the tag belongs to; false outside tables.
    fn make_room_in_table(&mut self, tag: Tag) -> bool {
        if !self.is_open(Tag::Table) {
            return false;
        }
        let is_cell = matches!(tag, Tag::Td | Tag::Th);
        let holds = |open: Tag| match open {
            Tag::Table => true,
            Tag::Tbody | Tag::Thead | Tag::Tfoot => is_cell || tag == Tag::Tr,
            Tag::Tr => is_cell,
            _ => false,
        };
        let found = self.stack.iter().rposition(|open| holds(open.tag));
        let at = found.expect("a table is open and holds every part of one");
        self.work.add(self.stack.len() - at);
        self.pop_to(at + 1);
        if is_cell && self.stack.last().is_none_or(|open| open.tag != Tag::Tr) && self.stack.len() < self.max_depth {
            self.push_implied(Tag::Tr, pack(b"tr"));
        }
        true
    }

    /// Index of the open paragraph that a block ends.
    fn paragraph(&mut self) -> Option<usize> {
        if !self.is_open(Tag::P) {
            return None;
        }
        self.search(|open| open == Tag::P, |open| open.is_scope() || open == Tag::Button)
    }

    /// Ends the list item or definition the new one follows.
    fn end_item(&mut self, wanted: impl Fn(Tag) -> bool) {
        let blocks = |open: Tag| open.is_special() && !matches!(open, Tag::Address | Tag::Div | Tag::P);
        if let Some(at) = self.search(wanted, blocks) {
            self.pop_to(at);
        }
    }

    /// Ends the open link, or lets it end with the block open inside it.
    fn end_link(&mut self) {
        let mut crosses = false;
        for at in (0..self.stack.len()).rev() {
            self.work.add(1);
            let open = &mut self.stack[at];
            if open.tag == Tag::A && !open.ending {
                if crosses {
                    open.ending = true;
                } else {
                    self.pop_to(at);
                }
                return;
            }
            if open.tag.is_scope() {
                return;
            }
            crosses |= open.tag.is_block();
        }
    }

    /// Ends the innermost open element of this tag, if nothing keeps it from being reached.
    fn end_open(&mut self, tag: Tag) {
        if let Some(at) = self.search(|open| open == tag, Tag::is_scope) {
            self.pop_to(at);
        }
    }

    /// Index of the open element that an end tag ends.
    fn find_open(&mut self, tag: Tag, key: u128) -> Option<usize> {
        match tag {
            Tag::Td | Tag::Th | Tag::Tr | Tag::Tbody | Tag::Thead | Tag::Tfoot | Tag::Caption => {
                self.search(|open| open == tag, |open| open == Tag::Table)
            }
            Tag::Table | Tag::Template => self.search(|open| open == tag, |open| open == Tag::Template),
            Tag::Li => self.search(|open| open == tag, |open| open.is_scope() || matches!(open, Tag::Ol | Tag::Ul)),
            _ if tag.heading_level().is_some() => self.search(|open| open.heading_level().is_some(), Tag::is_scope),
            _ if tag.is_special() => self.search(|open| open == tag, Tag::is_scope),
            _ => {
                for (steps, at) in (0..self.stack.len()).rev().enumerate() {
                    let open = &self.stack[at];
                    if open.key == key || open.tag.is_special() {
                        let found = open.key == key;
                        self.work.add(steps);
                        return found.then_some(at);
                    }
                }
                self.work.add(self.stack.len());
                None
            }
        }
    }

    /// Innermost open element that is wanted, unless one that blocks the way comes first.
    fn search(&mut self, wanted: impl Fn(Tag) -> bool, blocks: impl Fn(Tag) -> bool) -> Option<usize> {
        let found = self.stack.iter().rposition(|open| wanted(open.tag) || blocks(open.tag));
        self.work.add(self.stack.len() - found.unwrap_or(0));
        found.filter(|&at| wanted(self.stack[at].tag))
    }

    fn is_open(&self, tag: Tag) -> bool {
        self.open[tag as usize] > 0
    }

    /// Adds text to the innermost open element, joined to text that ends there.
    fn add_text(&mut self, raw: &str, has_references: bool) {
        let parent = self.stack.last().map_or(0, |open| open.node);
        let from = self.tree.text.len() as u32;
        if has_references {
            decode_into(raw, false, &mut self.tree.text);
        } else {
            self.tree.text.push_str(raw);
        }
        let to = self.tree.text.len() as u32;
        let at = self.tree.nodes.len() as u32;
        let last = self.tree.nodes.last_mut().expect("the document is the first node");
        if last.tag == Tag::Text && last.parent == parent && last.span.1 == from {
            last.span.1 = to;
        } else {
            self.tree.nodes.push(Node { tag: Tag::Text, parent, end: at + 1, span: (from, to) });
        }
    }

    /// Adds an element with the attributes read since `begin_tag`.
    fn push_node(&mut self, tag: Tag) -> u32 {
        let at = self.tree.nodes.len() as u32;
        let parent = self.stack.last().map_or(0, |open| open.node);
        let span = (self.attrs_from as u32, self.tree.attrs.len() as u32);
        self.attrs_from = self.tree.attrs.len();
        self.tree.nodes.push(Node { tag, parent, end: at + 1, span });
        at
    }

    fn push_open(&mut self, tag: Tag, key: u128) {
        let node = self.push_node(tag);
        self.open[tag as usize] += 1;
        self.foreign_objects += usize::from(key == FOREIGN_OBJECT);
        self.stack.push(Open { node, tag, key, ending: false });
    }

    /// Opens an element nobody wrote, before the one whose attributes are being read.
    fn push_implied(&mut self, tag: Tag, key: u128) {
        let attrs_from = self.attrs_from;
        self.attrs_from = self.tree.attrs.len();
        self.push_open(tag, key);
        self.attrs_from = attrs_from;
    }

    /// Adds an empty element that an end tag stands for.
    fn void_node(&mut self, tag: Tag) {
        if self.place == Place::Body {
            self.begin_tag();
            self.push_node(tag);
            self.at_break = true;
        }
    }

    /// Ends all open elements from index `at` on.
    fn pop_to(&mut self, at: usize) {
        let end = self.tree.nodes.len() as u32;
        let mut popped = false;
        while self.stack.len() > at || (popped && self.stack.last().is_some_and(|open| open.ending)) {
            let Some(open) = self.stack.pop() else { break };
            self.open[open.tag as usize] -= 1;
            self.foreign_objects -= usize::from(open.key == FOREIGN_OBJECT);
            self.tree.nodes[open.node as usize].end = end;
            self.at_break |= open.tag.is_block();
            popped = true;
        }
        if popped {
            self.dropped.clear();
        }
    }
}
