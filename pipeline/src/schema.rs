//! The columns of documents and verdicts, in one place.

use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use std::sync::Arc;

/// Where a document came from: file, byte offset of the member, offset inside it, bytes, row.
pub fn source_fields() -> Fields {
    Fields::from(vec![
        Field::new("file", DataType::Utf8, false),
        Field::new("offset", DataType::UInt64, false),
        Field::new("offset_in_member", DataType::UInt64, false),
        Field::new("length", DataType::UInt64, false),
    ])
}

/// Columns that `ingest` writes, before the carried `extra` text columns.
pub fn ingested(extra: &[String]) -> SchemaRef {
    let mut fields = vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("url", DataType::Utf8, true),
        Field::new("source_id", DataType::Utf8, true),
        Field::new("date", DataType::Utf8, true),
        Field::new("http_status", DataType::UInt16, true),
        Field::new("content_type", DataType::Utf8, true),
        Field::new("payload_hash", DataType::Utf8, false),
        Field::new("source", DataType::Struct(source_fields()), false),
    ];
    fields.extend(extra.iter().map(|name| Field::new(name, DataType::Utf8, true)));
    fields.push(Field::new("html", DataType::Binary, true));
    fields.push(Field::new("text", DataType::Utf8, true));
    Arc::new(Schema::new(fields))
}

/// A list of strings, as arrow spells it.
pub fn string_list() -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)))
}

/// The columns of a table of edits: where in the new text something else stood in the old one, and what. Offsets are bytes;
/// rows of one document in order rebuild its old text.
pub fn edits() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("rule", DataType::Utf8, false),
        Field::new("start", DataType::UInt64, false),
        Field::new("end", DataType::UInt64, false),
        Field::new("removed", DataType::Utf8, false),
    ]))
}

/// The columns every verdict table begins with; `more` follow.
pub fn verdicts(more: Vec<Field>) -> SchemaRef {
    let mut fields = vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("status", DataType::Utf8, false),
        Field::new("rule", DataType::Utf8, true),
        Field::new("value", DataType::Float64, true),
        Field::new("threshold", DataType::Float64, true),
        Field::new("failed_rules", string_list(), false),
        Field::new("reason", DataType::Utf8, true),
    ];
    fields.extend(more);
    Arc::new(Schema::new(fields))
}
