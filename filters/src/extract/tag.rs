//! Element names that extraction treats differently, as one byte each.
//!
//! In: an element's name. Out: a [`Tag`] and the classes of tags the tree builder, the scorer and the renderer ask about.
//! What each class means for a page is decided by them. Spec: WHATWG HTML, sections 13.1 and 13.2.

use super::names::Lookup;

macro_rules! tags {
    ($($name:literal => $tag:ident $(: $class:ident $(+ $more:ident)*)?,)*) => {
        /// An element name; everything without a rule of its own is `Other`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Tag { $($tag,)* Text, Other }

        const NAMES: &[&str] = &[$($name),*];
        const TAGS: &[Tag] = &[$(Tag::$tag),*];
        const CLASSES: [u16; TAGS.len() + 2] = [$(0 $(| $class $(| $more)*)?,)* 0, 0];
    };
}

/// Starts and ends a line.
const BLOCK: u16 = 1;
/// Never holds text a reader sees as part of the page.
const UNSEEN: u16 = 2;
/// A control a reader operates rather than reads.
const CONTROL: u16 = 4;
/// Has no content and no end tag.
const VOID: u16 = 8;
/// Content is text without markup, up to the end tag.
const RAW: u16 = 16;
/// Stops the search of a stray end tag for an inline element.
const SPECIAL: u16 = 32;
/// A start tag of this closes an open paragraph.
const ENDS_P: u16 = 64;
/// No end tag outside reaches an element inside.
const SCOPE: u16 = 128;
/// Belongs into the head of a page.
const IN_HEAD: u16 = 256;
/// White space inside is content.
const VERBATIM: u16 = 512;

tags! {
    "a" => A, "address" => Address: BLOCK + SPECIAL + ENDS_P, "annotation" => Annotation: UNSEEN,
    "annotation-xml" => AnnotationXml: UNSEEN, "area" => Area: VOID + SPECIAL,
    "article" => Article: BLOCK + SPECIAL + ENDS_P, "aside" => Aside: BLOCK + SPECIAL + ENDS_P, "audio" => Audio: UNSEEN,
    "base" => Base: UNSEEN + VOID + SPECIAL + IN_HEAD, "basefont" => Basefont: UNSEEN + VOID,
    "blockquote" => Blockquote: BLOCK + SPECIAL + ENDS_P,
    "body" => Body: BLOCK + SPECIAL, "br" => Br: VOID + SPECIAL, "button" => Button: CONTROL + SPECIAL,
    "canvas" => Canvas: UNSEEN, "caption" => Caption: BLOCK + SPECIAL + SCOPE, "center" => Center: BLOCK + SPECIAL + ENDS_P,
    "code" => Code, "col" => Col: VOID + SPECIAL, "colgroup" => Colgroup: SPECIAL, "datalist" => Datalist: UNSEEN,
    "dd" => Dd: BLOCK + SPECIAL + ENDS_P, "details" => Details: BLOCK + SPECIAL + ENDS_P,
    "dialog" => Dialog: CONTROL + BLOCK + ENDS_P + SPECIAL, "dir" => Dir: BLOCK + SPECIAL + ENDS_P,
    "div" => Div: BLOCK + SPECIAL + ENDS_P, "dl" => Dl: BLOCK + SPECIAL + ENDS_P, "dt" => Dt: BLOCK + SPECIAL + ENDS_P,
    "embed" => Embed: VOID + SPECIAL, "fieldset" => Fieldset: BLOCK + SPECIAL + ENDS_P,
    "figcaption" => Figcaption: BLOCK + SPECIAL + ENDS_P, "figure" => Figure: BLOCK + SPECIAL + ENDS_P,
    "footer" => Footer: BLOCK + SPECIAL + ENDS_P, "form" => Form: BLOCK + SPECIAL + ENDS_P, "frame" => Frame: VOID + SPECIAL,
    "frameset" => Frameset: BLOCK + SPECIAL, "h1" => H1: BLOCK + SPECIAL + ENDS_P, "h2" => H2: BLOCK + SPECIAL + ENDS_P,
    "h3" => H3: BLOCK + SPECIAL + ENDS_P, "h4" => H4: BLOCK + SPECIAL + ENDS_P, "h5" => H5: BLOCK + SPECIAL + ENDS_P,
    "h6" => H6: BLOCK + SPECIAL + ENDS_P, "head" => Head: UNSEEN + SPECIAL, "header" => Header: BLOCK + SPECIAL + ENDS_P,
    "hgroup" => Hgroup: BLOCK + SPECIAL + ENDS_P, "hr" => Hr: BLOCK + VOID + SPECIAL + ENDS_P,
    "html" => Html: BLOCK + SPECIAL + SCOPE, "iframe" => Iframe: UNSEEN + RAW + SPECIAL, "img" => Img: VOID + SPECIAL,
    "input" => Input: CONTROL + VOID + SPECIAL, "keygen" => Keygen: VOID + SPECIAL, "label" => Label,
    "legend" => Legend: BLOCK, "li" => Li: BLOCK + SPECIAL + ENDS_P,
    "link" => Link: UNSEEN + VOID + SPECIAL + IN_HEAD, "listing" => Listing: BLOCK + SPECIAL + ENDS_P + VERBATIM,
    "main" => Main: BLOCK + SPECIAL + ENDS_P, "map" => Map: UNSEEN, "math" => Math, "menu" => Menu: BLOCK + SPECIAL + ENDS_P,
    "meta" => Meta: UNSEEN + VOID + SPECIAL + IN_HEAD, "meter" => Meter: UNSEEN, "nav" => Nav: BLOCK + SPECIAL + ENDS_P,
    "noembed" => Noembed: UNSEEN + RAW + SPECIAL, "noframes" => Noframes: UNSEEN + RAW + SPECIAL + IN_HEAD,
    "noscript" => Noscript: UNSEEN + SPECIAL + IN_HEAD, "object" => Object: UNSEEN + SPECIAL + SCOPE,
    "ol" => Ol: BLOCK + SPECIAL + ENDS_P, "optgroup" => Optgroup: CONTROL, "option" => Option: CONTROL,
    "p" => P: BLOCK + SPECIAL + ENDS_P, "param" => Param: VOID + SPECIAL, "picture" => Picture,
    "plaintext" => Plaintext: BLOCK + SPECIAL + ENDS_P + VERBATIM, "pre" => Pre: BLOCK + SPECIAL + ENDS_P + VERBATIM,
    "progress" => Progress: UNSEEN, "rp" => Rp: UNSEEN, "rt" => Rt: UNSEEN,
    "script" => Script: UNSEEN + RAW + SPECIAL + IN_HEAD, "search" => Search: CONTROL + BLOCK + SPECIAL + ENDS_P,
    "section" => Section: BLOCK + SPECIAL + ENDS_P, "select" => Select: CONTROL + SPECIAL, "source" => Source: VOID + SPECIAL,
    "style" => Style: UNSEEN + RAW + SPECIAL + IN_HEAD, "summary" => Summary: BLOCK + SPECIAL + ENDS_P, "svg" => Svg: UNSEEN,
    "table" => Table: BLOCK + SPECIAL + ENDS_P + SCOPE, "tbody" => Tbody: BLOCK + SPECIAL, "td" => Td: BLOCK + SPECIAL + SCOPE,
    "template" => Template: UNSEEN + SPECIAL + SCOPE + IN_HEAD, "textarea" => Textarea: CONTROL + RAW + SPECIAL,
    "tfoot" => Tfoot: BLOCK + SPECIAL, "th" => Th: BLOCK + SPECIAL + SCOPE, "thead" => Thead: BLOCK + SPECIAL, "time" => Time,
    "title" => Title: UNSEEN + RAW + SPECIAL + IN_HEAD, "tr" => Tr: BLOCK + SPECIAL, "track" => Track: VOID + SPECIAL,
    "ul" => Ul: BLOCK + SPECIAL + ENDS_P, "video" => Video: UNSEEN, "wbr" => Wbr: VOID + SPECIAL,
    "xmp" => Xmp: BLOCK + RAW + SPECIAL + ENDS_P + VERBATIM,
}

static LOOKUP: Lookup = Lookup::new(NAMES);

/// Number of tags, `Text` and `Other` included.
pub(super) const TAG_COUNT: usize = CLASSES.len();

impl Tag {
    /// Tag of a packed name.
    pub(super) fn of(key: u128) -> Self {
        LOOKUP.find(key).map_or(Self::Other, |i| TAGS[i])
    }

    const fn is(self, class: u16) -> bool {
        CLASSES[self as usize] & class != 0
    }

    /// Never holds text a reader sees as part of the page.
    pub(super) const fn is_invisible(self) -> bool {
        self.is(UNSEEN)
    }

    /// Controls a reader operates rather than reads.
    pub(super) const fn is_control(self) -> bool {
        self.is(CONTROL)
    }

    /// Starts and ends a line.
    pub(super) const fn is_block(self) -> bool {
        self.is(BLOCK)
    }

    /// Has no content and no end tag.
    pub(super) const fn is_void(self) -> bool {
        self.is(VOID)
    }

    /// Content is text without markup, up to the end tag.
    pub(super) const fn is_raw_text(self) -> bool {
        self.is(RAW)
    }

    /// Stops the search of a stray end tag for an inline element.
    pub(super) const fn is_special(self) -> bool {
        self.is(SPECIAL)
    }

    /// A start tag of this closes an open paragraph.
    pub(super) const fn ends_paragraph(self) -> bool {
        self.is(ENDS_P)
    }

    /// No end tag outside reaches an element inside.
    pub(super) const fn is_scope(self) -> bool {
        self.is(SCOPE)
    }

    /// Belongs into the head of a page.
    pub(super) const fn is_in_head(self) -> bool {
        self.is(IN_HEAD)
    }

    /// White space inside is content.
    pub(super) const fn is_preformatted(self) -> bool {
        self.is(VERBATIM)
    }

    /// 1 to 6 for a heading.
    pub(super) const fn heading_level(self) -> Option<usize> {
        Some(match self {
            Self::H1 => 1,
            Self::H2 => 2,
            Self::H3 => 3,
            Self::H4 => 4,
            Self::H5 => 5,
            Self::H6 => 6,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::pack;
    use super::*;

    #[test]
    fn every_name_finds_its_tag() {
        for (name, tag) in NAMES.iter().zip(TAGS) {
            assert_eq!(Tag::of(pack(name.as_bytes())), *tag, "{name}");
        }
        for name in ["", "span", "text", "my-element", "表"] {
            assert_eq!(Tag::of(pack(name.as_bytes())), Tag::Other, "{name}");
        }
    }
}
