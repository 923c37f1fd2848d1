//! Bytes of tokens -> text, piece by piece, for printing while a model generates.
//!
//! In: bytes that can end inside a character. Out: the characters that are complete. Leaves ids to `Tokenizer`.

/// Holds back an unfinished character until its bytes are there. The outputs together are the lossy decoding of all bytes.
#[derive(Clone, Debug, Default)]
pub struct Utf8Stream {
    pending: Vec<u8>, // at most 3 bytes: the beginning of a character
}

impl Utf8Stream {
    /// Nothing pending.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes more bytes, returns what is complete. Bytes that can never become a character turn into U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        loop {
            match str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                    let bad = error.error_len();
                    self.pending.drain(..valid + bad.unwrap_or(0));
                    if bad.is_none() {
                        return text;
                    }
                    text.push(char::REPLACEMENT_CHARACTER);
                }
            }
        }
    }

    /// The end: an unfinished character turns into U+FFFD.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_chunking_gives_the_lossy_decoding_and_never_half_a_character() {
        for bytes in ["", "a", "naïve 漢字 😀!"]
            .map(str::as_bytes)
            .into_iter()
            .chain([&b"\xf0\x9f\x98a\xff\xc3"[..], b"\xe6\xbc"])
        {
            for size in 1..6 {
                let mut stream = Utf8Stream::new();
                let mut text: String = bytes.chunks(size).map(|chunk| stream.push(chunk)).collect();
                text += &stream.finish();
                assert_eq!(text, String::from_utf8_lossy(bytes), "{size}");
            }
        }
        let mut stream = Utf8Stream::new();
        assert_eq!(stream.push(&[0xf0, 0x9f, 0x98]), "");
        assert_eq!(stream.push(&[0x80]), "😀");
    }
}
