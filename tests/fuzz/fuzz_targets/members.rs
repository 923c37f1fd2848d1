//! What it asserts stands in `src/checks/members.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::checks::members::check(bytes));
