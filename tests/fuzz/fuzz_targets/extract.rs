//! Any bytes, decoded and extracted in both formats: no panic, text that is not empty, faults past their threshold.

#![no_main]

use filters::charset;
use filters::extract::{ExtractConfig, ExtractFault, Format, extract};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let html = charset::decode(bytes, None).text;
    for format in [Format::Text, Format::Markdown] {
        match extract(&html, Some("https://a.org/b/c"), &ExtractConfig { format, ..Default::default() }) {
            Ok(page) => assert!(!page.text.trim_end().is_empty()),
            Err(ExtractFault::NoText) => {}
            Err(fault) => assert!(fault.value() > fault.threshold()),
        }
    }
});
