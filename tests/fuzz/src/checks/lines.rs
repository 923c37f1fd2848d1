//! Line formats: where a record of JSONL, CSV or TSV ends.
//!
//! The records cover the input without gap or overlap, are the same however the bytes arrive, and reading from the start of any of
//! them gives the rest of them.

use super::super::source::records::{Broken, Records, Shape};
use super::knobs;
use std::io::BufReader;

type Found = (u64, u64, Result<Vec<u8>, Broken>);

/// Knobs: shape, bytes that arrive at a time, the record to begin from.
pub fn check(bytes: &[u8]) {
    let ([shape, piece, from], bytes) = knobs(bytes);
    let shape = [Shape::Lines, Shape::Csv { delimiter: b',' }, Shape::Csv { delimiter: b'\t' }][usize::from(shape) % 3];
    let whole = all(bytes, shape, bytes.len() + 1, 0);
    let mut at = 0;
    for (offset, length, held) in &whole {
        assert_eq!(*offset, at);
        at += length;
        let own = &bytes[*offset as usize..at as usize];
        assert!(!own.is_empty());
        match held {
            Ok(held) => assert_eq!(held, own),
            Err(broken) => assert_eq!((*broken, shape == Shape::Lines), (Broken::UnclosedQuote, false)),
        }
        assert!(own.ends_with(b"\n") || at == bytes.len() as u64, "a record that ends inside a line");
        assert!(shape != Shape::Lines || !own[..own.len() - 1].contains(&b'\n'), "two lines in one record");
    }
    assert_eq!(at, bytes.len() as u64);
    assert_eq!(all(bytes, shape, usize::from(piece) + 1, 0), whole);
    if let Some((offset, ..)) = whole.get(usize::from(from) % (whole.len() + 1)) {
        let rest = all(&bytes[*offset as usize..], shape, 64, *offset);
        assert!(whole.ends_with(&rest) && rest.first().is_some_and(|first| first.0 == *offset));
    }
}

fn all(bytes: &[u8], shape: Shape, piece: usize, offset: u64) -> Vec<Found> {
    let mut records = Records::new(BufReader::with_capacity(piece, bytes), shape, offset);
    let mut found = Vec::new();
    while let Some(record) = records.next().expect("memory is always read") {
        found.push((record.offset, record.length, record.bytes.map(<[u8]>::to_vec)));
    }
    found
}
