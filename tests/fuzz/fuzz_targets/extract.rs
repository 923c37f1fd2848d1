//! What it asserts stands in `src/checks/extract.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::checks::extract::check(bytes));
