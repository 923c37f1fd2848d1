//! Counting within a memory budget.
//!
//! In: texts, a budget in bytes and a scratch folder. Out: one sorted file of piece counts (`sorted`), byte for byte what
//! `WordCounts::to_bytes` gives for the same texts. When the table would outgrow the budget, it is written as a sorted run
//! and emptied; at the end the runs are merged. Leaves the merge phase of BPE to `train`.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use super::{SortedWords, WordCounts, count_within, merge_sorted};
use crate::{TokenizerError, split::Splitter};

/// Least budget: below this a run would hold too few pieces to be worth a file.
const LEAST: usize = 1 << 16;

/// Piece counts, part of them in files.
#[derive(Debug)]
pub struct WordCounter {
    counts: WordCounts,
    memory_limit_bytes: usize,
    folder: PathBuf,
    runs: Vec<(PathBuf, u64)>,
}

impl WordCounter {
    /// Nothing counted. `folder` exists and is this counter's alone; `memory_limit_bytes` bounds the tables, growth
    /// included (at least 64 KiB; up to 32 pieces are taken in between two looks at it, whatever their length).
    pub fn new(folder: &Path, memory_limit_bytes: usize) -> Self {
        let memory_limit_bytes = memory_limit_bytes.max(LEAST);
        Self { counts: WordCounts::new(), memory_limit_bytes, folder: folder.to_owned(), runs: Vec::new() }
    }

    /// Counts the pieces of one text.
    pub fn count(&mut self, text: &str, splitter: &Splitter) -> Result<(), TokenizerError> {
        let Self { counts, memory_limit_bytes, folder, runs } = self;
        let mut failed = None;
        count_within(text, splitter, counts, &mut |counts| {
            if is_full(counts, *memory_limit_bytes) && failed.is_none() {
                failed = spill(counts, folder, runs).err();
            }
        });
        failed.map_or(Ok(()), Err)
    }

    /// Number of runs written so far.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Writes all counts into the sorted file `out` and removes the runs.
    pub fn finish(mut self, out: &Path) -> Result<SortedWords, TokenizerError> {
        spill(&mut self.counts, &self.folder, &mut self.runs)?;
        let words = merge_sorted(&self.runs, out)?;
        for (path, _) in &self.runs {
            std::fs::remove_file(path)
                .map_err(|source| TokenizerError::Write { path: path.display().to_string(), source })?;
        }
        Ok(words)
    }
}

fn is_full(counts: &WordCounts, limit: usize) -> bool {
    let (held, grown) = counts.held_bytes();
    held > limit || grown > limit && counts.is_about_to_grow()
}

fn spill(counts: &mut WordCounts, folder: &Path, runs: &mut Vec<(PathBuf, u64)>) -> Result<(), TokenizerError> {
    let path = folder.join(format!("{:05}.run", runs.len()));
    let mut write = || -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(&path)?);
        counts.drain_to(&mut out)?;
        out.flush()
    };
    write().map_err(|source| TokenizerError::Write { path: path.display().to_string(), source })?;
    runs.push((path, 1));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::Split;

    fn texts() -> Vec<String> {
        let mut texts: Vec<String> =
            include_str!("../../fixtures/multilingual.txt").lines().map(str::to_owned).collect();
        texts.extend([String::new(), "a".to_owned(), "x".repeat(300_000)]); // at last a piece longer than the budget
        texts
    }

    #[test]
    fn a_spilled_count_has_the_bytes_of_one_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        for split in [Split::Cl100k, r"\w+|\s".parse().unwrap()] {
            let splitter = Splitter::new(&split, false).unwrap();
            let mut whole = WordCounts::new();
            let mut counter = WordCounter::new(folder.path(), 0);
            for text in texts() {
                super::super::count(&text, &splitter, &mut whole);
                counter.count(&text, &splitter).unwrap();
                assert!(counter.counts.held_bytes().0 <= 4 * LEAST || text.len() > LEAST);
            }
            assert!(counter.runs() > 10, "{}", counter.runs());
            let out = folder.path().join("all");
            let words = counter.finish(&out).unwrap();
            assert_eq!(std::fs::read(&out).unwrap(), whole.to_bytes());
            assert_eq!((words.rows, words.total), (whole.len() as u64, whole.total()));
            let mut seen = WordCounts::new();
            words.each(|piece, count| seen.add(piece, count)).unwrap();
            assert_eq!(seen.to_bytes(), whole.to_bytes());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1); // no run is left behind
    }

    #[test]
    fn sources_are_added_up_with_their_weights_in_any_number_of_files() {
        let folder = tempfile::tempdir().unwrap();
        let splitter = Splitter::new(&Split::Gpt2, false).unwrap();
        let mut expected = WordCounts::new();
        let mut inputs = Vec::new();
        for (i, text) in texts().into_iter().take(150).enumerate() {
            let path = folder.path().join(format!("source {i}"));
            let mut counter = WordCounter::new(folder.path(), 1 << 20);
            counter.count(&text, &splitter).unwrap();
            counter.finish(&path).unwrap();
            let weight = 1 + i as u64 % 3;
            (0..weight).for_each(|_| super::super::count(&text, &splitter, &mut expected));
            inputs.push((path, weight));
        }
        let out = folder.path().join("all");
        merge_sorted(&inputs, &out).unwrap();
        assert_eq!(std::fs::read(&out).unwrap(), expected.to_bytes());
        inputs.reverse();
        merge_sorted(&inputs, &out).unwrap();
        assert_eq!(std::fs::read(&out).unwrap(), expected.to_bytes());
        inputs[0].1 = 0;
        assert!(merge_sorted(&inputs, &out).unwrap_err().to_string().contains("weight 0"));
        inputs.iter_mut().for_each(|(_, weight)| *weight = u64::MAX / 2);
        assert!(merge_sorted(&inputs, &out).unwrap_err().to_string().contains("2^64"));
        assert_eq!(merge_sorted(&[], &out).unwrap().rows, 0);
        std::fs::write(&out, b"GMWORDS\x01\x02\x00\x01b\x01\x00\x01a\x01").unwrap();
        assert!(merge_sorted(&[(out, 1)], &folder.path().join("x")).unwrap_err().to_string().contains("rising order"));
    }
}
