//! What it asserts stands in `src/checks/lines.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::checks::lines::check(bytes));
