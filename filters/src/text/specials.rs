//! Pieces of text whose tokens no rule of affixes gives: contractions, abbreviations with their full stop, times, emoticons.
//!
//! In: a piece. Out: the lengths of its tokens, if it is special. Which pieces are special follows spaCy 3.8 for English; the
//! straight apostrophe stands for the curly one too.

use std::sync::LazyLock;

use xxhash_rust::xxh3::xxh3_64;

/// What a special piece becomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Special {
    /// Lengths in bytes of its tokens.
    pub parts: Vec<u8>,
    /// Lengths in bytes of the tokens that affixes alone would make of it, if they make any: wherever those stand side by side they
    /// become `parts`.
    pub affixes: Vec<u8>,
}

/// All special pieces, with a filter in front that turns most others away.
pub(super) struct Specials {
    filter: Vec<u64>,
    known: Vec<(Box<[u8]>, Special)>,
    /// Index in `known` plus 1, or 0, by hash; open addressing.
    slots: Vec<u16>,
    longest: usize,
}

const FILTER_BITS: u32 = 16;
const SLOTS: usize = 1 << 13;

impl Specials {
    /// The special piece, if it is one.
    #[inline]
    pub(super) fn get(&self, piece: &[u8]) -> Option<&Special> {
        if piece.is_empty() || piece.len() > self.longest {
            return None;
        }
        let bit = bit(piece);
        if self.filter[bit / 64] >> (bit % 64) & 1 == 0 {
            return None;
        }
        self.find(piece).1.map(|at| &self.known[at].1)
    }

    /// The slot where the piece is or would be, and its index if it is known.
    fn find(&self, piece: &[u8]) -> (usize, Option<usize>) {
        let mut slot = xxh3_64(piece) as usize % SLOTS;
        loop {
            match usize::from(self.slots[slot]).checked_sub(1) {
                Some(at) if *self.known[at].0 == *piece => return (slot, Some(at)),
                Some(_) => slot = (slot + 1) % SLOTS,
                None => return (slot, None),
            }
        }
    }

    fn add(&mut self, piece: &str, parts: Vec<u8>) {
        let bit = bit(piece.as_bytes());
        self.filter[bit / 64] |= 1 << (bit % 64);
        self.longest = self.longest.max(piece.len());
        let special = Special { parts, affixes: Vec::new() };
        match self.find(piece.as_bytes()) {
            (_, Some(at)) => self.known[at].1 = special,
            (slot, None) => {
                self.known.push((piece.as_bytes().into(), special));
                self.slots[slot] = self.known.len() as u16;
            }
        }
    }
}

/// The first, the middle and the last byte and the length, hashed.
#[inline]
fn bit(piece: &[u8]) -> usize {
    let [first, middle, last] = [0, piece.len() / 2, piece.len() - 1].map(|at| u32::from(piece[at]));
    let key = first | middle << 8 | last << 16 | (piece.len() as u32) << 24;
    (key.wrapping_mul(0x9E37_79B1) >> (32 - FILTER_BITS)) as usize
}

/// The table, built once; `affixes` says how affixes alone split a piece.
pub(super) fn build(affixes: impl Fn(&str) -> Vec<u8>) -> Specials {
    let mut specials =
        Specials { filter: vec![0; 1 << (FILTER_BITS - 6)], known: Vec::new(), slots: vec![0; SLOTS], longest: 0 };
    for parts in exceptions() {
        for apostrophe in ["'", "\u{2019}"] {
            let parts: Vec<String> = parts.iter().map(|part| part.replace('\'', apostrophe)).collect();
            specials.add(&parts.concat(), parts.iter().map(|part| part.len() as u8).collect());
        }
    }
    for (piece, special) in &mut specials.known {
        let found = affixes(std::str::from_utf8(piece).expect("the table is made of text"));
        if found.len() > 1 {
            special.affixes = found;
        }
    }
    specials
}

static WHOLE: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let abbreviations = "Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. \
        Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. \
        Ore. Pa. S.C. Sep. Sept. Tenn. Va. Wash. Wis. a.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. \
        I.E. Inc. Jr. Ltd. Md. Messrs. Mo. Mont. Mr. Mrs. Ms. p.m. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s.";
    let letters = "a. b. c. d. e. f. g. h. i. j. k. l. m. n. o. p. q. r. s. t. u. v. w. x. y. z. ä. ö. ü.";
    let others = "'S 's \u{2018}S \u{2018}s and/or w/o 're 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout ma'am Ma'am o'clock \
        O'clock lovin' Lovin' havin' Havin' doin' Doin' goin' Goin' nothin' Nothin' nuthin' Nuthin' ol' Ol' somethin' Somethin' \
        'em 'll 'nuff 'd ' '' \\\") <space> C++ \\t \\n";
    let emoticons = ":) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (; (-; :( :-( \
        :(( :-(( :((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ :1 :P :-P :p :-p :O :-O :o :-o :0 :-0 :() \
        >:o :* :-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- \
        -__- v.v V.V v_v V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^) (-_-) (._.) (>_<) \
        (*_*) (¬_¬) ಠ_ಠ ಠ︵ಠ (ಠ_ಠ) ¯\\(ツ)/¯ (╯°□°）╯︵┻━┻ ><(((*>";
    [abbreviations, letters, others, emoticons].into_iter().flat_map(|list| list.split(' ')).collect()
});

/// The tokens of every special piece, as spaCy's English has them.
fn exceptions() -> Vec<Vec<String>> {
    let mut found: Vec<Vec<String>> = WHOLE.iter().map(|whole| vec![(*whole).to_owned()]).collect();
    let mut add = |first: &str, rest: &[&str]| {
        for first in [first.to_owned(), title(first)] {
            let piece = format!("{first}{}", rest.concat());
            if !NEVER.contains(&piece.as_str()) {
                found.push(std::iter::once(first).chain(rest.iter().map(|part| (*part).to_owned())).collect());
            }
        }
    };
    add("i", &["'m"]);
    add("i", &["m"]);
    add("i", &["'m", "a"]);
    add("i", &["m", "a"]);
    let will_or_would: [&[&str]; 8] =
        [&["'ll"], &["ll"], &["'ll", "'ve"], &["ll", "ve"], &["'d"], &["d"], &["'d", "'ve"], &["d", "ve"]];
    let pronouns = ["i", "you", "he", "she", "it", "we", "they"];
    let questions = ["who", "what", "when", "where", "why", "how", "there", "that", "this", "these", "those"];
    for word in pronouns.iter().chain(&questions) {
        will_or_would.iter().for_each(|rest| add(word, rest));
    }
    for word in ["i", "you", "we", "they", "could", "might", "must", "should", "would"].iter().chain(&questions) {
        if !matches!(*word, "that" | "this") {
            add(word, &["'ve"]);
            add(word, &["ve"]);
        }
    }
    for word in ["you", "we", "they"].iter().chain(&questions) {
        if !matches!(*word, "that" | "this") {
            add(word, &["'re"]);
            add(word, &["re"]);
        }
    }
    for word in ["he", "she", "it"].iter().chain(&questions) {
        if !matches!(*word, "these" | "those") {
            add(word, &["'s"]);
            add(word, &["s"]);
        }
    }
    let modals = "ca could do does did had may might must need ought sha should wo would";
    for word in modals.split(' ') {
        let endings: [&[&str]; 4] = [&["n't"], &["nt"], &["n't", "'ve"], &["nt", "ve"]];
        endings.iter().for_each(|rest| add(word, rest));
    }
    for word in "ai are is was were have has dare".split(' ') {
        add(word, &["n't"]);
        add(word, &["nt"]);
    }
    let others: [(&str, &[&str]); 8] = [
        ("how", &["'d", "'y"]),
        ("not", &["'ve"]),
        ("not", &["ve"]),
        ("can", &["not"]),
        ("gon", &["na"]),
        ("got", &["ta"]),
        ("let", &["'s"]),
        ("c'm", &["on"]),
    ];
    others.iter().for_each(|(first, rest)| add(first, rest));
    found.extend([["y'", "all"], ["y", "all"]].map(|parts| parts.map(str::to_owned).to_vec()));
    for hour in 1..=12 {
        found.extend(["a.m.", "am", "p.m.", "pm"].map(|half| vec![hour.to_string(), half.to_owned()]));
    }
    for unit in "cfkCFK".chars() {
        found.push(vec!["°".to_owned(), unit.to_string(), ".".to_owned()]);
    }
    found
}

/// Words that look like contractions without their apostrophe.
const NEVER: [&str; 16] = [
    "Ill", "ill", "Its", "its", "Hell", "hell", "Shell", "shell", "Shed", "shed", "were", "Were", "Well", "well",
    "Whore", "whore",
];

fn title(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contractions_and_abbreviations_are_special_and_words_are_not() {
        let specials = build(|_| Vec::new());
        for (piece, parts) in [
            ("can't", vec![2, 3]),
            ("Can\u{2019}t", vec![2, 5]),
            ("cannot", vec![3, 3]),
            ("They'll've", vec![4, 3, 3]),
            ("e.g.", vec![4]),
            ("12pm", vec![2, 2]),
            (":-)", vec![3]),
        ] {
            assert_eq!(specials.get(piece.as_bytes()).map(|special| &special.parts), Some(&parts), "{piece}");
        }
        for piece in ["", "its", "well", "word", "can", "etc.", "день", "13pm"] {
            assert_eq!(specials.get(piece.as_bytes()), None, "{piece}");
        }
    }
}
