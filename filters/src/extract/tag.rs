//! Element names that extraction treats differently, as one byte each.
//!
//! In: an element's local name. Out: a [`Tag`] and the classes of tags the scorer and the renderer ask about.
//! What each class means for a page is decided by them.

macro_rules! tags {
    ($($name:literal => $tag:ident,)*) => {
        /// An element name; everything without a rule of its own is `Other`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Tag { Text, Other, $($tag,)* }

        impl Tag {
            pub(super) fn of(name: &str) -> Self {
                match name { $($name => Self::$tag,)* _ => Self::Other }
            }
        }
    };
}

tags! {
    "a" => A, "address" => Address, "annotation" => Annotation, "annotation-xml" => AnnotationXml, "article" => Article,
    "aside" => Aside, "audio" => Audio, "base" => Base, "blockquote" => Blockquote, "body" => Body, "br" => Br,
    "button" => Button, "canvas" => Canvas, "caption" => Caption, "center" => Center, "code" => Code,
    "datalist" => Datalist, "dd" => Dd, "details" => Details, "dialog" => Dialog, "div" => Div, "dl" => Dl, "dt" => Dt,
    "fieldset" => Fieldset, "figcaption" => Figcaption, "figure" => Figure, "footer" => Footer, "form" => Form,
    "frame" => Frame, "frameset" => Frameset, "h1" => H1, "h2" => H2, "h3" => H3, "h4" => H4, "h5" => H5, "h6" => H6,
    "head" => Head, "header" => Header, "hgroup" => Hgroup, "hr" => Hr, "html" => Html, "iframe" => Iframe, "img" => Img,
    "input" => Input, "label" => Label, "legend" => Legend, "li" => Li, "link" => Link, "listing" => Listing,
    "main" => Main, "map" => Map, "math" => Math, "menu" => Menu, "meta" => Meta, "meter" => Meter, "nav" => Nav,
    "noembed" => Noembed, "noframes" => Noframes, "noscript" => Noscript, "object" => Object, "ol" => Ol,
    "optgroup" => Optgroup, "option" => Option, "p" => P, "picture" => Picture, "plaintext" => Plaintext, "pre" => Pre,
    "progress" => Progress, "rp" => Rp, "rt" => Rt, "script" => Script, "search" => Search, "section" => Section,
    "select" => Select, "style" => Style, "summary" => Summary, "svg" => Svg, "table" => Table, "tbody" => Tbody,
    "td" => Td, "template" => Template, "textarea" => Textarea, "tfoot" => Tfoot, "th" => Th, "thead" => Thead,
    "title" => Title, "tr" => Tr, "ul" => Ul, "video" => Video, "xmp" => Xmp,
}

impl Tag {
    /// Never holds text a reader sees as part of the page.
    pub(super) fn is_invisible(self) -> bool {
        use Tag::*;
        matches!(
            self,
            Script
                | Style
                | Noscript
                | Template
                | Head
                | Title
                | Meta
                | Link
                | Base
                | Iframe
                | Object
                | Svg
                | Canvas
                | Audio
                | Video
                | Map
                | Noembed
                | Noframes
                | Datalist
                | Meter
                | Progress
                | Rp
                | Rt
                | Annotation
                | AnnotationXml
        )
    }

    /// Controls a reader operates rather than reads.
    pub(super) fn is_control(self) -> bool {
        use Tag::*;
        matches!(self, Button | Select | Option | Optgroup | Input | Textarea | Dialog | Search)
    }

    /// Starts and ends a line.
    pub(super) fn is_block(self) -> bool {
        use Tag::*;
        matches!(
            self,
            Address
                | Article
                | Aside
                | Blockquote
                | Body
                | Caption
                | Center
                | Dd
                | Details
                | Dialog
                | Div
                | Dl
                | Dt
                | Fieldset
                | Figcaption
                | Figure
                | Footer
                | Form
                | Frameset
                | H1
                | H2
                | H3
                | H4
                | H5
                | H6
                | Header
                | Hgroup
                | Hr
                | Html
                | Legend
                | Li
                | Listing
                | Main
                | Menu
                | Nav
                | Ol
                | P
                | Plaintext
                | Pre
                | Section
                | Summary
                | Table
                | Tbody
                | Td
                | Tfoot
                | Th
                | Thead
                | Tr
                | Ul
                | Xmp
                | Search
        )
    }

    /// 1 to 6 for a heading.
    pub(super) fn heading_level(self) -> Option<usize> {
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

    /// White space inside is content.
    pub(super) fn is_preformatted(self) -> bool {
        matches!(self, Self::Pre | Self::Listing | Self::Xmp | Self::Plaintext)
    }
}
