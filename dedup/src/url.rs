//! One spelling for the URLs that mean one page.
//!
//! In: a URL. Out: its canonical form. Left to others: redirects, `rel=canonical`, which scheme is preferred.
//! RFC 3986, §6.2.2 and §6.2.3, on top of the WHATWG URL standard's parser (crate `url`): scheme and host in lower case, the
//! host in ASCII and without final dots, default ports, dot segments and the fragment dropped, an empty path `/`, an empty
//! query dropped, percent-encodings of unreserved characters decoded and others in upper case. Order and repetition of
//! query parameters are kept: they may matter. `http` and `https` are different.

use url::Url;

/// Query parameters that only say where a visitor came from, as their makers document them: Google Analytics (`utm_…`) and
/// Ads (`gclid`, `gclsrc`, `dclid`, `gbraid`, `wbraid`), Meta (`fbclid`), Instagram (`igshid`), Microsoft (`msclkid`), X
/// (`twclid`), Yandex (`yclid`), Mailchimp (`mc_cid`, `mc_eid`).
pub const TRACKING_PARAMETERS: [&str; 12] = [
    "dclid", "fbclid", "gbraid", "gclid", "gclsrc", "igshid", "mc_cid", "mc_eid", "msclkid", "twclid", "wbraid",
    "yclid",
];

/// The canonical form of a URL with a host; with `drop_tracking` without [`TRACKING_PARAMETERS`] and those that begin with
/// `utm_`. None for what is not such a URL.
pub fn canonical_url(url: &str, drop_tracking: bool) -> Option<String> {
    let mut canonical = pass(url, drop_tracking)?;
    // A decoded character can complete another encoding, or a parameter's name: once more, as long as that shortens it.
    loop {
        let next = pass(&canonical, drop_tracking)?;
        if next.len() >= canonical.len() {
            return Some(next);
        }
        canonical = next;
    }
}

fn pass(url: &str, drop_tracking: bool) -> Option<String> {
    let mut url = Url::parse(url).ok()?;
    let host = url.host_str().filter(|host| !host.is_empty())?;
    let bare = host.trim_end_matches('.');
    if bare.len() < host.len() {
        let bare = bare.to_owned();
        url.set_host(Some(&bare)).ok()?;
    }
    url.set_fragment(None);
    if let Some(query) = url.query() {
        let kept: Vec<&str> = query.split('&').filter(|part| !(drop_tracking && is_tracking(part))).collect();
        let kept = kept.join("&");
        url.set_query((!kept.is_empty()).then_some(&kept));
    }
    Some(decode_unreserved(url.as_str()))
}

fn is_tracking(parameter: &str) -> bool {
    let name = parameter.split('=').next().unwrap_or_default().to_ascii_lowercase();
    name.starts_with("utm_") || TRACKING_PARAMETERS.contains(&name.as_str())
}

/// Percent-encodings of letters, digits, `-`, `.`, `_` and `~` decoded, others in upper case.
fn decode_unreserved(url: &str) -> String {
    let mut out = String::with_capacity(url.len());
    let mut rest = url;
    while let Some(at) = rest.find('%') {
        let (before, encoded) = rest.split_at(at);
        out.push_str(before);
        let byte = encoded.get(1..3).and_then(hex_byte);
        let taken = match byte.map(char::from) {
            Some(letter) if letter.is_ascii_alphanumeric() || "-._~".contains(letter) => {
                out.push(letter);
                3
            }
            Some(_) => {
                out.push_str(&encoded[..3].to_ascii_uppercase());
                3
            }
            None => {
                out.push('%');
                1
            }
        };
        rest = &encoded[taken..];
    }
    out.push_str(rest);
    out
}

fn hex_byte(digits: &str) -> Option<u8> {
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_page_become_one() {
        let rows = [
            ("HTTP://Example.ORG:80", "http://example.org/"),
            ("https://example.org:443/a/../b/./c#top", "https://example.org/b/c"),
            ("https://example.org.:8443/", "https://example.org:8443/"),
            ("https://example.org/%7euser/%C3%a9%2f?", "https://example.org/~user/%C3%A9%2F"),
            ("https://example.org/é", "https://example.org/%C3%A9"),
            ("http://Bücher.example/", "http://xn--bcher-kva.example/"),
            ("http://example.org/?b=1&a=2&b=1", "http://example.org/?b=1&a=2&b=1"),
            ("http://user@example.org/100%", "http://user@example.org/100%"),
            ("http://example.org/%4%31", "http://example.org/A"),
            ("http://[2001:DB8::1]:80/", "http://[2001:db8::1]/"),
        ];
        for (url, wanted) in rows {
            let canonical = canonical_url(url, false).unwrap();
            assert_eq!(canonical, wanted, "{url}");
            assert_eq!(canonical_url(&canonical, false).as_deref(), Some(wanted), "twice: {url}");
        }
    }

    #[test]
    fn what_is_no_url_with_a_host_has_no_form() {
        for url in ["", "word", "mailto:a@b.example", "http://", "//example.org/", "世界"] {
            assert_eq!(canonical_url(url, true), None, "{url}");
        }
    }

    #[test]
    fn tracking_parameters_go_only_when_asked() {
        let url = "https://example.org/p?utm_Source=x&id=7&GCLID=1&fbclid";
        assert_eq!(canonical_url(url, true).unwrap(), "https://example.org/p?id=7");
        assert_eq!(canonical_url(url, false).unwrap(), url);
        assert_eq!(canonical_url("https://example.org/?utm_x=1", true).unwrap(), "https://example.org/");
    }

    #[test]
    fn any_characters_have_a_form_that_stays() {
        let mut state = 21_u64;
        let mut random = |most: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % most
        };
        let pieces = [
            "%", "%2", "e", "%2E", "..", "/", "?", "&", "#", "utm_a=", "=", "é", "%c3", ":80", "@", "a", "4", "1",
            "\\", " ",
        ];
        let mut forms = 0;
        for _ in 0..20_000 {
            let rest: String = (0..random(12)).map(|_| pieces[random(pieces.len())]).collect();
            for url in [format!("http://a.example{rest}"), format!("http://a.example/{rest}"), rest] {
                let Some(form) = canonical_url(&url, true) else { continue };
                assert_eq!(canonical_url(&form, true).as_ref(), Some(&form), "{url}");
                forms += 1;
            }
        }
        assert!(forms > 20_000, "{forms}");
    }
}
