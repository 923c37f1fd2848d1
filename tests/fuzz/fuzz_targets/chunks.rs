//! What it asserts stands in `src/checks/chunks.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::checks::chunks::check(bytes));
