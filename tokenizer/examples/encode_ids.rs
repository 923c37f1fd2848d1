//! Ids of many texts, for `tests/parity/tokenizer.py`: `encode_ids TEXTS IDS plain|specials KIND FILE...`.
//!
//! TEXTS holds texts separated by the byte 0x1e. IDS becomes their ids as little-endian u32, 0xffffffff after each text.
//! KIND and FILE: `json TOKENIZER_JSON`, `ranks RANKS SPLIT` (a split's name or an encoding's name in tiktoken), or
//! `gpt2 ENCODER_JSON VOCAB_BPE`. With `specials` the texts of added tokens are these tokens.

use tokenizer::{END_OF_TEXT, Split, Splitter, Tokenizer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [texts, out, how, kind, files @ ..] = &args[..] else {
        return Err("usage: encode_ids TEXTS IDS plain|specials KIND FILE...".into());
    };
    let tokenizer = match (kind.as_str(), files) {
        ("json", [file]) => Tokenizer::load(file)?,
        ("ranks", [file, split]) => {
            let splitter = Splitter::tiktoken(split).or_else(|_| Splitter::new(&split.parse()?, false))?;
            Tokenizer::from_ranks(&std::fs::read(file)?, splitter, &[(END_OF_TEXT, 1 << 20)])?
        }
        ("gpt2", [vocab, merges]) => {
            let splitter = Splitter::new(&Split::Gpt2, false)?;
            let (vocab, merges) = (std::fs::read(vocab)?, std::fs::read_to_string(merges)?);
            Tokenizer::from_vocab_and_merges(&vocab, &merges, splitter, &[END_OF_TEXT])?
        }
        _ => return Err("KIND FILE... is `json FILE`, `ranks FILE SPLIT` or `gpt2 FILE FILE`".into()),
    };
    let texts = std::fs::read_to_string(texts)?;
    let mut encoder = tokenizer.encoder();
    let mut ids = Vec::new();
    for text in texts.split('\x1e') {
        match how.as_str() {
            "specials" => ids.extend(tokenizer.encode_with_specials(text)),
            _ => encoder.encode_into(text, &mut ids),
        }
        ids.push(u32::MAX);
    }
    std::fs::write(out, ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>())?;
    Ok(())
}
