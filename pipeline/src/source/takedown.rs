//! Lists of documents that must not be used: ids, URLs and domains, one a line; `#` begins a comment.

use crate::error::{Error, Result};
use std::collections::HashSet;
use std::path::Path;

/// What is not to be used.
#[derive(Clone, Debug, Default)]
pub struct Takedown {
    ids: HashSet<String>,
    urls: HashSet<String>,
    domains: HashSet<String>,
}

impl Takedown {
    /// Adds the entries of a file: 32 hex digits are an id, what holds `://` is a URL, anything else a domain with all below it.
    pub fn read(&mut self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let set = match line {
                _ if line.len() == 32 && line.bytes().all(|b| b.is_ascii_hexdigit()) => &mut self.ids,
                _ if line.contains("://") => &mut self.urls,
                _ => &mut self.domains,
            };
            set.insert(line.to_lowercase());
        }
        Ok(())
    }

    /// The entry that a document falls under.
    pub fn entry(&self, id: &str, url: Option<&str>) -> Option<String> {
        if self.ids.contains(id) {
            return Some(id.to_string());
        }
        let url = url?;
        let lower = url.to_lowercase();
        if self.urls.contains(&lower) {
            return Some(lower);
        }
        let host = filters::url::host(&lower)?.to_string();
        let mut rest = host.as_str();
        loop {
            if self.domains.contains(rest) {
                return Some(rest.to_string());
            }
            rest = rest.split_once('.')?.1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_urls_and_domains_are_told_apart() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "# asked for on 1 May\n0123456789abcdef0123456789abcdef\nhttps://a.org/Page\n\nexample.co.uk\n";
        std::fs::write(file.path(), text).unwrap();
        let mut list = Takedown::default();
        list.read(file.path()).unwrap();
        let entry = |id: &str, url: &str| list.entry(id, Some(url));
        assert_eq!(entry("0123456789abcdef0123456789abcdef", "").as_deref(), Some("0123456789abcdef0123456789abcdef"));
        assert_eq!(entry("x", "https://a.org/page").as_deref(), Some("https://a.org/page"));
        assert_eq!(entry("x", "https://a.org/other"), None);
        assert_eq!(entry("x", "https://docs.Example.co.uk:80/1").as_deref(), Some("example.co.uk"));
        assert_eq!(entry("x", "https://notexample.co.uk/"), None);
    }
}
