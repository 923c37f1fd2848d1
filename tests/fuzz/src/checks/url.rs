//! Addresses: the canonical form, and the parts that people group by.
//!
//! The canonical form is its own canonical form, is ASCII, parses to itself and has no fragment; other spellings of it have the same
//! form. Host, domain and suffix are slices of the address, each the end of the one before, and the host is the one that the WHATWG
//! parser sees.

use super::knobs;
use ::url::Url;
use dedup::{TRACKING_PARAMETERS, canonical_url};
use filters::url::{UrlLists, domain, host, icann_domain, suffix};

/// Knobs: whether parameters that only track are dropped, and whether a scheme is put before.
pub fn check(bytes: &[u8]) {
    let ([knob], bytes) = knobs(bytes);
    let text = String::from_utf8_lossy(bytes);
    let url = if knob & 2 == 0 { text.into_owned() } else { format!("https://a.example/{text}") };
    parts(&url);
    lists(&url);
    let drop_tracking = knob & 1 == 1;
    let Some(form) = canonical_url(&url, drop_tracking) else { return };
    assert_eq!(canonical_url(&form, drop_tracking).as_deref(), Some(&*form), "of {url:?}");
    assert!(form.is_ascii() && !form.contains(['#', ' ']), "{form}");
    let parsed = Url::parse(&form).unwrap_or_else(|error| panic!("{form}: {error}"));
    assert_eq!(parsed.as_str(), form);
    for spelling in
        [format!("{form}#x"), format!(" {form}\n"), form.replacen(parsed.scheme(), &parsed.scheme().to_uppercase(), 1)]
    {
        assert_eq!(canonical_url(&spelling, drop_tracking).as_deref(), Some(&*form), "{spelling}");
    }
    if drop_tracking {
        let names = parsed.query().into_iter().flat_map(|query| query.split('&')).map(|part| part.split('=').next());
        for name in names.flatten().map(str::to_ascii_lowercase) {
            assert!(!name.starts_with("utm_") && !TRACKING_PARAMETERS.contains(&&*name), "{form}");
        }
    }
    parts(&form);
    assert_eq!(host(&form), parsed.host_str(), "{form}");
}

fn parts(url: &str) {
    let Some(host) = host(url) else {
        assert_eq!((domain(url), suffix(url), icann_domain(url)), (None, None, None));
        return;
    };
    assert!(url.as_bytes().as_ptr_range().contains(&host.as_ptr()) && !host.contains(['/', '?', '#', '@']), "{host}");
    let domain = domain(url).expect("a host has a domain");
    assert!(host.ends_with(domain));
    for part in [suffix(url), icann_domain(url)].into_iter().flatten() {
        assert!(host.ends_with(part), "{part}");
    }
    if let Some(suffix) = suffix(url) {
        assert!(domain.ends_with(suffix), "{domain} and {suffix}");
    }
}

fn lists(url: &str) {
    let mut lists = UrlLists::default();
    lists.add("domains", ["a.example", "example.co.uk"].into_iter());
    lists.add("urls", std::iter::once(url));
    lists.add("soft_words", ["a", "b"].into_iter());
    lists.add("banned_subwords", ["utm", "x"].into_iter());
    let found = lists.look_up(url);
    assert_eq!(found, lists.look_up(url));
    assert!(found.domains <= 1 && found.urls == 1 && found.soft_words <= 2 && found.banned_subwords <= url.len());
}
