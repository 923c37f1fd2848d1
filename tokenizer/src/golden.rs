//! Tests against ids of tiktoken, committed as checksums by `tests/parity/tokenizer.py golden`.

use serde_json::Value;

use crate::{END_OF_TEXT, Split, Splitter, Tokenizer};

const RANKS: &[u8] = include_bytes!("../fixtures/tiktoken.ranks");
const GOLDEN: &str = include_str!("../fixtures/tiktoken.json");
const TEXTS: [&str; 3] = [
    include_str!("../fixtures/shakespeare.txt"),
    include_str!("../fixtures/multilingual.txt"),
    include_str!("../fixtures/peps.txt"),
];

/// Every scalar but the separator of the script; of large blocks of one class every 61st.
fn scalars() -> Vec<char> {
    let uniform = |code: u32| matches!(code, 0x3400..=0x9fff | 0xac00..=0xd7a3 | 0xe000..=0xf8ff | 0x1_7000..=0x1_8cff | 0x2_0000..);
    let kept = |&code: &u32| code != 0x1e && (!uniform(code) || code.is_multiple_of(61));
    (0..=0x10_ffff).filter(kept).filter_map(char::from_u32).collect()
}

/// The texts of the script's `scalars`, in its order.
fn around_scalars(forms: &[Value]) -> Vec<String> {
    let every = scalars();
    let mut texts: Vec<String> = every.iter().map(char::to_string).collect();
    for form in &forms[1..] {
        let form = form.as_str().unwrap();
        let group = |group: &[char]| group.iter().map(|c| form.replace("{0}", c.encode_utf8(&mut [0; 4]))).collect();
        texts.extend(every.chunks(256).map(group));
    }
    texts
}

/// CRC-32 as in zlib.
struct Crc {
    table: [u32; 256],
    state: u32,
}

impl Crc {
    fn new() -> Self {
        let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        Self { table: std::array::from_fn(|i| (0..8).fold(i as u32, step)), state: !0 }
    }

    fn push(&mut self, ids: &[u32]) {
        for byte in ids.iter().flat_map(|id| id.to_le_bytes()) {
            self.state = self.table[usize::from(self.state as u8 ^ byte)] ^ self.state >> 8;
        }
    }
}

#[test]
fn ids_equal_tiktoken_around_every_kind_of_scalar_and_on_real_text() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let around = around_scalars(golden["around"].as_array().unwrap());
    for name in ["r50k_base", "cl100k_base", "o200k_base", "llama3"] {
        let splitter = Splitter::tiktoken(name).or_else(|_| Splitter::new(&Split::Llama3, false)).unwrap();
        let tokenizer = Tokenizer::from_ranks(RANKS, splitter, &[(END_OF_TEXT, 2000)]).unwrap();
        let expected = &golden[name];
        let first: Vec<u32> = serde_json::from_value(expected["first"].clone()).unwrap();
        let beginning: String = TEXTS[1].chars().take(120).collect();
        assert_eq!(tokenizer.encode(&beginning), first, "{name}");
        let (mut encoder, mut crc) = (tokenizer.encoder(), Crc::new());
        around.iter().for_each(|text| crc.push(&encoder.encode(text)));
        assert_eq!(u64::from(!crc.state), expected["scalars"].as_u64().unwrap(), "{name}");
        let mut crc = Crc::new();
        TEXTS.iter().for_each(|text| crc.push(&encoder.encode(text)));
        assert_eq!(u64::from(!crc.state), expected["texts"].as_u64().unwrap(), "{name}");
        assert_eq!(tokenizer.to_ranks().unwrap(), RANKS);
    }
}
