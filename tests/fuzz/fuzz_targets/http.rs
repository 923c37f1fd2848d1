//! What it asserts stands in `src/checks/http.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::checks::http::check(bytes));
