//! Piece starts of 64 bytes at a time, by arithmetic on bit masks.
//!
//! In: a text, and a place in it where a piece starts. Out: the next starts, exactly those of `scan`. Bit i of a mask speaks
//! of byte i of the window; a character of several bytes has its class on all of them. Every window begins at a known start,
//! and a match depends on nothing before its start, so no state passes from window to window. What a window cannot decide
//! (white space that touches its end, a rare character, a piece longer than it) is left to the next window or to `scan`.
//! Leaves loading the masks to `planes`.

use crate::{
    planes::{Level, Planes},
    scan::{Rule, Text},
    unicode::{LETTER, LOWER, MARK, SYMBOL, UPPER},
};

/// Places that `fill` needs: it may write the starts of one window at once.
pub(crate) const MOST: usize = 64;

/// Ends of the pieces that follow each other from `start`, as many as fit into `ends` and at least one if the text goes on.
/// Returns their number. `ends` has at least [`MOST`] places.
pub(crate) fn fill(level: Level, rule: Rule, text: &str, start: usize, ends: &mut [usize]) -> usize {
    let text = Text::new(text);
    match level {
        Level::Scalar => fill_scalar(rule, &text, start, ends),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Level::detect` found these features on this machine.
        Level::Avx2 => unsafe { fill_avx2(rule, &text, start, ends) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 => unsafe { fill_avx512(rule, &text, start, ends) },
        #[cfg(target_arch = "aarch64")]
        Level::Neon => fill_windows(rule, &text, start, ends, |bytes| crate::planes::neon(bytes)),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn fill_avx2(rule: Rule, text: &Text<'_>, start: usize, ends: &mut [usize]) -> usize {
    fill_windows(rule, text, start, ends, |bytes| {
        // SAFETY: this function has the feature.
        unsafe { crate::planes::avx2(bytes) }
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn fill_avx512(rule: Rule, text: &Text<'_>, start: usize, ends: &mut [usize]) -> usize {
    fill_windows(rule, text, start, ends, |bytes| {
        // SAFETY: this function has the features.
        unsafe { crate::planes::avx512(bytes) }
    })
}

fn fill_scalar(rule: Rule, text: &Text<'_>, mut start: usize, ends: &mut [usize]) -> usize {
    let mut n = 0;
    while n < ends.len() && start < text.bytes.len() {
        start = text.next(rule, start);
        ends[n] = start;
        n += 1;
    }
    n
}

#[inline(always)]
fn fill_windows(
    rule: Rule,
    text: &Text<'_>,
    start: usize,
    ends: &mut [usize],
    load: impl Fn(&[u8; 64]) -> Planes + Copy,
) -> usize {
    match rule {
        Rule::Gpt2 { single_digits } => {
            windows(rule, text, start, ends, |at, bytes| gpt2(text, at, load(bytes), single_digits))
        }
        Rule::Cl100k { digits, .. } => {
            windows(rule, text, start, ends, |at, bytes| by_line::<false>(text, at, load(bytes), digits))
        }
        Rule::O200k { digits } => {
            windows(rule, text, start, ends, |at, bytes| by_line::<true>(text, at, load(bytes), digits))
        }
    }
}

#[inline(always)]
fn windows(
    rule: Rule,
    text: &Text<'_>,
    mut at: usize,
    ends: &mut [usize],
    starts: impl Fn(usize, &[u8; 64]) -> u64,
) -> usize {
    let mut n = 0;
    while n + MOST <= ends.len() && at < text.bytes.len() {
        let mut mask = match text.bytes.get(at..at + 64) {
            Some(bytes) => starts(at, bytes.try_into().expect("the range has 64 bytes")),
            None => 0,
        };
        if mask == 0 {
            at = text.next(rule, at);
            ends[n] = at;
            n += 1;
            continue;
        }
        let places: &mut [usize; MOST] = (&mut ends[n..n + MOST]).try_into().expect("the range has that length");
        let count = mask.count_ones() as usize;
        // Twelve at once, without a branch for each: most windows have fewer. What is too much is written over later.
        for place in &mut places[..12] {
            *place = at + mask.trailing_zeros() as usize;
            mask &= mask.wrapping_sub(1);
        }
        let mut more = 12;
        while mask != 0 {
            places[more] = at + mask.trailing_zeros() as usize;
            mask &= mask - 1;
            more += 1;
        }
        n += count;
        at = ends[n - 1];
    }
    n
}

/// Ones below bit `n`, 0..=64.
#[inline(always)]
fn below(n: u32) -> u64 {
    if n >= 64 { !0 } else { (1 << n) - 1 }
}

/// Number of ones that stand directly below bit `n`, 1..=64.
#[inline(always)]
fn ones_below(mask: u64, n: u32) -> u32 {
    (!mask << (64 - n)).leading_zeros().min(n)
}

/// The planes with the longer characters filled in.
struct Window {
    upper: u64,
    lower: u64,
    /// Letters without case; in `o200k` also marks that continue a word.
    caseless: u64,
    digit: u64,
    symbol: u64,
    space: u64,
    tab: u64,
    newline: u64,
    apostrophe: u64,
    /// All bytes of characters but their first.
    inner: u64,
    /// Bits from here on are not known, 0..=64.
    end: u32,
}

/// Classes of the longer characters, up to the first that the masks do not describe: white space, numbers, and (`CASED`) a
/// mark that does not continue a word.
#[inline(always)]
fn widen<const CASED: bool>(text: &Text<'_>, at: usize, planes: &Planes) -> Window {
    let ascii = planes.upper | planes.lower | planes.digit | planes.space | planes.tab | planes.newline | planes.wide;
    let mut window = Window {
        upper: planes.upper,
        lower: planes.lower,
        caseless: 0,
        digit: planes.digit,
        symbol: !ascii,
        space: planes.space,
        tab: planes.tab,
        newline: planes.newline,
        apostrophe: planes.apostrophe,
        inner: 0,
        end: 64,
    };
    if planes.wide != 0 {
        widen_slowly::<CASED>(text, at, planes.wide, &mut window);
    }
    window
}

#[inline(always)]
fn widen_slowly<const CASED: bool>(text: &Text<'_>, at: usize, wide: u64, window: &mut Window) {
    let when = |condition: bool| 0_u64.wrapping_sub(u64::from(condition));
    let (mut rest, mut end) = (wide, 64);
    while rest != 0 {
        let i = rest.trailing_zeros();
        let (class, len) = text.wide(at + i as usize);
        let len = len as u32;
        if i + len > 64 || class & (LETTER | SYMBOL) == 0 {
            end = i;
            break;
        }
        let bits = below(len) << i;
        rest &= !bits;
        window.inner |= bits & (bits << 1);
        if CASED {
            if class == MARK {
                let word = window.upper | window.lower | window.caseless;
                if i == 0 || word >> (i - 1) & 1 == 0 {
                    end = i;
                    break;
                }
                window.caseless |= bits;
                continue;
            }
            window.upper |= bits & when(class == UPPER);
            window.lower |= bits & when(class == LOWER);
            window.caseless |= bits & when(class & LETTER & !(UPPER | LOWER) != 0);
        } else {
            window.caseless |= bits & when(class & LETTER != 0);
        }
        window.symbol |= bits & when(class & SYMBOL != 0);
    }
    // U+017F after an apostrophe can be a contraction.
    let mut odd = window.apostrophe << 1 & wide & below(end);
    while odd != 0 {
        let i = odd.trailing_zeros();
        if text.bytes[at + i as usize] == 0xc5 && text.bytes[at + i as usize + 1] == 0xbf {
            end = i - 1;
            break;
        }
        odd &= odd - 1;
    }
    let known = below(end);
    window.end = end;
    for plane in [
        &mut window.upper,
        &mut window.lower,
        &mut window.caseless,
        &mut window.digit,
        &mut window.symbol,
        &mut window.space,
        &mut window.tab,
        &mut window.newline,
        &mut window.apostrophe,
        &mut window.inner,
    ] {
        *plane &= known;
    }
}

/// Starts but the first of the window at `at`, for the pattern of GPT-2.
#[inline(always)]
fn gpt2(text: &Text<'_>, at: usize, planes: Planes, single_digits: bool) -> u64 {
    let w = widen::<false>(text, at, &planes);
    if w.end == 0 {
        return 0;
    }
    let letter = w.upper | w.lower | w.caseless;
    let white = w.space | w.tab | w.newline;
    // A space before a word, a number or symbols belongs to them.
    let own = !(w.space << 1);
    let symbols = w.symbol & !(w.symbol << 1) & own;
    let digits = if single_digits { w.digit } else { w.digit & !(w.digit << 1) & own };
    // White space gives its last character back to what follows.
    let mut starts = letter & !(letter << 1) & own | digits | symbols | white & !(white << 1) | white & !(white >> 1);
    let mut quotes = w.apostrophe & symbols & letter >> 1;
    while quotes != 0 {
        let i = quotes.trailing_zeros();
        let len = text.contraction(at + i as usize) as u32;
        if len > 0 {
            starts &= !(2 << i);
            starts |= 1_u64.checked_shl(i + len).unwrap_or(0);
        }
        quotes &= quotes - 1;
    }
    // The first character of white space that touches the end is a start, about the others more must be seen.
    let run = ones_below(white, w.end);
    let limit = if run > 0 { w.end - run + 1 } else { w.end };
    starts & below(limit) & !1
}

/// The same for the patterns that keep newlines with symbols: cl100k, and with `CASED` o200k.
#[inline(always)]
fn by_line<const CASED: bool>(text: &Text<'_>, at: usize, planes: Planes, most_digits: usize) -> u64 {
    let w = widen::<CASED>(text, at, &planes);
    if w.end == 0 {
        return 0;
    }
    let mut limit = w.end;
    let letter = w.upper | w.lower | w.caseless;
    // Newlines directly after symbols belong to them: adding one to the first of a run of ones clears the run.
    let after_symbols = w.symbol << 1 & w.newline;
    let attached = w.newline & !w.newline.wrapping_add(after_symbols);
    let white = (w.space | w.tab | w.newline) & !attached;
    let flat = w.space | w.tab;
    // After the last newline of white space a new piece starts, if anything is left.
    let mut last_line = flat & w.newline << 1;
    let mut not_last = flat.wrapping_add(last_line) & !flat & w.newline;
    while not_last != 0 {
        let i = not_last.trailing_zeros();
        last_line &= !(1 << (i - ones_below(flat, i)));
        not_last &= not_last - 1;
    }
    let given_back = flat & !((flat | w.newline) >> 1);
    let symbols = w.symbol & !(w.symbol << 1) & !(w.space << 1);
    // A single character that is no newline, letter or number belongs to the word after it.
    let after_single = w.inner.wrapping_add(symbols << 1) & !w.inner;
    let words = letter & !(letter << 1) & !(flat << 1) & !after_single;
    let numbers = if most_digits == 1 { w.digit } else { threes(w.digit) };
    let mut starts = white & !(white << 1) | last_line | given_back | symbols | words | numbers;
    if CASED {
        // A word ends where lower case turns into upper case. After letters without case it depends on what follows.
        starts |= w.upper & w.lower << 1;
        let unclear = w.upper & w.caseless << 1;
        if unclear != 0 {
            limit = limit.min(unclear.trailing_zeros());
        }
        let mut line_ends = attached & !(attached >> 1) & below(63);
        while line_ends != 0 {
            let i = line_ends.trailing_zeros() + 1;
            if text.bytes[at + i as usize] == b'/' {
                limit = limit.min(i); // the slash goes on with the symbols
                break;
            }
            line_ends &= line_ends - 1;
        }
        let mut quotes = w.apostrophe & letter << 1;
        let mut ended = 0; // where the last contraction ended
        while quotes != 0 {
            let i = quotes.trailing_zeros();
            quotes &= quotes - 1;
            if i + 3 > w.end {
                limit = limit.min(i);
            } else if i != ended || ended == 0 {
                let len = text.contraction_any_case(at + i as usize) as u32;
                if len > 0 {
                    ended = i + len;
                    starts &= !(below(len) << i);
                    starts |= 1_u64.checked_shl(ended).unwrap_or(0);
                }
            }
        }
    } else {
        let mut quotes = w.apostrophe & symbols & letter >> 1;
        while quotes != 0 {
            let i = quotes.trailing_zeros();
            let len = text.contraction_any_case(at + i as usize) as u32;
            if len > 0 {
                starts |= 1_u64.checked_shl(i + len).unwrap_or(0);
            }
            quotes &= quotes - 1;
        }
    }
    let run = ones_below(white, w.end);
    if run > 0 {
        limit = limit.min(w.end - run + 1);
    }
    starts & below(limit) & !1
}

/// Of each run of ones, the first and every third after it.
#[inline(always)]
fn threes(digit: u64) -> u64 {
    let mut starts = digit & !(digit << 1);
    let fourth = digit & digit << 1 & digit << 2 & digit << 3;
    if fourth != 0 {
        loop {
            let more = starts << 3 & fourth & !starts;
            if more == 0 {
                break;
            }
            starts |= more;
        }
    }
    starts
}
