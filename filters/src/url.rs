//! Parts of a URL that people group and cap by.
//!
//! In: a URL. Out: its host, its registrable domain and its public suffix (publicsuffix.org), as slices of it. Left to others:
//! block lists, canonical forms.

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
}
