//! The checks of the fuzz targets (`tests/fuzz`) over the corpora kept there: what fuzzing once reached stays true, without a fuzzer.

use crate::support::root;
use pipeline::source;
use std::panic::catch_unwind;

#[path = "fuzz/src/checks/mod.rs"]
mod checks;

fn holds_for_all(target: &str, check: fn(&[u8])) {
    let folder = root().join("tests/fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no corpus in {}", folder.display());
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        assert!(catch_unwind(|| check(&bytes)).is_ok(), "{} does not hold", file.display());
    }
}

#[test]
fn members_and_frames_of_any_file_are_walked() {
    holds_for_all("members", checks::members::check);
}

#[test]
fn records_of_any_file_are_read_and_those_written_come_back() {
    holds_for_all("records", checks::records::check);
}

#[test]
fn any_response_is_read_and_headers_written_come_back() {
    holds_for_all("http", checks::http::check);
}

#[test]
fn any_body_is_decoded_within_limits_and_chunks_written_come_back() {
    holds_for_all("chunks", checks::chunks::check);
}

#[test]
fn any_bytes_are_text_and_text_encoded_comes_back() {
    holds_for_all("charset", checks::charset::check);
}

#[test]
fn any_page_is_extracted_within_its_budgets() {
    holds_for_all("extract", checks::extract::check);
}

#[test]
fn canonical_urls_stay_and_parts_of_urls_are_slices() {
    holds_for_all("url", checks::url::check);
}

#[test]
fn records_of_line_formats_do_not_depend_on_how_bytes_arrive() {
    holds_for_all("lines", checks::lines::check);
}
