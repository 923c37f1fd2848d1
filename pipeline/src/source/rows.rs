//! Document rows under construction, and the identity every document gets once and keeps.

use super::takedown::Takedown;
use crate::error::Result;
use crate::schema;
use crate::verdict::{Finding, Status, Verdicts};
use datafusion::arrow::array::{
    ArrayRef, BinaryBuilder, RecordBatch, StringBuilder, StructArray, UInt16Builder, UInt64Builder,
};
use std::sync::Arc;

/// Where a document starts in its file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// Byte offset of the member or line, or row index of a Parquet file.
    pub offset: u64,
    /// Decoded offset inside the member.
    pub offset_in_member: u64,
    /// Stored length in bytes (1 for a Parquet row).
    pub length: u64,
}

/// One document as a source hands it over.
#[derive(Clone, Debug, Default)]
pub struct Document<'a> {
    /// Its URL.
    pub url: Option<&'a str>,
    /// The id its owner gave it.
    pub source_id: Option<&'a str>,
    /// When it was fetched, as the source says.
    pub date: Option<&'a str>,
    /// HTTP status.
    pub http_status: Option<u16>,
    /// HTTP content type.
    pub content_type: Option<&'a str>,
    /// Raw HTML bytes …
    pub html: Option<&'a [u8]>,
    /// … or text.
    pub text: Option<&'a str>,
    /// Values of the carried columns, in their order.
    pub extra: Vec<Option<String>>,
}

/// 128-bit blake3 over the length-prefixed tuple (file, offset, offset in member, payload hash), 32 hex digits.
pub fn document_id(file: &str, place: &Place, payload_hash: &str) -> String {
    hash_tuple(&[
        file.as_bytes(),
        &place.offset.to_le_bytes(),
        &place.offset_in_member.to_le_bytes(),
        payload_hash.as_bytes(),
    ])
}

/// Identity of a row made from another: hash(parent, stage, ordinal).
pub fn derived_id(parent: &str, stage: &str, ordinal: u64) -> String {
    hash_tuple(&[parent.as_bytes(), stage.as_bytes(), &ordinal.to_le_bytes()])
}

fn hash_tuple(parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_hex()[..32].to_string()
}

/// blake3 of a payload, 32 hex digits.
pub fn payload_hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..32].to_string()
}

/// Names of a record's fields that are kept to be shown.
const MOST_NAMES: usize = 64;

/// Collects documents and verdicts of one fragment, batch by batch.
pub struct Rows {
    file: String,
    extra_names: Vec<String>,
    strings: [StringBuilder; 6], // id, url, source_id, date, content_type, payload_hash
    status: UInt16Builder,
    file_column: StringBuilder,
    place: [UInt64Builder; 3],
    extra: Vec<StringBuilder>,
    html: BinaryBuilder,
    text: StringBuilder,
    rows: usize,
    bytes: usize,
    takedown: Arc<Takedown>,
    /// Which of the carried columns some record has had.
    has: Vec<bool>,
    /// Names of the fields of the first record, while a carried column has not been seen.
    names: Vec<String>,
    /// One verdict per record that is or should have been a document.
    pub verdicts: Verdicts,
}

impl Rows {
    /// No rows yet; `file` is the path relative to the source's fixed prefix. Documents that `takedown` lists are refused.
    pub fn new(file: &str, extra_names: &[String], takedown: Arc<Takedown>) -> Self {
        Self {
            file: file.to_string(),
            extra_names: extra_names.to_vec(),
            strings: Default::default(),
            status: UInt16Builder::new(),
            file_column: StringBuilder::new(),
            place: Default::default(),
            extra: extra_names.iter().map(|_| StringBuilder::new()).collect(),
            html: BinaryBuilder::new(),
            text: StringBuilder::new(),
            rows: 0,
            bytes: 0,
            takedown,
            has: vec![false; extra_names.len()],
            names: Vec::new(),
            verdicts: Verdicts::default(),
        }
    }

    /// Adds a document.
    pub fn keep(&mut self, place: &Place, document: &Document<'_>) {
        let payload = document.html.or(document.text.map(str::as_bytes)).unwrap_or_default();
        let hash = payload_hash(payload);
        let id = document_id(&self.file, place, &hash);
        if let Some(entry) = self.takedown.entry(&id, document.url) {
            let reason = Some(format!("listed as {entry}"));
            let finding = Finding { rule: "ingest.takedown".into(), reason, ..Finding::default() };
            return self.verdicts.push(&id, Status::Dropped, &[finding]);
        }
        self.verdicts.keep(&id);
        let [ids, url, source_id, date, content_type, hashes] = &mut self.strings;
        ids.append_value(&id);
        url.append_option(document.url);
        source_id.append_option(document.source_id);
        date.append_option(document.date);
        content_type.append_option(document.content_type);
        hashes.append_value(&hash);
        self.status.append_option(document.http_status);
        self.file_column.append_value(&self.file);
        for (builder, value) in self.place.iter_mut().zip([place.offset, place.offset_in_member, place.length]) {
            builder.append_value(value);
        }
        for (i, builder) in self.extra.iter_mut().enumerate() {
            builder.append_option(document.extra.get(i).and_then(|v| v.as_deref()));
        }
        self.html.append_option(document.html);
        self.text.append_option(document.text);
        self.rows += 1;
        self.bytes += payload.len();
    }

    /// Adds a record that became no document: dropped by a rule, or damaged.
    pub fn refuse(&mut self, place: &Place, status: Status, rule: &str, value: Option<f64>, reason: String) {
        let id = document_id(&self.file, place, rule);
        let reason = format!("{reason} ({}:{}+{})", self.file, place.offset, place.offset_in_member);
        self.verdicts.push(
            &id,
            status,
            &[Finding { rule: format!("ingest.{rule}"), value, threshold: None, reason: Some(reason) }],
        );
    }

    /// Notes which of the carried columns a record has, in their order, and the names that it has.
    pub fn found_columns<'a, N: Iterator<Item = &'a String>>(
        &mut self,
        has: impl Iterator<Item = bool>,
        names: impl FnOnce() -> N,
    ) {
        self.has.iter_mut().zip(has).for_each(|(before, now)| *before |= now);
        if self.names.is_empty() && self.has.contains(&false) {
            self.names = names().take(MOST_NAMES).cloned().collect();
        }
    }

    /// Carried columns that no record has had so far, and names of fields that the first record has.
    pub fn missing_columns(&self) -> (impl Iterator<Item = &String>, &[String]) {
        let missing = self.extra_names.iter().zip(&self.has).filter(|(_, has)| !**has).map(|(name, _)| name);
        (missing, &self.names)
    }

    /// Whether enough is collected to write a batch.
    pub fn is_full(&self) -> bool {
        self.rows >= 1024 || self.bytes >= 16 << 20
    }

    /// The rows collected so far, as tables of documents and of verdicts.
    pub fn take(&mut self) -> Result<(RecordBatch, RecordBatch)> {
        (self.rows, self.bytes) = (0, 0);
        let [ids, url, source_id, date, content_type, hashes] = &mut self.strings;
        let place = self.place.each_mut().map(|b| Arc::new(b.finish()) as ArrayRef);
        let [offset, inside, length] = place;
        let file: ArrayRef = Arc::new(self.file_column.finish());
        let source = StructArray::try_new(schema::source_fields(), vec![file, offset, inside, length], None)?;
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(ids.finish()),
            Arc::new(url.finish()),
            Arc::new(source_id.finish()),
            Arc::new(date.finish()),
            Arc::new(self.status.finish()),
            Arc::new(content_type.finish()),
            Arc::new(hashes.finish()),
            Arc::new(source),
        ];
        columns.extend(self.extra.iter_mut().map(|b| Arc::new(b.finish()) as ArrayRef));
        columns.push(Arc::new(self.html.finish()));
        columns.push(Arc::new(self.text.finish()));
        let documents = RecordBatch::try_new(schema::ingested(&self.extra_names), columns)?;
        Ok((documents, self.verdicts.finish(Vec::new())?))
    }
}
