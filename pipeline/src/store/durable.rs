//! Durable files: temporary name, write, fsync, rename, fsync of the folder. Hashes while writing.
//!
//! DataFusion's object store never syncs, so everything that a receipt vouches for passes through here.

use super::fail::{self, Point};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A committed file: where it is, how long and which bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the stage's folder, with forward slashes.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// blake3 of the bytes, 64 hex digits.
    pub blake3: String,
    /// Rows, where the file is a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

/// A file being written under a temporary name; it exists only after [`DurableFile::finish`].
pub struct DurableFile {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
    temporary: Temporary,
    target: PathBuf,
    name: String,
}

impl DurableFile {
    /// Starts `name` (relative, may hold sub-folders) inside `folder`.
    pub fn create(folder: &Path, name: &str) -> Result<Self> {
        let target = folder.join(name);
        let parent = target.parent().expect("a file name inside a folder has a parent because it was joined to one");
        create_dir_all(parent)?;
        let file_name = target.file_name().expect("a name was given").to_string_lossy().into_owned();
        let temporary = Temporary(parent.join(format!(".{file_name}.{}.tmp", own())));
        fail::pass(Point::Write);
        let file = File::create(&temporary.0).map_err(Error::io("create", &temporary.0))?;
        Ok(Self {
            file: BufWriter::with_capacity(1 << 18, file),
            hasher: blake3::Hasher::new(),
            bytes: 0,
            temporary,
            target,
            name: name.to_string(),
        })
    }

    /// Syncs, renames into place, syncs the folder, and says what was written.
    pub fn finish(self) -> Result<FileEntry> {
        let Self { file, hasher, bytes, temporary, target, name } = self;
        let file = file.into_inner().map_err(|e| Error::io("write", &temporary.0)(e.into_error()))?;
        fail::pass(Point::Fsync);
        file.sync_all().map_err(Error::io("sync", &temporary.0))?;
        drop(file);
        rename(&temporary.0, &target)?;
        Ok(FileEntry { path: name, bytes, blake3: hasher.finalize().to_hex().to_string(), rows: None })
    }
}

impl Write for DurableFile {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// The name a file has while it is written; what is left under it goes when the writer gives up.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing under this name any more.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A word no other writer uses: an executor that counts as lost may still write a file that another one makes again.
fn own() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
    format!("{:016x}-{}", *PROCESS, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Writes a whole file durably.
pub fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<FileEntry> {
    let mut file = DurableFile::create(folder, name)?;
    file.write_all(bytes).map_err(Error::io("write", folder.join(name)))?;
    file.finish()
}

/// Writes a record that makes other files count: a fragment record, a receipt, a revision.
pub fn commit_json<T: Serialize>(folder: &Path, name: &str, value: &T) -> Result<()> {
    fail::pass(Point::Commit);
    let mut text = serde_json::to_vec_pretty(value).expect("records are plain data because they derive Serialize");
    text.push(b'\n');
    write_file(folder, name, &text).map(drop)
}

/// Renames and syncs the folder that holds the new name.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fail::pass(Point::Rename);
    std::fs::rename(from, to).map_err(Error::io("rename into", to))?;
    sync_folder(to.parent().expect("a renamed file has a parent because it was created in one"))
}

/// Syncs a folder, so that the names in it survive a power cut.
pub fn sync_folder(folder: &Path) -> Result<()> {
    fail::pass(Point::Fsync);
    File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io("sync", folder))
}

/// Creates a folder and its parents.
pub fn create_dir_all(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io("create folder", folder))
}

/// Points the symbolic link `link` at `target` in one step.
pub fn switch_link(target: &Path, link: &Path) -> Result<()> {
    if std::fs::read_link(link).is_ok_and(|current| current == target) {
        return Ok(());
    }
    let name = link.file_name().expect("a link has a name").to_string_lossy();
    let temporary = link.with_file_name(format!(".{name}.link.tmp"));
    match std::fs::remove_file(&temporary) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("remove", &temporary)(e)),
    }
    std::os::unix::fs::symlink(target, &temporary).map_err(Error::io("link", &temporary))?;
    rename(&temporary, link)
}

/// blake3 of a file's bytes, 64 hex digits, and its length.
pub fn hash_file(path: &Path) -> Result<(String, u64)> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut hasher = blake3::Hasher::new();
    let bytes = std::io::copy(&mut file, &mut hasher).map_err(Error::io("read", path))?;
    Ok((hasher.finalize().to_hex().to_string(), bytes))
}
