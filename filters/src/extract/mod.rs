//! The main text of a web page.
//!
//! In: decoded HTML, the address it came from, and limits. Out: a [`Page`]: text without navigation and other
//! boilerplate, title, authors, date, site, links, and the declared language. The steps are `dom` (markup to a flat tree
//! under limits), `score` (which nodes are content), `render` (nodes to text), `meta` and `links`. Pure and deterministic; a page that breaks a limit
//! or holds no text is an [`ExtractFault`], which names a rule, a value and a threshold like every other verdict.
//! Decoding bytes is left to `charset`, judging the text to the quality rules.
//! Background: Kohlschütter et al. 2010 (text and link density), Bevendorff et al. 2023 (comparison of extractors).

mod build;
mod date;
mod dom;
mod hints;
#[cfg(test)]
mod hostile;
mod linked;
mod links;
mod measure;
mod meta;
mod names;
mod render;
mod score;
mod table;
mod tag;
mod token;
mod trim;
mod work;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use work::Work;

/// How text is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One block a line; list items begin with `- ` or a number, table cells are separated by ` | `.
    #[default]
    Text,
    /// Headings, lists, code fences and tables in Markdown; links and emphasis are written as plain text.
    Markdown,
}

/// What extraction writes and when it gives up on a page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExtractConfig {
    /// How text is written: `text` or `markdown`.
    pub format: Format,
    /// Pages with more HTML than this are refused, in bytes after decoding.
    pub max_html_bytes: usize,
    /// Pages with more elements and text nodes than this are refused.
    pub max_nodes: usize,
    /// Elements nested deeper than this are unwrapped: their text stays. Browsers use 512.
    pub max_depth: usize,
    /// Pages that take more work than this are refused, in units of about one node looked at; a large page takes some millions.
    pub max_work: u64,
}

impl Default for ExtractConfig {
    fn default() -> Self {
        Self {
            format: Format::Text,
            max_html_bytes: 16 << 20,
            max_nodes: 1_000_000,
            max_depth: 512,
            max_work: 100_000_000,
        }
    }
}

/// What a page says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// `og:title`, else the first `<h1>` of the content, else `<title>`.
    pub title: Option<String>,
    /// Main text in the configured format: never empty, no trailing newline.
    pub text: String,
    /// Absolute http and https targets of all links on the page, without fragments, in document order, each once.
    pub links: Vec<String>,
    /// `lang` of the root element, as written.
    pub html_lang: Option<String>,
    /// Who wrote it, as the page says; several are joined by `; `.
    pub author: Option<String>,
    /// Day of publication as `YYYY-MM-DD`, as the page or its address says; no time zone is applied.
    pub date: Option<String>,
    /// Name of the site or publisher.
    pub site_name: Option<String>,
}

/// Why a page has no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtractFault {
    /// More HTML than `max_html_bytes`.
    #[error("page has {bytes} bytes of HTML, more than the limit of {limit}")]
    TooLarge {
        /// Size of the page in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// More nodes than `max_nodes`.
    #[error("page has at least {nodes} nodes, more than the limit of {limit}")]
    TooManyNodes {
        /// Nodes seen before parsing stopped.
        nodes: usize,
        /// The limit.
        limit: usize,
    },
    /// More work than `max_work`.
    #[error("page takes at least {units} units of work, more than the limit of {limit}")]
    TooMuchWork {
        /// Units done before extraction stopped.
        units: u64,
        /// The limit.
        limit: u64,
    },
    /// Nothing readable remains.
    #[error("page has no text")]
    NoText,
}

impl ExtractFault {
    /// Name of the rule that refused the page: `too_large`, `too_many_nodes`, `too_much_work` or `no_text`.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::TooManyNodes { .. } => "too_many_nodes",
            Self::TooMuchWork { .. } => "too_much_work",
            Self::NoText => "no_text",
        }
    }

    /// The measured value: bytes, nodes, units of work, or 0 characters of text.
    pub fn value(&self) -> f64 {
        match self {
            Self::TooLarge { bytes, .. } => *bytes as f64,
            Self::TooManyNodes { nodes, .. } => *nodes as f64,
            Self::TooMuchWork { units, .. } => *units as f64,
            Self::NoText => 0.0,
        }
    }

    /// The value a page may have at most (`too_large`, `too_many_nodes`, `too_much_work`) or must have at least (`no_text`).
    pub fn threshold(&self) -> f64 {
        match self {
            Self::TooLarge { limit, .. } | Self::TooManyNodes { limit, .. } => *limit as f64,
            Self::TooMuchWork { limit, .. } => *limit as f64,
            Self::NoText => 1.0,
        }
    }
}

/// Extracts the main text of `html`; `base_url` is the address of the page, against which links are resolved.
pub fn extract(html: &str, base_url: Option<&str>, config: &ExtractConfig) -> Result<Page, ExtractFault> {
    let mut work = Work::new(config.max_work);
    let tree = dom::parse(html, config, &mut work)?;
    let content = score::content(&tree, &mut work)?;
    let text = render::render(&tree, &content, config.format, &mut work)?;
    if text.is_empty() {
        return Err(ExtractFault::NoText);
    }
    let about = meta::about(&tree, &content, base_url, &mut work);
    work.check()?;
    let links = links::links(&tree, base_url);
    let meta::About { title, lang: html_lang, author, date, site: site_name } = about;
    Ok(Page { title, text, links, html_lang, author, date, site_name })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(html: &str) -> Result<Page, ExtractFault> {
        extract(html, Some("https://example.org/docs/a.html"), &ExtractConfig::default())
    }

    const PROSE: &str =
        "<p>The quick brown fox jumps over the lazy dog, and then it rests in the shade for a while.</p>";

    #[test]
    fn pages_without_text_name_the_rule() {
        for html in
            ["", "   ", "<script>var a = '<p>x</p>'</script>", "<style>p{}</style><!-- c -->", "\0\0", "<p hidden>x"]
        {
            let fault = page(html).map(|page| page.text).unwrap_or_else(|fault| fault.rule().to_owned());
            assert!(fault == "no_text" || html.contains("hidden"), "{html}: {fault}");
        }
        let fault = ExtractFault::NoText;
        assert_eq!((fault.rule(), fault.value(), fault.threshold()), ("no_text", 0.0, 1.0));
    }

    #[test]
    fn limits_are_faults_with_value_and_threshold() {
        let config = ExtractConfig { max_html_bytes: 10, ..Default::default() };
        let fault = extract("<p>hello world", None, &config).expect_err("over the limit");
        assert_eq!((fault.rule(), fault.value(), fault.threshold()), ("too_large", 14.0, 10.0));
        let config = ExtractConfig { max_nodes: 100, ..Default::default() };
        let fault = extract(&"<p>x</p>".repeat(500), None, &config).expect_err("over the limit");
        assert_eq!((fault.rule(), fault.threshold()), ("too_many_nodes", 100.0));
    }

    #[test]
    fn navigation_and_furniture_are_left_out_of_an_article() {
        let html = format!(
            "<html lang='en-GB'><head><title>T | Site</title><meta property='og:title' content=' The  Fox '></head><body>\
             <nav><a href='/'>Home</a> <a href='/b#x'>Blog</a></nav><div class='cookie-banner'>We use cookies.</div>\
             <div class='layout'><article><h1>The Fox</h1>{p}{p}{p}<div class='share-buttons'>Tweet this</div></article>\
             <div id='sidebar'><ul><li><a href='b.html'>Other</a><li><a href='mailto:x@y'>Mail</a></ul></div></div>\
             <footer>Copyright</footer><script>track()</script></body>",
            p = PROSE
        );
        let page = page(&html).expect("an article");
        assert!(page.text.starts_with("The Fox\nThe quick brown fox"), "{}", page.text);
        for furniture in ["Home", "cookies", "Tweet", "Other", "Copyright", "track"] {
            assert!(!page.text.contains(furniture), "{furniture} in {}", page.text);
        }
        assert_eq!(page.text.matches("lazy dog").count(), 3);
        assert_eq!(page.title.as_deref(), Some("The Fox"));
        assert_eq!(page.html_lang.as_deref(), Some("en-GB"));
        let links = ["https://example.org/", "https://example.org/b", "https://example.org/docs/b.html"];
        assert_eq!(page.links, links);
    }

    #[test]
    fn comments_are_content_only_where_there_is_no_article() {
        let comments =
            format!("<div class='comments'>{}</div>", format!("<div class='comment'>{PROSE}</div>").repeat(9));
        let thread = page(&format!("<h1>Question</h1>{comments}")).expect("a thread");
        assert_eq!(thread.text.matches("lazy dog").count(), 9);
        let article = page(&format!("<article>{}</article>{comments}", PROSE.repeat(16))).expect("an article");
        assert_eq!(article.text.matches("lazy dog").count(), 16);
    }

    #[test]
    fn xhtml_documentation_keeps_code_definitions_and_headings() {
        let html = "<?xml version='1.0' encoding='UTF-8' standalone='no'?>\n<!DOCTYPE html PUBLIC '-//W3C//DTD XHTML 1.0'>\
            <html xmlns='http://www.w3.org/1999/xhtml' xml:lang='de'><head><title>Kapitel 1</title></head><body>\
            <div class='navheader'><table><tr><td><a href='i.html'>Zurück</a></td></tr></table><hr/></div>\
            <div class='chapter'><h1 class='title'>Kapitel 1. Grundlagen</h1><p>Einführung in die Grundlagen des Systems.</p>\
            <dl class='variablelist'><dt><code>-v</code></dt><dd><p>Gibt mehr aus als sonst üblich ist.</p></dd></dl>\
            <pre class='screen'>$ ls -l\n  total 0</pre></div><div class='navfooter'><a href='n.html'>Weiter</a></div></body></html>";
        let page = page(html).expect("a chapter");
        let text = "Kapitel 1. Grundlagen\nEinführung in die Grundlagen des Systems.\n-v\n\
                    Gibt mehr aus als sonst üblich ist.\n$ ls -l\n  total 0";
        assert_eq!(page.text, text);
        assert_eq!(page.html_lang.as_deref(), Some("de"));
    }

    #[test]
    fn readers_without_scripts_are_read_for_when_the_page_is_empty() {
        let html = format!("<body><div id=app>Loading</div><noscript>{}</noscript>", PROSE.repeat(6));
        assert_eq!(page(&html).expect("noscript text").text.matches("lazy dog").count(), 6);
        let html = format!("<body>{}<noscript>{PROSE}</noscript>", PROSE.repeat(6));
        assert_eq!(page(&html).expect("visible text").text.matches("lazy dog").count(), 6);
    }

    #[test]
    fn a_base_element_and_relative_addresses_resolve() {
        let html = "<base href='/other/'><a href='x'>x</a><a href=' x#frag '>x</a><a href='//cdn.org/y'>y</a><a href='javascript:1'>";
        assert_eq!(page(html).expect("text").links, ["https://example.org/other/x", "https://cdn.org/y"]);
        let orphan =
            extract("<a href='x'>x</a><a href='http://a.b/c'>", None, &ExtractConfig::default()).expect("text");
        assert_eq!(orphan.links, ["http://a.b/c"]);
    }

    #[test]
    fn code_keeps_what_highlighters_call_comments() {
        let code = "<pre><code class=hljs><span class=hljs-comment># say it</span>\necho hi <span class='token comment'># now</span></code></pre>";
        let text = page(&format!("<article>{}{code}</article>", PROSE.repeat(12))).expect("an article").text;
        assert!(text.ends_with("# say it\necho hi # now"), "{text}");
    }

    #[test]
    fn what_is_folded_away_is_read_and_what_is_hidden_is_not() {
        let html = format!(
            "<main>{p}{p}{p}{p}<div class=faq><h3>Why?</h3><div class=faq-answer style='display:none'>Because it folds.</div></div>\
             <div role=tabpanel hidden>Second tab.</div><div hidden>Never seen.</div></main>",
            p = PROSE
        );
        let text = page(&html).expect("a page").text;
        assert!(
            text.contains("Because it folds.") && text.contains("Second tab.") && !text.contains("Never seen"),
            "{text}"
        );
    }

    #[test]
    fn opinions_of_buyers_are_left_out_where_a_product_is_sold() {
        let review =
            "<div class=reviews><p>I bought it for my sister and she likes it very much, five stars.</p></div>";
        let product = r#"<script type="application/ld+json">{"@type": "Product", "name": "x"}</script>"#;
        let with = |head: &str| page(&format!("{head}<main>{}{review}</main>", PROSE.repeat(12))).expect("a page").text;
        assert!(!with(product).contains("five stars"));
        assert!(with("").contains("five stars"));
    }

    #[test]
    fn the_same_page_gives_the_same_bytes() {
        let html = format!("<div class=a>{PROSE}</div>").repeat(30);
        assert_eq!(page(&html), page(&html));
    }
}
