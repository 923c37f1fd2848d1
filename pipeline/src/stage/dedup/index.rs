//! Indexes: what a later crawl is compared with, and what this run leaves for the next.

use super::DedupStage;
use super::ids::Ids;
use super::near::Fates;
use super::sign::{self, Signatures};
use crate::dataset::{column, string_column};
use crate::error::{Error, Result};
use crate::source::Mapped;
use crate::source::files::Asset;
use crate::stage::Context;
use crate::store::FragmentRecord;
use crate::store::durable::write_file;
use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{UInt32Type, UInt64Type};
use dedup::{Index, IndexBuilder, Method, Signed};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Shingles of one index file; with their documents' keys, 64 MiB and more.
const SHINGLES_PER_FILE: u64 = 8 << 20;
const PREFIX: &str = "index-";

/// The files that `against` names: those of a folder, or the file itself.
pub fn files(config: &DedupStage, folder: &Path) -> Vec<(String, Asset)> {
    let mut files = Vec::new();
    for named in &config.against {
        for path in expand(&folder.join(named)) {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            files.push((format!("against {} {name}", named.display()), Asset::Local(path)));
        }
    }
    files
}

fn expand(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else { return vec![path.to_path_buf()] };
    let is_index = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(PREFIX));
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(is_index).collect();
    files.sort();
    if files.is_empty() { vec![path.join(format!("{PREFIX}00000.bin"))] } else { files }
}

/// Maps the files of `against`.
pub fn map(context: &Context<'_>, config: &DedupStage) -> Result<Vec<(PathBuf, Mapped)>> {
    let paths = config.against.iter().flat_map(|named| expand(&context.folder.join(named)));
    paths.map(|path| Mapped::open(&path).map(|mapped| (path, mapped))).collect()
}

/// Reads mapped indexes.
pub fn open<'a>(config: &DedupStage, mapped: &'a [(PathBuf, Mapped)]) -> Result<Vec<Index<'a>>> {
    let signatures = config.dedup.signatures(config.signatures);
    let open = |(path, bytes): &'a (PathBuf, Mapped)| {
        Index::open(bytes.bytes(), &signatures).map_err(|e| {
            Error::Manifest(format!(
                "error: {}: {e}\nhint: an index is made by a dedup stage with  write_index = true  and the same signatures",
                path.display()
            ))
        })
    };
    mapped.iter().map(open).collect()
}

/// Writes the index of what this run kept, in files of bounded size.
pub fn write(
    context: &Context<'_>,
    config: &DedupStage,
    ids: &Ids,
    fates: &Fates,
    signatures: &Signatures,
) -> Result<FragmentRecord> {
    let stays = |rank: u32| fates.kept[rank as usize] == rank && !fates.evidence.contains_key(&rank);
    let mut sizes = vec![0_u32; ids.len()];
    signatures.each(context, &["id", "shingles"], |_, batch| {
        let (own, count) = (string_column(batch, "id")?, column(batch, "shingles")?.as_primitive::<UInt32Type>());
        (0..batch.num_rows()).for_each(|row| sizes[ids.rank(own.value(row)) as usize] = count.value(row));
        Ok(())
    })?;
    let mut record = FragmentRecord::default();
    let (mut from, mut number) = (0_u32, 0);
    while (from as usize) < ids.len() {
        let (mut to, mut held) = (from, 0);
        while (to as usize) < ids.len() && held < SHINGLES_PER_FILE {
            held += if stays(to) { u64::from(sizes[to as usize]) + 16 } else { 0 };
            to += 1;
        }
        let name = format!("{PREFIX}{number:05}.bin");
        let bytes = one(context, config, ids, signatures, |rank| (from..to).contains(&rank) && stays(rank))?;
        record.add("indexed", (from..to).filter(|rank| stays(*rank)).count() as u64);
        record.files.push(write_file(&context.out.path, &name, &bytes)?);
        (from, number) = (to, number + 1);
    }
    Ok(record)
}

/// One index over the documents that `takes`, in survivor order.
fn one(
    context: &Context<'_>,
    config: &DedupStage,
    ids: &Ids,
    signatures: &Signatures,
    takes: impl Fn(u32) -> bool,
) -> Result<Vec<u8>> {
    let bands: Vec<String> = match config.dedup.method {
        Method::Minhash => (0..config.dedup.bands).map(sign::band).collect(),
        _ => Vec::new(),
    };
    let mut columns = vec!["id", "exact_high", "exact_low", "short_high", "short_low", "shingle_start", "shingles"];
    columns.extend(bands.iter().map(String::as_str));
    let mut documents: BTreeMap<u32, Signed> = BTreeMap::new();
    signatures.each(context, &columns, |fragment, batch| {
        let own = string_column(batch, "id")?;
        let exact = sign::keys(batch, ["exact_high", "exact_low"])?;
        let short = sign::keys(batch, ["short_high", "short_low"])?;
        let start = column(batch, "shingle_start")?.as_primitive::<UInt64Type>();
        let count = column(batch, "shingles")?.as_primitive::<UInt32Type>();
        let mut keys = Vec::new();
        for band in &bands {
            keys.push(column(batch, band)?.as_primitive::<UInt64Type>());
        }
        for row in 0..batch.num_rows() {
            let rank = ids.rank(own.value(row));
            if takes(rank) {
                let mut signed = Signed {
                    exact: exact(row).expect("every document has this key"),
                    short: short(row),
                    bands: keys.iter().filter(|k| !k.is_null(row)).map(|k| k.value(row)).collect(),
                    shingles: Vec::new(),
                };
                signatures.shingles(fragment, start.value(row), count.value(row), &mut signed.shingles)?;
                documents.insert(rank, signed);
            }
        }
        Ok(())
    })?;
    let mut builder = IndexBuilder::new(&config.dedup.signatures(config.signatures));
    documents.iter().for_each(|(rank, signed)| builder.push(ids.number(*rank), signed));
    Ok(builder.finish())
}
