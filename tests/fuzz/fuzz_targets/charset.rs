//! What it asserts stands in `src/checks/charset.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::checks::charset::check(bytes));
