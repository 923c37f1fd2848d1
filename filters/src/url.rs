//! Parts of a URL that people group and cap by, and lists of URLs that nobody wants.
//!
//! In: a URL, and lists. Out: its host, its registrable domain and its public suffix (publicsuffix.org), as slices of it; what of the
//! lists is in it. The lists are looked into as datatrove 0.10.1 does: words are runs of ASCII letters and digits and are compared
//! as they are written; subwords are looked for in all letters and digits of the URL, in lower case, without what is between them. We
//! differ: a listed host counts if it is an address, or a name registered under a private suffix (`user.blogspot.com`).
//! Left to others: the lists themselves, canonical forms.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;

/// The host of a URL, without port and user; None if it has none.
pub fn host(url: &str) -> Option<&str> {
    let rest = &url[url.find("://")? + 3..];
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let end = if host.starts_with('[') {
        host.find(']').map_or(host.len(), |n| n + 1)
    } else {
        host.find(':').unwrap_or(host.len())
    };
    let host = host[..end].trim_end_matches('.');
    (!host.is_empty()).then_some(host)
}

/// The part of the host that is registered, such as `example.co.uk`; an address stands for itself.
pub fn domain(url: &str) -> Option<&str> {
    let host = host(url)?;
    if is_address(host) {
        return Some(host);
    }
    psl::domain_str(host).or(Some(host))
}

/// The public suffix of the host, such as `co.uk`; None for addresses.
pub fn suffix(url: &str) -> Option<&str> {
    host(url).filter(|host| !is_address(host)).and_then(psl::suffix_str)
}

fn is_address(host: &str) -> bool {
    host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok()
}

/// The registrable domain under the suffixes of ICANN alone: `github.io` for a page on `user.github.io`.
pub fn icann_domain(url: &str) -> Option<&str> {
    let host = host(url)?;
    if is_address(host) {
        return Some(host);
    }
    let mut labels = host.rmatch_indices('.').map(|(at, _)| at + 1).chain(std::iter::once(0));
    let is_suffix = |from: usize| {
        psl::suffix(&host.as_bytes()[from..]).is_some_and(|suffix| {
            suffix.as_bytes().len() == host.len() - from && suffix.typ() == Some(psl::Type::Icann)
        })
    };
    labels.find(|&from| !is_suffix(from)).map(|from| &host[from..])
}

/// Lists of hosts, URLs and words in URLs.
#[derive(Clone, Debug, Default)]
pub struct UrlLists {
    domains: BTreeSet<String>,
    urls: BTreeSet<String>,
    banned_words: BTreeSet<String>,
    soft_words: BTreeSet<String>,
    banned_subwords: Option<AhoCorasick>,
}

/// What of the lists is in a URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UrlFound {
    /// 1 if its registrable domain or its host is listed.
    pub domains: usize,
    /// 1 if it is listed itself.
    pub urls: usize,
    /// How many banned words are in it.
    pub banned_words: usize,
    /// How many soft words are in it.
    pub soft_words: usize,
    /// How many banned subwords are in it.
    pub banned_subwords: usize,
}

impl UrlLists {
    /// Adds entries to a list by its name; whether there is such a list.
    pub fn add<'a>(&mut self, list: &str, entries: impl Iterator<Item = &'a str>) -> bool {
        match list {
            "domains" => self.domains.extend(entries.map(str::to_ascii_lowercase)),
            "urls" => self.urls.extend(entries.map(str::to_owned)),
            "banned_words" => self.banned_words.extend(entries.map(letters_and_digits)),
            "soft_words" => self.soft_words.extend(entries.map(letters_and_digits)),
            "banned_subwords" => {
                let words: BTreeSet<String> = entries.map(letters_and_digits).filter(|word| !word.is_empty()).collect();
                self.banned_subwords = AhoCorasick::new(words).ok();
            }
            _ => return false,
        }
        true
    }

    /// Looks a URL up in all lists.
    pub fn look_up(&self, url: &str) -> UrlFound {
        let is_listed = |host: Option<&str>| host.is_some_and(|host| self.domains.contains(&host.to_ascii_lowercase()));
        let words: BTreeSet<&str> = url.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let of = |list: &BTreeSet<String>| words.iter().filter(|word| list.contains(**word)).count();
        let hits = |finder: &AhoCorasick| finder.find_overlapping_iter(&letters_and_digits(url)).count();
        UrlFound {
            domains: usize::from(is_listed(host(url)) || is_listed(domain(url)) || is_listed(icann_domain(url))),
            urls: usize::from(self.urls.contains(url)),
            banned_words: of(&self.banned_words),
            soft_words: of(&self.soft_words),
            banned_subwords: self.banned_subwords.as_ref().map_or(0, hits),
        }
    }
}

fn letters_and_digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_real_urls() {
        let rows = [
            ("https://docs.example.co.uk:8080/a?b#c", Some("docs.example.co.uk"), Some("example.co.uk"), Some("co.uk")),
            ("http://user@example.org.", Some("example.org"), Some("example.org"), Some("org")),
            ("http://127.0.0.1/x", Some("127.0.0.1"), Some("127.0.0.1"), None),
            ("http://[::1]:80/", Some("[::1]"), Some("[::1]"), None),
            ("http://localhost/", Some("localhost"), Some("localhost"), Some("localhost")),
            ("mailto:a@b", None, None, None),
        ];
        for (url, wanted_host, wanted_domain, wanted_suffix) in rows {
            assert_eq!((host(url), domain(url), suffix(url)), (wanted_host, wanted_domain, wanted_suffix), "{url}");
        }
    }

    #[test]
    fn suffixes_of_private_companies_are_domains_to_icann() {
        for (url, domain) in [
            ("http://user.github.io/x", Some("github.io")),
            ("http://a.b.example.co.uk/", Some("example.co.uk")),
            ("http://co.uk/", None),
            ("http://[::1]/", Some("[::1]")),
            ("no url", None),
        ] {
            assert_eq!(icann_domain(url), domain, "{url}");
        }
    }

    #[test]
    fn urls_are_looked_up_in_every_list() {
        let mut lists = UrlLists::default();
        for (list, entry) in [
            ("domains", "Bad.com"),
            ("urls", "http://fine.org/page"),
            ("banned_words", "cas-ino"),
            ("soft_words", "free"),
            ("soft_words", "win"),
            ("banned_subwords", "pokerroom"),
        ] {
            assert!(lists.add(list, std::iter::once(entry)), "{list}");
        }
        assert!(!lists.add("others", std::iter::empty()));
        let found = |url| {
            let found = lists.look_up(url);
            [found.domains, found.urls, found.banned_words, found.soft_words, found.banned_subwords]
        };
        assert_eq!(found("https://www.bad.com/"), [1, 0, 0, 0, 0]);
        assert_eq!(found("http://fine.org/page"), [0, 1, 0, 0, 0]);
        assert_eq!(found("http://fine.org/casino/win-free-Free"), [0, 0, 1, 2, 0]);
        assert_eq!(found("http://fine.org/casinos/poker-Room2"), [0, 0, 0, 0, 1]);
        assert_eq!(found(""), [0; 5]);
        assert_eq!(found("http://例え.jp/カジノ"), [0; 5]);
    }
}
