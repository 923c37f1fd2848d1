//! One file for each target: `check(bytes)` panics where a promise of the code does not hold for these bytes.
//!
//! Compiled twice: into the fuzz targets, and into the integration tests, which run it over the kept corpora. In both, `source` two
//! levels up is `pipeline::source`.

pub mod charset;
pub mod chunks;
pub mod extract;
pub mod http;
pub mod lines;
pub mod members;
pub mod pack;
pub mod records;
pub mod url;

/// The first `N` bytes, which choose what is done, and the rest, to which it is done. Missing ones are 0.
fn knobs<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    let (front, rest) = bytes.split_at(bytes.len().min(N));
    let mut knobs = [0; N];
    knobs[..front.len()].copy_from_slice(front);
    (knobs, rest)
}

/// The bytes cut (`knob` even) or with one bit flipped (odd), at a place that `at` chooses; unchanged if `knob` is 0.
fn damaged(mut bytes: Vec<u8>, knob: u8, at: u8) -> Vec<u8> {
    if knob == 0 || bytes.is_empty() {
        return bytes;
    }
    let at = bytes.len() * usize::from(at) / 256;
    match knob % 2 {
        0 => bytes.truncate(at),
        _ => bytes[at] ^= 1 << (knob / 2 % 8),
    }
    bytes
}
