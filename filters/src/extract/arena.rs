//! The tree under construction.
//!
//! In: the calls of the tree builder of `html5ever`, which may attach, move and detach nodes. Out: a [`Tree`] in document order.
//! All nodes lie in one vector and know each other by index; siblings are linked lists, so that every call takes
//! constant time; text and attributes lie in two shared buffers. Limits are kept by `dom`.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

use html5ever::tendril::StrTendril;
use html5ever::tree_builder::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::{Attribute, ExpandedName, LocalName, QualName};

use super::dom::{Attr, Node, Tree};
use super::tag::Tag;

const NONE: u32 = u32::MAX;

/// What the tree builder holds of an element: its place in the arena and its name.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    at: u32,
    name: QualName,
}

#[derive(Debug)]
struct Linked {
    tag: Tag,
    depth: u16,
    parent: u32,
    first: u32,
    last: u32,
    next: u32,
    previous: u32,
    span: (u32, u32),
}

/// The tree under construction: siblings are linked lists, text and attributes lie in two shared buffers.
#[derive(Debug)]
struct Dom {
    nodes: Vec<Linked>,
    text: String,
    attrs: Vec<(Attr, StrTendril)>,
}

pub(super) struct Arena {
    dom: RefCell<Dom>,
    /// Depth of the element that received a node since this was last cleared (of the new element, if it was one).
    inserted_depth: Cell<Option<usize>>,
}

impl Default for Arena {
    fn default() -> Self {
        let mut dom = Dom { nodes: Vec::new(), text: String::new(), attrs: Vec::new() };
        dom.push(Tag::Other, (0, 0));
        Self { dom: RefCell::new(dom), inserted_depth: Cell::new(None) }
    }
}

impl Arena {
    /// Nodes made so far, attached or not.
    pub(super) fn node_count(&self) -> usize {
        self.dom.borrow().nodes.len()
    }

    /// Forgets the last insertion.
    pub(super) fn forget_depth(&self) {
        self.inserted_depth.set(None);
    }

    /// Depth of the element that received a node since `forget_depth` (of the new element, if it was one).
    pub(super) fn inserted_depth(&self) -> Option<usize> {
        self.inserted_depth.get()
    }

    /// The finished tree.
    pub(super) fn into_tree(self) -> Tree {
        self.dom.into_inner().flatten()
    }
}

impl Dom {
    fn push(&mut self, tag: Tag, span: (u32, u32)) -> u32 {
        let at = self.nodes.len() as u32;
        self.nodes.push(Linked {
            tag,
            depth: 0,
            parent: NONE,
            first: NONE,
            last: NONE,
            next: NONE,
            previous: NONE,
            span,
        });
        at
    }

    /// Links `child` under `parent`, before `sibling` or last.
    fn link(&mut self, parent: u32, child: u32, sibling: u32) {
        self.unlink(child);
        let previous =
            if sibling == NONE { self.nodes[parent as usize].last } else { self.nodes[sibling as usize].previous };
        let depth = self.nodes[parent as usize].depth.saturating_add(1);
        let node = &mut self.nodes[child as usize];
        (node.parent, node.previous, node.next, node.depth) = (parent, previous, sibling, depth);
        match previous {
            NONE => self.nodes[parent as usize].first = child,
            _ => self.nodes[previous as usize].next = child,
        }
        match sibling {
            NONE => self.nodes[parent as usize].last = child,
            _ => self.nodes[sibling as usize].previous = child,
        }
    }

    fn unlink(&mut self, child: u32) {
        let Linked { parent, previous, next, .. } = self.nodes[child as usize];
        if parent == NONE {
            return;
        }
        match previous {
            NONE => self.nodes[parent as usize].first = next,
            _ => self.nodes[previous as usize].next = next,
        }
        match next {
            NONE => self.nodes[parent as usize].last = previous,
            _ => self.nodes[next as usize].previous = previous,
        }
        let node = &mut self.nodes[child as usize];
        (node.parent, node.previous, node.next) = (NONE, NONE, NONE);
    }

    /// Adds text under `parent`, joined to a text node that ends where the buffer ends.
    fn add_text(&mut self, parent: u32, text: &str, sibling: u32) {
        let owner = &self.nodes[parent as usize];
        let unread = matches!(owner.tag, Tag::Style | Tag::Iframe | Tag::Svg | Tag::Textarea | Tag::Noframes);
        if unread || owner.tag == Tag::Script {
            return;
        }
        let previous = if sibling == NONE { owner.last } else { self.nodes[sibling as usize].previous };
        let start = self.text.len() as u32;
        self.text.push_str(text);
        let end = self.text.len() as u32;
        if previous != NONE {
            let node = &mut self.nodes[previous as usize];
            if node.tag == Tag::Text && node.span.1 == start {
                node.span.1 = end;
                return;
            }
        }
        let child = self.push(Tag::Text, (start, end));
        self.link(parent, child, sibling);
    }

    fn add(&mut self, parent: u32, child: NodeOrText<Handle>, sibling: u32) -> usize {
        match child {
            NodeOrText::AppendNode(node) => {
                self.link(parent, node.at, sibling);
                usize::from(self.nodes[node.at as usize].depth)
            }
            NodeOrText::AppendText(text) => {
                self.add_text(parent, &text, sibling);
                usize::from(self.nodes[parent as usize].depth)
            }
        }
    }

    /// Puts the nodes reachable from the document in pre-order.
    fn flatten(self) -> Tree {
        let mut nodes: Vec<Node> = Vec::with_capacity(self.nodes.len());
        let mut open: Vec<u32> = Vec::new(); // indices into `nodes`
        let mut at = 0;
        loop {
            let linked = &self.nodes[at as usize];
            let new = nodes.len() as u32;
            let parent = open.last().copied().unwrap_or(0);
            nodes.push(Node { tag: linked.tag, parent, end: new + 1, span: linked.span });
            if linked.first != NONE {
                open.push(new);
                at = linked.first;
                continue;
            }
            while at != 0 && self.nodes[at as usize].next == NONE {
                at = self.nodes[at as usize].parent;
                let done = open.pop().expect("every ancestor was opened on the way down");
                nodes[done as usize].end = nodes.len() as u32;
            }
            if at == 0 {
                break;
            }
            at = self.nodes[at as usize].next;
        }
        Tree { nodes, text: self.text, attrs: self.attrs }
    }
}

impl TreeSink for Arena {
    type Handle = Handle;
    type Output = ();
    type ElemName<'a> = ExpandedName<'a>;

    fn finish(self) {}

    fn parse_error(&self, _message: Cow<'static, str>) {}

    fn get_document(&self) -> Handle {
        Handle { at: 0, name: QualName::new(None, Default::default(), LocalName::default()) }
    }

    fn elem_name<'a>(&'a self, target: &'a Handle) -> ExpandedName<'a> {
        target.name.expanded()
    }

    fn create_element(&self, name: QualName, attrs: Vec<Attribute>, _flags: ElementFlags) -> Handle {
        let mut dom = self.dom.borrow_mut();
        let start = dom.attrs.len() as u32;
        let kept = attrs.into_iter().filter_map(|attr| Some((Attr::of(&attr.name.local)?, attr.value)));
        dom.attrs.extend(kept);
        let end = dom.attrs.len() as u32;
        Handle { at: dom.push(Tag::of(&name.local), (start, end)), name }
    }

    fn create_comment(&self, _text: StrTendril) -> Handle {
        self.create_element(
            QualName::new(None, Default::default(), LocalName::default()),
            Vec::new(),
            Default::default(),
        )
    }

    fn create_pi(&self, _target: StrTendril, data: StrTendril) -> Handle {
        self.create_comment(data)
    }

    fn append(&self, parent: &Handle, child: NodeOrText<Handle>) {
        let depth = self.dom.borrow_mut().add(parent.at, child, NONE);
        self.inserted_depth.set(Some(depth));
    }

    fn append_before_sibling(&self, sibling: &Handle, child: NodeOrText<Handle>) {
        let mut dom = self.dom.borrow_mut();
        let parent = dom.nodes[sibling.at as usize].parent;
        if parent != NONE {
            let depth = dom.add(parent, child, sibling.at);
            self.inserted_depth.set(Some(depth));
        }
    }

    fn append_based_on_parent_node(&self, element: &Handle, previous: &Handle, child: NodeOrText<Handle>) {
        if self.dom.borrow().nodes[element.at as usize].parent == NONE {
            self.append(previous, child);
        } else {
            self.append_before_sibling(element, child);
        }
    }

    fn append_doctype_to_document(&self, _name: StrTendril, _public: StrTendril, _system: StrTendril) {}

    /// The contents of a template hang under the template itself; templates are never rendered.
    fn get_template_contents(&self, target: &Handle) -> Handle {
        target.clone()
    }

    fn same_node(&self, a: &Handle, b: &Handle) -> bool {
        a.at == b.at
    }

    fn set_quirks_mode(&self, _mode: QuirksMode) {}

    /// A second `<html>` or `<body>` tag adds attributes to the first one, which then move to the end of the buffer.
    fn add_attrs_if_missing(&self, target: &Handle, attrs: Vec<Attribute>) {
        let mut dom = self.dom.borrow_mut();
        let (from, to) = dom.nodes[target.at as usize].span;
        let mut all = dom.attrs[from as usize..to as usize].to_vec();
        let had = all.len();
        for attr in attrs {
            if let Some(name) = Attr::of(&attr.name.local)
                && all.iter().all(|(known, _)| *known != name)
            {
                all.push((name, attr.value));
            }
        }
        if all.len() > had {
            let start = dom.attrs.len() as u32;
            dom.attrs.extend(all);
            dom.nodes[target.at as usize].span = (start, dom.attrs.len() as u32);
        }
    }

    fn remove_from_parent(&self, target: &Handle) {
        self.dom.borrow_mut().unlink(target.at);
    }

    fn reparent_children(&self, node: &Handle, new_parent: &Handle) {
        let mut dom = self.dom.borrow_mut();
        loop {
            match dom.nodes[node.at as usize].first {
                NONE => break,
                child => dom.link(new_parent.at, child, NONE),
            }
        }
    }
}
