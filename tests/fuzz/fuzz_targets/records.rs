//! What it asserts stands in `src/checks/records.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::checks::records::check(bytes));
