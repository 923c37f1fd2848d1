//! What it asserts stands in `src/checks/url.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::checks::url::check(bytes));
