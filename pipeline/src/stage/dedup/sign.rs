//! Phase A of `dedup`: what is compared of every document, in side files; then read back, a column at a time.
//!
//! A fragment has a table (keys, band keys, where its shingles are, what an earlier run's index knows) and a flat file of shingles,
//! so that shingle sets are fetched where they lie and never go through a wide operator.

use super::DedupStage;
use crate::dataset::{column, string_column};
use crate::error::{Error, Result};
use crate::sink::TableSink;
use crate::stage::Context;
use crate::store::durable::DurableFile;
use crate::store::{FragmentRecord, OutputDir};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Float64Builder, RecordBatch, StringBuilder, UInt32Builder, UInt64Array, UInt64Builder,
};
use datafusion::arrow::datatypes::UInt64Type;
use dedup::{ExactBy, Index, Method, Signed, Signer, find_known, key_by};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Name of the phase and of its side files.
pub const SIGNATURES: &str = "signatures";

/// The column of a band's keys.
pub fn band(number: usize) -> String {
    format!("band_{number:04}")
}

/// The two columns of the exact key of one kind.
pub fn exact(by: ExactBy) -> [String; 2] {
    ["high", "low"].map(|half| format!("{by:?}_{half}").to_lowercase())
}

/// Signs the documents of one input fragment.
pub fn sign(
    context: &Context<'_>,
    config: &DedupStage,
    indexes: &[Index<'_>],
    part: &Path,
    index: usize,
) -> Result<FragmentRecord> {
    let near = config.dedup.method == Method::Minhash;
    let mut signer = Signer::new(&config.dedup.signatures(config.signatures))
        .map_err(|e| Error::Manifest(format!("error: stage `{}`: {e}", context.name())))?;
    let shingles_name = OutputDir::side_name(SIGNATURES, &format!("{index:05}.bin"));
    let mut shingles = DurableFile::create(&context.out.path, &shingles_name)?;
    let has_url = context.input().schema()?.column_with_name("url").is_some();
    let columns: &[&str] = if has_url { &["id", "url", "text"] } else { &["id", "text"] };
    let mut record = FragmentRecord::default();
    let (mut sink, mut at) = (None, 0_u64);
    context.input().each(part, columns, |batch| {
        let (ids, texts) = (string_column(&batch, "id")?, string_column(&batch, "text")?);
        let urls = if has_url { Some(string_column(&batch, "url")?) } else { None };
        let mut table = Table::new(config);
        for i in 0..batch.num_rows() {
            let text = if texts.is_null(i) { "" } else { texts.value(i) };
            let url = urls.filter(|u| !u.is_null(i)).map(|u| u.value(i));
            let signed =
                if near { signer.sign(text) } else { Signed { exact: dedup::exact_key(text), ..Signed::default() } };
            let (known, overflow) = find_known(indexes, &signed, &config.dedup);
            record.add("overflow:buckets", overflow.buckets);
            record.add("overflow:pairs", overflow.pairs);
            table.push(config, ids.value(i), &signed, at, |by| key_by(by, text, url), known);
            for shingle in &signed.shingles {
                shingles.write_all(&shingle.to_le_bytes()).map_err(Error::io("write", &shingles_name))?;
            }
            at += signed.shingles.len() as u64;
        }
        let rows = table.finish()?;
        if sink.is_none() {
            let name = OutputDir::side_name(SIGNATURES, &format!("{index:05}.parquet"));
            sink = Some(TableSink::create(&context.out.path, &name, rows.schema())?);
        }
        sink.as_mut().expect("it was made one line up").write(&rows)
    })?;
    if let Some(sink) = sink {
        record.files.push(sink.finish()?);
    }
    record.files.push(shingles.finish()?);
    Ok(record)
}

/// Collects rows of the side table.
struct Table {
    id: StringBuilder,
    halves: Vec<[UInt64Builder; 2]>,
    short: [UInt64Builder; 2],
    text_key: [UInt64Builder; 2],
    start: UInt64Builder,
    count: UInt32Builder,
    bands: Vec<UInt64Builder>,
    known_id: StringBuilder,
    known_method: StringBuilder,
    known_jaccard: Float64Builder,
    known_shared: UInt32Builder,
    by: Vec<ExactBy>,
}

impl Table {
    fn new(config: &DedupStage) -> Self {
        let bands = if config.dedup.method == Method::Minhash { config.dedup.bands } else { 0 };
        Self {
            id: StringBuilder::new(),
            halves: config.exact_by.iter().map(|_| Default::default()).collect(),
            short: Default::default(),
            text_key: Default::default(),
            start: UInt64Builder::new(),
            count: UInt32Builder::new(),
            bands: (0..bands).map(|_| UInt64Builder::new()).collect(),
            known_id: StringBuilder::new(),
            known_method: StringBuilder::new(),
            known_jaccard: Float64Builder::new(),
            known_shared: UInt32Builder::new(),
            by: config.exact_by.clone(),
        }
    }

    fn push(
        &mut self,
        config: &DedupStage,
        id: &str,
        signed: &Signed,
        start: u64,
        key: impl Fn(ExactBy) -> Option<u128>,
        known: Option<dedup::Known>,
    ) {
        self.id.append_value(id);
        for (by, halves) in config.exact_by.iter().zip(&mut self.halves) {
            append(halves, key(*by));
        }
        append(&mut self.short, signed.short);
        append(&mut self.text_key, Some(signed.exact));
        self.start.append_value(start);
        self.count.append_value(signed.shingles.len() as u32);
        for (number, band) in self.bands.iter_mut().enumerate() {
            band.append_option(signed.bands.get(number).copied());
        }
        self.known_id.append_option(known.map(|k| format!("{:032x}", k.kept_id)));
        self.known_method.append_option(known.map(|k| k.matched_by.name()));
        self.known_jaccard.append_option(known.and_then(|k| k.jaccard));
        self.known_shared.append_option(known.map(|k| k.shared_bands));
    }

    fn finish(mut self) -> Result<RecordBatch> {
        let mut columns: Vec<(String, ArrayRef)> = vec![("id".into(), std::sync::Arc::new(self.id.finish()))];
        let mut add = |name: String, array: ArrayRef| columns.push((name, array));
        for (by, halves) in self.by.iter().zip(&mut self.halves) {
            for (name, half) in exact(*by).into_iter().zip(halves) {
                add(name, std::sync::Arc::new(half.finish()));
            }
        }
        for (name, keys) in [("short", &mut self.short), ("exact", &mut self.text_key)] {
            for (half, builder) in ["high", "low"].iter().zip(keys) {
                add(format!("{name}_{half}"), std::sync::Arc::new(builder.finish()));
            }
        }
        add("shingle_start".into(), std::sync::Arc::new(self.start.finish()));
        add("shingles".into(), std::sync::Arc::new(self.count.finish()));
        for (number, builder) in self.bands.iter_mut().enumerate() {
            add(band(number), std::sync::Arc::new(builder.finish()));
        }
        add("known_id".into(), std::sync::Arc::new(self.known_id.finish()));
        add("known_method".into(), std::sync::Arc::new(self.known_method.finish()));
        add("known_jaccard".into(), std::sync::Arc::new(self.known_jaccard.finish()));
        add("known_shared".into(), std::sync::Arc::new(self.known_shared.finish()));
        crate::stage::extract::table(columns)
    }
}

fn append(halves: &mut [UInt64Builder; 2], key: Option<u128>) {
    halves[0].append_option(key.map(|k| (k >> 64) as u64));
    halves[1].append_option(key.map(|k| k as u64));
}

/// The side files of all fragments.
pub struct Signatures {
    /// Table (none for a fragment without rows) and flat file of shingles of each fragment.
    files: Vec<(Option<PathBuf>, Flat)>,
}

impl Signatures {
    /// Opens what phase A committed.
    pub fn open(folder: &Path, records: &[FragmentRecord]) -> Result<Self> {
        let open = |record: &FragmentRecord| -> Result<(Option<PathBuf>, Flat)> {
            let of =
                |ending: &str| record.files.iter().find(|f| f.path.ends_with(ending)).map(|f| folder.join(&f.path));
            let shingles = of(".bin").expect("phase A wrote one for every fragment");
            Ok((of(".parquet"), Flat::open(shingles)?))
        };
        Ok(Self { files: records.iter().map(open).collect::<Result<_>>()? })
    }

    /// Calls `row` with the fragment and the batch, over all fragments in order, for these columns.
    pub fn each(
        &self,
        context: &Context<'_>,
        columns: &[&str],
        mut batch: impl FnMut(u32, &RecordBatch) -> Result<()>,
    ) -> Result<()> {
        for (fragment, (table, _)) in self.files.iter().enumerate() {
            if let Some(table) = table {
                context.input().each(table, columns, |rows| batch(fragment as u32, &rows))?;
            }
        }
        Ok(())
    }

    /// The shingles at a place of a fragment's flat file.
    pub fn shingles(&self, fragment: u32, start: u64, count: u32, into: &mut Vec<u64>) -> Result<()> {
        let mut bytes = vec![0; count as usize * 8];
        self.files[fragment as usize].1.read(start * 8, &mut bytes)?;
        into.clear();
        into.extend(bytes.as_chunks::<8>().0.iter().map(|chunk| u64::from_le_bytes(*chunk)));
        Ok(())
    }
}

/// Two columns of halves as keys; null where a half is.
pub fn keys<'a>(batch: &'a RecordBatch, names: [&str; 2]) -> Result<impl Fn(usize) -> Option<u128> + 'a> {
    let [high, low]: [&UInt64Array; 2] =
        [column(batch, names[0])?.as_primitive::<UInt64Type>(), column(batch, names[1])?.as_primitive::<UInt64Type>()];
    Ok(move |row: usize| (!high.is_null(row)).then(|| u128::from(high.value(row)) << 64 | u128::from(low.value(row))))
}

/// A side file read in places: unlike a map's, its pages never count as this process's memory.
pub struct Flat {
    file: File,
    path: PathBuf,
}

impl Flat {
    /// Opens a file.
    pub fn open(path: PathBuf) -> Result<Self> {
        Ok(Self { file: File::open(&path).map_err(Error::io("open", &path))?, path })
    }

    /// Fills a buffer from a place on.
    pub fn read(&self, start: u64, into: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(into, start).map_err(Error::io("read", &self.path))
    }
}
