//! The two large arrays of the merge phase, in memory or in scratch files.
//!
//! In: lengths and, if memory is short, a folder and a limit. Out: arrays of numbers that read and write like slices. In a
//! scratch file the array is a shared mapping: the system writes its pages back and drops them when others need the memory,
//! and [`Pages`] lets go of them by itself after each eighth of the limit (the system maps up to
//! sixteen pages for one that is touched), so that the resident size stays bounded on an
//! idle machine too. Letting go never loses a byte: the pages stay with the file.

use std::{
    fs::{File, OpenOptions},
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
};

use memmap2::MmapMut;

use crate::TokenizerError;

/// Where the merge phase may put what does not fit into memory.
#[derive(Clone, Debug)]
pub struct Scratch {
    /// An existing folder. Its files have no names, so nothing is left there, not even after a kill.
    pub folder: PathBuf,
    /// Bytes that training should stay under. Mapped pages take about half of it; the tables of frequent pairs and of the
    /// vocabulary come on top, about 30 MB for 32,768 tokens (420 MB of text, limit 42 MB: 60 MB resident at most).
    pub memory_limit_bytes: usize,
}

/// Bytes of a page.
pub(super) const PAGE: usize = 4096;

/// Plain numbers, of which any bytes are a value.
///
/// # Safety
/// Every bit pattern is a valid value and the alignment is at most that of a page.
pub(super) unsafe trait Plain: Copy + Default {}
// SAFETY: an integer has no invalid bit pattern and is aligned to its size.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}

/// A growable array.
pub(super) enum Array<T> {
    Memory(Vec<T>),
    File(Mapped<T>),
}

pub(super) struct Mapped<T> {
    map: MmapMut, // at least `len` numbers
    len: usize,
    file: File,
    path: String,
    of: std::marker::PhantomData<T>,
}

impl<T: Plain> Mapped<T> {
    fn new(folder: &Path, name: &str) -> Result<Self, TokenizerError> {
        let path = folder.join(format!("{name}.{}", std::process::id()));
        let shown = path.display().to_string();
        let open = || -> std::io::Result<(File, MmapMut)> {
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            file.set_len(PAGE as u64)?;
            let map = map(&file)?;
            Ok((file, map))
        };
        match open() {
            Ok((file, map)) => Ok(Self { map, len: 0, file, path: shown, of: std::marker::PhantomData }),
            Err(source) => Err(TokenizerError::Write { path: shown, source }),
        }
    }

    fn reserve(&mut self, len: usize) -> Result<(), TokenizerError> {
        let bytes = len * size_of::<T>();
        if bytes > self.map.len() {
            let size = (bytes + bytes / 2).next_multiple_of(PAGE);
            let grown = self.file.set_len(size as u64).and_then(|()| map(&self.file));
            self.map = grown.map_err(|source| TokenizerError::Write { path: self.path.clone(), source })?;
        }
        Ok(())
    }
}

fn map(file: &File) -> std::io::Result<MmapMut> {
    // SAFETY: the file has no name, so nobody else can change or shorten it while it is mapped.
    unsafe { MmapMut::map_mut(file) }
}

impl<T: Plain> Array<T> {
    /// Without numbers; in a scratch file called `name` if there is a folder.
    pub(super) fn new(folder: Option<&Path>, name: &str) -> Result<Self, TokenizerError> {
        Ok(match folder {
            None => Self::Memory(Vec::new()),
            Some(folder) => Self::File(Mapped::new(folder, name)?),
        })
    }

    /// Changes the length; what is new is `fill`.
    pub(super) fn resize(&mut self, len: usize, fill: T) -> Result<(), TokenizerError> {
        match self {
            Self::Memory(all) => all.resize(len, fill),
            Self::File(mapped) => {
                mapped.reserve(len)?;
                let from = std::mem::replace(&mut mapped.len, len);
                if from < len {
                    self[from..].fill(fill);
                }
            }
        }
        Ok(())
    }

    /// Changes the length; what is new is to be written by the caller before it is read.
    pub(super) fn extend(&mut self, more: usize) -> Result<(), TokenizerError> {
        match self {
            Self::Memory(all) => {
                if all.capacity() - all.len() < more {
                    all.reserve_exact(more + all.len() / 8); // doubling would waste more memory than copying costs time
                }
                all.resize(all.len() + more, T::default());
            }
            Self::File(mapped) => {
                mapped.reserve(mapped.len + more)?;
                mapped.len += more;
            }
        }
        Ok(())
    }

    /// Lets go of the resident pages of a file.
    fn release(&self) {
        #[cfg(unix)]
        if let Self::File(mapped) = self {
            // SAFETY: a shared mapping of a file keeps its bytes in the file; dropped pages are read again when touched.
            let _ = unsafe { mapped.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}

impl<T: Plain> Deref for Array<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Memory(all) => all,
            // SAFETY: the mapping begins at a page, holds at least `len` numbers, and any bytes are numbers (`Plain`).
            Self::File(mapped) => unsafe { std::slice::from_raw_parts(mapped.map.as_ptr().cast(), mapped.len) },
        }
    }
}

impl<T: Plain> DerefMut for Array<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::Memory(all) => all,
            // SAFETY: as in `deref`; `self` is borrowed for as long as the slice.
            Self::File(mapped) => unsafe { std::slice::from_raw_parts_mut(mapped.map.as_mut_ptr().cast(), mapped.len) },
        }
    }
}

/// Counts touched pages of mapped arrays.
pub(super) struct Pages {
    touched: usize,
    most: usize,
}

impl Pages {
    /// `None`: nothing is mapped, nothing is counted.
    pub(super) fn new(memory_limit_bytes: Option<usize>) -> Self {
        Self { touched: 0, most: memory_limit_bytes.map_or(usize::MAX, |bytes| (bytes / 8 / PAGE).max(64)) }
    }

    /// Most pages that should be touched between two calls of `touch`.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Notes that up to `pages` pages were touched, and lets go of all if that makes too many.
    pub(super) fn touch<A: Plain, B: Plain>(&mut self, pages: usize, a: &Array<A>, b: &Array<B>) {
        self.touched = self.touched.saturating_add(pages);
        if self.touched >= self.most {
            a.release();
            b.release();
            self.touched = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_what_a_vector_holds_through_growth_and_release() {
        let folder = tempfile::tempdir().unwrap();
        let mut memory = Array::<u32>::new(None, "x").unwrap();
        let mut file = Array::<u32>::new(Some(folder.path()), "x").unwrap();
        let mut pages = Pages::new(Some(0));
        for round in 0..200_u32 {
            for array in [&mut memory, &mut file] {
                let from = array.len();
                array.resize(from + 700, round).unwrap();
                array.extend(300).unwrap();
                array[from + 700..].fill(round + 1);
                array[from / 2] = 9;
            }
            pages.touch(10, &file, &memory);
        }
        assert!(*memory == *file);
        for array in [&mut memory, &mut file] {
            array.resize(5, 0).unwrap();
            assert_eq!(array.len(), 5);
        }
        assert!(*memory == *file);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(Array::<u16>::new(Some(&folder.path().join("none")), "x").is_err());
    }
}
