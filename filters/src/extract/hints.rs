//! What class names, ids and roles say about an element.
//!
//! In: attributes of one element. Out: a [`Hint`], a set of bits: which kinds of boilerplate, or content, the names
//! suggest. A hint is a suspicion; `score` weighs it against how much of the page the element holds.
//! The words were chosen by hand and checked against the development pages of WCXB: in elements named with a word
//! of the boilerplate groups, 0 to 15 % of the text belongs to the annotated content.

use xxhash_rust::xxh3::xxh3_64;

use super::dom::{Attr, Tree};

/// A set of suspicions about an element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hint(u32);

impl Hint {
    /// Site navigation, page furniture, footers.
    pub(super) const NAV: Self = Self(1);
    /// Laid over the page or shown to assistive tools only: dialogs, cookie banners, skip links.
    pub(super) const OVERLAY: Self = Self(2);
    /// Asks for something: sharing, subscribing, buying, advertising.
    pub(super) const PROMO: Self = Self(4);
    /// Points to other pages.
    pub(super) const RELATED: Self = Self(8);
    /// Who wrote it and when, tags.
    pub(super) const META: Self = Self(16);
    /// Readers' comments, or the posts of a forum.
    pub(super) const COMMENT: Self = Self(32);
    /// Column beside the content.
    pub(super) const ASIDE: Self = Self(64);
    /// Holds the content.
    pub(super) const CONTENT: Self = Self(128);
    /// Page or site header.
    pub(super) const HEADER: Self = Self(256);
    /// Part of a discussion: a forum, a thread, questions and answers.
    pub(super) const FORUM: Self = Self(512);
    /// Declared invisible.
    pub(super) const HIDDEN: Self = Self(1024);
    /// Says when.
    pub(super) const DATE: Self = Self(2048);
    /// Says who, or who and when.
    pub(super) const BYLINE: Self = Self(4096);
    /// Describes a picture.
    pub(super) const CAPTION: Self = Self(8192);
    /// Something to press.
    pub(super) const BUTTON: Self = Self(16384);
    /// Buyers' opinions.
    pub(super) const REVIEW: Self = Self(65536);
    /// Folded away until a reader asks for it.
    pub(super) const FOLD: Self = Self(32768);

    pub(super) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// Words in class names and ids, sorted for binary search.
const WORDS: &[(&str, Hint)] = &[
    ("accordion", Hint::FOLD),
    ("accordions", Hint::FOLD),
    ("ad", Hint::PROMO),
    ("ads", Hint::PROMO),
    ("advert", Hint::PROMO),
    ("advertisement", Hint::PROMO),
    ("advertising", Hint::PROMO),
    ("answer", Hint::FOLD),
    ("aside", Hint::ASIDE),
    ("author", Hint::META.or(Hint::BYLINE)),
    ("authors", Hint::META.or(Hint::BYLINE)),
    ("banner", Hint::HEADER),
    ("bio", Hint::META),
    ("breadcrumb", Hint::NAV),
    ("breadcrumbs", Hint::NAV),
    ("btn", Hint::BUTTON),
    ("button", Hint::BUTTON),
    ("byline", Hint::META.or(Hint::BYLINE)),
    ("caption", Hint::CAPTION),
    ("captions", Hint::CAPTION),
    ("cart", Hint::PROMO),
    ("ccpa", Hint::OVERLAY),
    ("checkout", Hint::PROMO),
    ("collapsible", Hint::FOLD),
    ("colophon", Hint::NAV),
    ("comment", Hint::COMMENT),
    ("comments", Hint::COMMENT),
    ("consent", Hint::OVERLAY),
    ("contentinfo", Hint::NAV),
    ("cookie", Hint::OVERLAY),
    ("cookies", Hint::OVERLAY),
    ("copyright", Hint::NAV),
    ("credit", Hint::CAPTION),
    ("credits", Hint::CAPTION),
    ("cta", Hint::PROMO),
    ("date", Hint::DATE),
    ("dateline", Hint::DATE),
    ("datetime", Hint::DATE),
    ("dialog", Hint::OVERLAY),
    ("disclaimer", Hint::PROMO),
    ("discourse", Hint::FORUM),
    ("discussion", Hint::FORUM),
    ("disqus", Hint::COMMENT),
    ("donate", Hint::PROMO),
    ("drawer", Hint::OVERLAY),
    ("dropdown", Hint::NAV),
    ("editsection", Hint::OVERLAY),
    ("expandable", Hint::FOLD),
    ("faq", Hint::FOLD),
    ("faqs", Hint::FOLD),
    ("flyout", Hint::NAV),
    ("foot", Hint::NAV),
    ("footer", Hint::NAV),
    ("forum", Hint::FORUM),
    ("forums", Hint::FORUM),
    ("gdpr", Hint::OVERLAY),
    ("gform", Hint::PROMO),
    ("header", Hint::HEADER),
    ("headerlink", Hint::OVERLAY),
    ("lightbox", Hint::OVERLAY),
    ("login", Hint::PROMO),
    ("masthead", Hint::HEADER),
    ("megamenu", Hint::NAV),
    ("menu", Hint::NAV),
    ("menubar", Hint::NAV),
    ("menus", Hint::NAV),
    ("metaline", Hint::META),
    ("modal", Hint::OVERLAY),
    ("nav", Hint::NAV),
    ("navbar", Hint::NAV),
    ("navbox", Hint::NAV),
    ("navfooter", Hint::NAV),
    ("navheader", Hint::NAV),
    ("navigation", Hint::NAV),
    ("navleft", Hint::NAV),
    ("navright", Hint::NAV),
    ("newsletter", Hint::PROMO),
    ("noprint", Hint::OVERLAY),
    ("offcanvas", Hint::OVERLAY),
    ("onetrust", Hint::OVERLAY),
    ("outbrain", Hint::RELATED),
    ("pager", Hint::NAV),
    ("pagination", Hint::NAV),
    ("paywall", Hint::PROMO),
    ("phpbb", Hint::FORUM),
    ("popup", Hint::OVERLAY),
    ("postmeta", Hint::META),
    ("print", Hint::OVERLAY),
    ("promo", Hint::PROMO),
    ("promotion", Hint::PROMO),
    ("pubdate", Hint::DATE),
    ("published", Hint::DATE),
    ("recirc", Hint::RELATED),
    ("recommendations", Hint::RELATED),
    ("recommended", Hint::RELATED),
    ("related", Hint::RELATED),
    ("respond", Hint::COMMENT),
    ("review", Hint::REVIEW),
    ("reviews", Hint::REVIEW),
    ("saboxplugin", Hint::META),
    ("share", Hint::PROMO),
    ("sharedaddy", Hint::PROMO),
    ("sharing", Hint::PROMO),
    ("sidebar", Hint::ASIDE),
    ("signin", Hint::PROMO),
    ("signup", Hint::PROMO),
    ("sitemap", Hint::NAV),
    ("skip", Hint::OVERLAY),
    ("skiplink", Hint::OVERLAY),
    ("social", Hint::PROMO),
    ("sphinxsidebar", Hint::NAV),
    ("sponsor", Hint::PROMO),
    ("sponsored", Hint::PROMO),
    ("submenu", Hint::NAV),
    ("subnav", Hint::NAV),
    ("subscribe", Hint::PROMO),
    ("subscription", Hint::PROMO),
    ("taboola", Hint::RELATED),
    ("tabpanel", Hint::FOLD),
    ("teaser", Hint::RELATED),
    ("timestamp", Hint::DATE),
    ("toast", Hint::OVERLAY),
    ("toolbar", Hint::NAV),
    ("tooltip", Hint::OVERLAY),
    ("topbar", Hint::NAV),
    ("topnav", Hint::NAV),
    ("trending", Hint::RELATED),
    ("upsell", Hint::RELATED),
    ("vbulletin", Hint::FORUM),
    ("wishlist", Hint::PROMO),
    ("xenforo", Hint::FORUM),
];

/// Pairs of neighbouring words, sorted for binary search.
const PAIRS: &[(&str, Hint)] = &[
    ("after content", Hint::RELATED),
    ("article body", Hint::CONTENT),
    ("article content", Hint::CONTENT),
    ("article info", Hint::META),
    ("article meta", Hint::META),
    ("article text", Hint::CONTENT),
    ("back top", Hint::NAV),
    ("blog content", Hint::CONTENT),
    ("date published", Hint::META),
    ("editors note", Hint::META),
    ("entry content", Hint::CONTENT),
    ("entry meta", Hint::META),
    ("latest news", Hint::RELATED),
    ("latest posts", Hint::RELATED),
    ("link list", Hint::NAV),
    ("links list", Hint::NAV),
    ("mailing list", Hint::PROMO),
    ("more articles", Hint::RELATED),
    ("more posts", Hint::RELATED),
    ("most popular", Hint::RELATED),
    ("most read", Hint::RELATED),
    ("popular posts", Hint::RELATED),
    ("post body", Hint::CONTENT),
    ("post content", Hint::CONTENT),
    ("post meta", Hint::META),
    ("post tags", Hint::META),
    ("read more", Hint::NAV),
    ("reader text", Hint::OVERLAY),
    ("recent posts", Hint::RELATED),
    ("screen reader", Hint::OVERLAY),
    ("scroll top", Hint::NAV),
    ("search form", Hint::NAV),
    ("site info", Hint::NAV),
    ("sr only", Hint::OVERLAY),
    ("story body", Hint::CONTENT),
    ("tab content", Hint::FOLD),
    ("tab pane", Hint::FOLD),
    ("tab panel", Hint::FOLD),
    ("tag list", Hint::META),
    ("to top", Hint::NAV),
    ("toggle content", Hint::FOLD),
    ("up next", Hint::RELATED),
    ("visually hidden", Hint::OVERLAY),
    ("widget area", Hint::ASIDE),
];

/// After these a word describes the page around it, as in `has-sidebar` or `menu-open`'s `no-menu`.
const QUALIFIERS: [&str; 10] = ["has", "no", "with", "without", "hide", "elementor", "not", "js", "under", "non"];

/// Names read last, by the low bits of their hash: a page has few names and repeats them.
const REMEMBERED: usize = 1024;

/// Everything the attributes of each node suggest.
pub(super) fn hints(tree: &Tree) -> Vec<Hint> {
    let mut remembered = vec![(0, Hint::default()); REMEMBERED];
    let mut names_hint = |names: &str| {
        let hash = xxh3_64(names.as_bytes());
        let place = &mut remembered[hash as usize % REMEMBERED];
        if place.0 != hash {
            *place = (hash, words_hint(names));
        }
        place.1
    };
    (0..tree.nodes.len()).map(|at| hint(tree, at, &mut names_hint)).collect()
}

fn hint(tree: &Tree, at: usize, mut names_hint: impl FnMut(&str) -> Hint) -> Hint {
    let mut hint = Hint::default();
    for (name, value) in tree.attrs(at) {
        let found = match name {
            Attr::Class | Attr::Id => names_hint(value),
            Attr::Role => role_hint(value),
            Attr::Itemprop if value.trim() == "articleBody" => Hint::CONTENT,
            Attr::Itemprop if value.trim() == "comment" => Hint::COMMENT,
            Attr::Hidden if value != "until-found" => Hint::HIDDEN,
            Attr::AriaHidden if value.trim() == "true" => Hint::HIDDEN,
            Attr::Style if hides(value) => Hint::HIDDEN,
            _ => continue,
        };
        hint = hint.or(found);
    }
    hint
}

fn role_hint(role: &str) -> Hint {
    match role.trim() {
        "navigation" | "menu" | "menubar" | "contentinfo" | "search" | "toolbar" | "menuitem" | "directory" => {
            Hint::NAV
        }
        "banner" => Hint::HEADER,
        "complementary" => Hint::ASIDE,
        "dialog" | "alertdialog" | "tooltip" | "alert" | "status" => Hint::OVERLAY,
        "main" => Hint::CONTENT,
        "tabpanel" => Hint::FOLD,
        _ => Hint::default(),
    }
}

fn hides(style: &str) -> bool {
    let compact: String = style.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    compact.contains("display:none") || compact.contains("visibility:hidden")
}

/// Splits at everything but letters and digits, and before a capital after a small letter.
fn words_hint(value: &str) -> Hint {
    let mut hint = Hint::default();
    for name in value.split_ascii_whitespace() {
        // Utility classes such as `md:hover:bg-x` or `w-[calc(1rem)]` describe looks.
        if name.contains([':', '[', '=']) {
            continue;
        }
        let mut buffer = [0u8; 64]; // "previous word" + ' ' + "word"
        let (mut previous, mut length) = (0, 0); // bytes of the previous word with its space; bytes used
        let mut last = 0u8;
        for byte in name.bytes().chain([b'-']) {
            let breaks = !byte.is_ascii_alphabetic() || (byte.is_ascii_uppercase() && last.is_ascii_lowercase());
            if breaks && length > previous {
                hint = hint.or(word_hint(&buffer[..length], previous));
                buffer.copy_within(previous..length, 0);
                previous = length - previous;
                if previous >= 30 {
                    previous = 0;
                } else {
                    buffer[previous] = b' ';
                    previous += 1;
                }
                length = previous;
            }
            if byte.is_ascii_alphabetic() && length < buffer.len() {
                buffer[length] = byte.to_ascii_lowercase();
                length += 1;
            }
            last = byte;
        }
    }
    hint
}

/// Looks up the word after `previous` bytes, and the pair of it and the word before.
fn word_hint(pair: &[u8], previous: usize) -> Hint {
    if previous == 0 {
        return find(WORDS, &WORD_LENGTHS, pair);
    }
    if QUALIFIERS.iter().any(|word| word.as_bytes() == &pair[..previous - 1]) {
        return Hint::default();
    }
    find(WORDS, &WORD_LENGTHS, &pair[previous..]).or(find(PAIRS, &PAIR_LENGTHS, pair))
}

/// For each first letter, which lengths occur in the table: most words of most pages are none of ours.
const WORD_LENGTHS: [u64; 26] = lengths(WORDS);
const PAIR_LENGTHS: [u64; 26] = lengths(PAIRS);

const fn lengths(table: &[(&str, Hint)]) -> [u64; 26] {
    let mut lengths = [0; 26];
    let mut i = 0;
    while i < table.len() {
        let word = table[i].0.as_bytes();
        lengths[(word[0] - b'a') as usize] |= 1 << word.len();
        i += 1;
    }
    lengths
}

fn find(table: &[(&str, Hint)], lengths: &[u64; 26], key: &[u8]) -> Hint {
    let Some(first) = key.first().filter(|byte| byte.is_ascii_lowercase()) else { return Hint::default() };
    if key.len() >= 64 || lengths[usize::from(first - b'a')] & (1 << key.len()) == 0 {
        return Hint::default();
    }
    table.binary_search_by(|(word, _)| word.as_bytes().cmp(key)).map_or(Hint::default(), |i| table[i].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted() {
        assert!(WORDS.is_sorted_by(|a, b| a.0 < b.0));
        assert!(PAIRS.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn names_are_read_in_every_common_spelling() {
        for name in ["main-nav", "mainNav", "main_nav", "block__nav--wide", "NAV"] {
            assert!(words_hint(name).has(Hint::NAV), "{name}");
        }
        assert!(words_hint("wide entry-content").has(Hint::CONTENT));
        assert!(words_hint("vector-screen-reader-text").has(Hint::OVERLAY));
    }

    #[test]
    fn long_and_odd_names_are_read_without_harm() {
        let long = "a".repeat(200);
        for name in [long.as_str(), "----", "9", "é-nav", &format!("{long}-nav"), &format!("nav-{long}")] {
            assert_eq!(words_hint(name).has(Hint::NAV), name.contains("nav"), "{name}");
        }
    }

    #[test]
    fn wrappers_and_utility_classes_are_not_mistaken() {
        for name in ["", "has-sidebar", "no-menu", "md:nav", "canvas", "unshared", "w-[nav]", "меню"] {
            assert_eq!(words_hint(name), Hint::default(), "{name}");
        }
    }
}
