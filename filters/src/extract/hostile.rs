//! Pages made to hurt: whatever is sent, extraction ends soon, with text or with a fault that names its rule.
//!
//! Tests only. No clock is read: what would take minutes here shows itself by taking minutes, and the budgets by their faults.

use super::{ExtractConfig, ExtractFault, Format, Page, extract};
use crate::charset;

fn both(html: &str) -> [Result<Page, ExtractFault>; 2] {
    [Format::Text, Format::Markdown].map(|format| extract(html, None, &ExtractConfig { format, ..Default::default() }))
}

fn text(html: &str) -> String {
    extract(html, Some("https://a.org/"), &ExtractConfig::default()).expect("a page with text").text
}

/// A page of this many bytes made of one piece, with text at its end.
fn repeated(unit: &str, bytes: usize) -> String {
    format!("{}<p>end of the page", unit.repeat(bytes / unit.len()))
}

#[test]
fn half_a_megabyte_of_nested_lists_is_read_to_its_end() {
    for unit in ["<ul><li>", "<ol><li>x", "<dl><dd>x", "<blockquote>x", "<ul><li><pre>x\n"] {
        for page in both(&repeated(unit, 512 << 10)) {
            let text = page.expect("within the budgets").text;
            assert!(text.contains("end of the page"), "{unit}");
            assert!(text.len() < 16 << 20, "{unit}: {} bytes", text.len());
        }
    }
}

#[test]
fn tables_in_tables_do_not_multiply() {
    let row = format!("<table><tr>{}<td>", "<td>x".repeat(50));
    for html in [
        row.repeat(2000),
        row.repeat(150) + &"<td>y".repeat(100_000),
        "<table><tr><td colspan=9007199254740992 rowspan=65534>x".repeat(3000),
    ] {
        for page in both(&html) {
            match page {
                Ok(page) => assert!(page.text.len() <= html.len()),
                Err(fault) => assert_eq!(fault.rule(), "too_much_work"),
            }
        }
    }
}

#[test]
fn entities_are_never_expanded_twice_or_defined_by_a_page() {
    let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;\">]><p>&b; &amp;amp;lt;";
    assert!(text(bomb).ends_with("&b; &amp;lt;"), "{}", text(bomb));
    for unit in [
        "&CounterClockwiseContourIntegral;",
        "&NotEqualTilde;",
        "&#x1F98A;",
        "&#99999999999999999999;",
        "&amp",
        "&",
        "&#",
        "&#x",
    ] {
        let html = repeated(unit, 1 << 20);
        let page = text(&html);
        assert!(page.ends_with("end of the page") && page.len() <= html.len() * 2, "{unit}");
    }
}

#[test]
fn nul_bytes_are_dropped_wherever_they_stand() {
    assert_eq!(text("<\0p cl\0ass=x>he\0llo</\0p><scr\0ipt>alert(1)</script>"), "hello");
    assert_eq!(text(&repeated("\0", 1 << 20)), "end of the page");
    assert_eq!(both("\0\0\0").map(|page| page.map_err(|fault| fault.rule())), [Err("no_text"), Err("no_text")]);
}

#[test]
fn what_is_never_closed_takes_the_rest_of_the_page_at_most() {
    for (html, expected) in [
        ("<p>before<p title='never closed>after", "before"),
        ("<p>before<a href=\"x", "before"),
        ("<p>before<!-- never closed <p>after", "before"),
        ("<p>before<script>never closed", "before"),
        ("<p>before<style>never closed", "before"),
        ("<p>before<title>never closed", "before"),
        ("<p>before</p", "before"),
        ("<p>before<", "before<"),
        ("<p>before<div><span><b><table><tr><td>after", "before\nafter"),
        ("<p>before<textarea>never closed", "before"),
    ] {
        assert_eq!(text(html), expected, "{html}");
    }
}

#[test]
fn a_giant_attribute_is_passed_over() {
    for name in ["class", "data-state", "href", "style", "id", "content"] {
        for value in ["nav ", "x", "&amp;", "ü", "display:none;", " "] {
            let html =
                format!("<div {name}=\"{}\"></div><p>The text after it stays.", value.repeat((4 << 20) / value.len()));
            assert_eq!(text(&html), "The text after it stays.", "{name}={value}");
        }
    }
    let script = format!("<script type=application/ld+json>{}</script><p>text", "[{\"author\":".repeat(80_000));
    assert_eq!(text(&script), "text");
}

#[test]
fn millions_of_empty_elements_are_a_fault() {
    for unit in ["<i></i>", "<br>", "</p>", "<p>", "<a href=x>", "<table>", "x<wbr>"] {
        let html = repeated(unit, 12 << 20);
        for page in both(&html) {
            match page {
                Ok(page) => assert!(page.text.ends_with("end of the page"), "{unit}"),
                Err(fault) => {
                    assert!(["too_many_nodes", "too_much_work"].contains(&fault.rule()), "{unit}: {fault}");
                    assert!(fault.value() > fault.threshold());
                }
            }
        }
    }
    let fault = extract(&"<i></i>".repeat(2_000_000), None, &ExtractConfig::default()).expect_err("too many");
    assert_eq!((fault.rule(), fault.threshold()), ("too_many_nodes", 1_000_000.0));
}

/// Small pages with every kind of markup in them.
const SEEDS: [&str; 4] = [
    "<!DOCTYPE html><html lang=x><head><title>a&amp;b</title><meta property=og:title content='T &quot;x&quot;'>\
     <script type='application/ld+json'>{\"author\":{\"name\":\"A \\u00e9\"},\"datePublished\":\"2020-01-02\"}</script>\
     <script>'<!--<script>'</script></head><body class='é-nav'><h1>Head</h1><p>The quick brown fox jumps over the lazy dog.\
     <p>Füchse &#x1F98A; &eacute; &notit; 狐 лиса</p><!-- c --><ul><li>a<li>b<ol start=4294967295><li>c</ol></ul></body>",
    "<table><caption>c</caption><thead><tr><th>a<th>b</thead><tr><td>1<td><table><tr><td>x</table></table><dl><dt>t<dd>d</dl>\
     <blockquote>q<pre><code class=language-rust>fn f() {\n  a|b\n}\n</code></pre></blockquote><textarea>t</textarea>",
    "<svg><title>s</title><![CDATA[y]]><foreignObject><p>f</p></foreignObject></svg><math alttext='x^2'><mi>x</mi></math>\
     <select><option>o<optgroup><option>p</select><noscript><p>n</noscript><template><p>t</template><a href=/x>l<div>m</a>n</div>\
     <time datetime=2020-02-03>t</time><b><i>x</b>y</i><a href=//b.org/y><a href=z></a><form><input><form></form>",
    "<?xml version='1.0' encoding='utf-8'?><html xml:lang='de'><frameset><frame></frameset><noframes>x</noframes><body/><base href='/b/'>\
     <div class='comment-list forum'><div class=comment>one</div><div hidden>two</div><div style='display: none'>three</div></div><xmp><p></xmp>\
     <iframe>i</iframe><center>c<font>d</center><listing>\nl</listing><p class='btn share'>s<br/><br>t</br><hr>u<wbr>v<plaintext>w</p>",
];

/// Flips, cuts, copies and overwrites bytes; nothing may panic, budgets hold, and what comes out is clean text or a fault.
#[test]
fn damaged_pages_end_in_clean_text_or_a_fault() {
    let mut state = 1_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below.max(1)
    };
    let junk: [&[u8]; 14] =
        [b"<", b">", b"\"", b"'", b"&", b"</", b"<p>", b"\0", b"=", b"<!--", b"\xff", b"<table>", b"</a>", b"<li>"];
    let (mut texts, mut faults) = (0, 0);
    for round in 0..8000 {
        let mut bytes = SEEDS[round % SEEDS.len()].as_bytes().to_vec();
        for _ in 0..1 + random(8) {
            let at = random(bytes.len());
            let to = (at + random(60)).min(bytes.len());
            match random(5) {
                0 => bytes[at] ^= 1 << random(8),
                1 => drop(bytes.drain(at..to)),
                2 => drop(bytes.splice(at..at, junk[random(junk.len())].iter().copied())),
                3 => drop(bytes.splice(at..at, bytes[at..to].to_vec())),
                _ => bytes[at] = random(256) as u8,
            }
            if bytes.is_empty() {
                bytes.push(b'x');
            }
        }
        let html = charset::decode(&bytes, None).text;
        let (max_nodes, max_work) = (20 + random(200), 200 + random(20_000) as u64);
        for format in [Format::Text, Format::Markdown] {
            let config = ExtractConfig { format, max_nodes, max_work, max_depth: 8, max_html_bytes: 2000 };
            match extract(&html, Some("https://a.org/b"), &config) {
                Ok(page) => {
                    texts += 1;
                    assert!(!page.text.is_empty() && page.text.trim_end().len() == page.text.len());
                    assert!(!page.text.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "{html:?}");
                    assert_eq!(extract(&html, Some("https://a.org/b"), &config).as_ref(), Ok(&page));
                }
                Err(ExtractFault::NoText) => {}
                Err(fault) => {
                    faults += 1;
                    assert!(fault.value() > fault.threshold(), "{fault}");
                }
            }
        }
    }
    assert!(texts > 4000 && faults > 500, "{texts} texts, {faults} faults");
}
