//! Files in S3-compatible and HTTP object stores: listing, and fetching to a local file.
//!
//! `s3://bucket/path` takes its credentials, region and endpoint from the usual `AWS_*` variables; `http(s)://host/path` needs no
//! listing unless the path holds a wildcard. Requests are repeated with growing pauses by `object_store`.

use crate::error::{Error, Result};
use crate::session::block_on_io;
use crate::store::durable::{DurableFile, FileEntry};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as Location;
use object_store::{ObjectStore, ObjectStoreExt};
use std::io::Write;
use std::path::Path;
use url::Url;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remote {
    /// Its URL.
    pub url: String,
    /// Length in bytes.
    pub bytes: u64,
    /// What its store says about its version: an entity tag, or else the time of its last change.
    pub version: String,
}

/// Bytes asked for in one request.
const REQUEST_BYTES: u64 = 8 << 20;
/// Requests under way at a time.
const REQUESTS: usize = 4;

/// Whether a pattern names objects rather than local files.
pub fn is_remote(pattern: &str) -> bool {
    ["s3://", "http://", "https://"].iter().any(|scheme| pattern.starts_with(scheme))
}

/// The objects a pattern names, sorted by URL: `*` and `?` within a folder, `**` across folders.
pub fn list(pattern: &str) -> Result<Vec<Remote>> {
    let failed = |e: &dyn std::fmt::Display| unreachable_source(pattern, e);
    let (root, path) = split(pattern).ok_or_else(|| failed(&"expected s3://bucket/path or https://host/path"))?;
    let store = open(&root)?;
    let name = |location: &Location| format!("{}/{location}", root.trim_end_matches('/'));
    let remote = |meta: object_store::ObjectMeta| Remote {
        url: name(&meta.location),
        bytes: meta.size,
        version: meta.e_tag.unwrap_or_else(|| meta.last_modified.to_rfc3339()),
    };
    let wild = path.find(['*', '?', '[']);
    block_on_io(async {
        let Some(wild) = wild else {
            let location = Location::from(path);
            return Ok(vec![remote(store.head(&location).await.map_err(|e| failed(&e))?)]);
        };
        let matcher = glob::Pattern::new(path).map_err(|e| failed(&e))?;
        let literal = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
        let prefix = path[..wild].rfind('/').map(|end| Location::from(&path[..end]));
        let all: Vec<_> = store.list(prefix.as_ref()).try_collect().await.map_err(|e| failed(&e))?;
        let matching = all.into_iter().filter(|m| matcher.matches_with(m.location.as_ref(), literal));
        let mut found: Vec<Remote> = matching.map(remote).collect();
        found.sort_by(|a, b| a.url.cmp(&b.url));
        Ok(found)
    })
}

/// Copies an object into `folder`, durably; an error if it is no longer the version that was listed.
pub fn fetch(remote: &Remote, folder: &Path, name: &str) -> Result<FileEntry> {
    let failed = |e: &dyn std::fmt::Display| unreachable_source(&remote.url, e);
    let (root, path) = split(&remote.url).ok_or_else(|| failed(&"it has no path"))?;
    let (store, location) = (open(&root)?, Location::from(path));
    let mut file = DurableFile::create(folder, name)?;
    block_on_io(async {
        let now = store.head(&location).await.map_err(|e| failed(&e))?;
        let version = now.e_tag.unwrap_or_else(|| now.last_modified.to_rfc3339());
        if (now.size, version.as_str()) != (remote.bytes, remote.version.as_str()) {
            return Err(failed(&"it has changed since the run was planned; run again to read it anew"));
        }
        let starts = (0..remote.bytes).step_by(REQUEST_BYTES as usize);
        let requests = starts.map(|start| {
            let range = start..(start + REQUEST_BYTES).min(remote.bytes);
            store.get_range(&location, range)
        });
        let mut pieces = futures::stream::iter(requests).buffered(REQUESTS);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|e| failed(&e))?;
            file.write_all(&piece).map_err(Error::io("write", folder.join(name)))?;
        }
        Ok(())
    })?;
    file.finish()
}

fn open(root: &str) -> Result<Box<dyn ObjectStore>> {
    let url = Url::parse(root).map_err(|e| unreachable_source(root, &e))?;
    let environment = std::env::vars().filter(|(k, _)| k.starts_with("AWS_")).map(|(k, v)| (k.to_lowercase(), v));
    let plain = (url.scheme() == "http").then(|| ("allow_http".to_string(), "true".to_string()));
    let (store, _) =
        object_store::parse_url_opts(&url, environment.chain(plain)).map_err(|e| unreachable_source(root, &e))?;
    Ok(store)
}

/// `scheme://host` and the path behind it.
fn split(url: &str) -> Option<(String, &str)> {
    let host = url.find("://")? + 3;
    let slash = host + url[host..].find('/')?;
    let path = &url[slash + 1..];
    (slash > host && !path.is_empty()).then(|| (url[..slash].to_string(), path))
}

fn unreachable_source(what: &str, e: &dyn std::fmt::Display) -> Error {
    Error::InputData(format!(
        "cannot read {what}: {e}\nhint: check the address, and for s3:// the variables AWS_ACCESS_KEY_ID, \
         AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL; finished work is kept"
    ))
}
