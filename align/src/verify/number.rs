//! Numbers in running text, compared as exact rationals.
//!
//! In: text. Out: the last number in it, or the number that it is as a whole. A number is ASCII digits with an optional
//! sign (`-`, `+`, `−`), currency sign, thousands separators (`1,234,567`), decimals, exponent (`1e-3`), denominator
//! (`3/4`) and percent sign (`50%` = 1/2). Versions and addresses (`1.2.3`) and digits glued to Latin letters (`utf8`) are none.
//! Left to others: words ("seven"), other scripts' digits, units.

/// A rational in lowest terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rational {
    negative: bool,
    numerator: u128,
    denominator: u128,
}

impl Rational {
    fn new(negative: bool, numerator: u128, denominator: u128) -> Option<Self> {
        if denominator == 0 {
            return None;
        }
        let divisor = gcd(numerator, denominator).max(1);
        let (numerator, denominator) = (numerator / divisor, denominator / divisor);
        Some(Self { negative: negative && numerator != 0, numerator, denominator })
    }
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The last number of the text as written, and its value; the value is `None` if it has too many digits for 128 bits or
/// divides by zero. One pass over the text.
pub fn last(text: &str) -> Option<(&str, Option<Rational>)> {
    let mut found = None;
    let mut at = 0;
    while let Some(step) = text.as_bytes()[at..].iter().position(u8::is_ascii_digit) {
        let token = scan(text, at + step);
        at = token.end;
        if token.is_number {
            found = Some((&text[token.start..token.end], token.value));
        }
    }
    found
}

/// The value of a text that is one number and nothing else (white space around it aside).
pub fn whole(text: &str) -> Option<Rational> {
    let text = text.trim();
    let (written, value) = last(text)?;
    if written == text { value } else { None }
}

/// A Latin letter beside a digit makes it part of a name; scripts without spaces write numbers that close.
fn glues(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

struct Token {
    start: usize,
    end: usize,
    is_number: bool,
    value: Option<Rational>,
}

/// Reads the token whose first digit is at `digit`.
fn scan(text: &str, digit: usize) -> Token {
    let bytes = text.as_bytes();
    let (start, negative) = sign(text, digit);
    let glued_before = text[..digit].ends_with(glues);
    let mut decimal = Decimal::default();
    let mut at = digit;
    // `.5` has no integer part.
    if !text[..digit].ends_with('.') || start == digit {
        at = integer(bytes, at, &mut decimal);
        if bytes.get(at) == Some(&b'.') && digit_at(bytes, at + 1) {
            at = fraction(bytes, at + 1, &mut decimal);
        }
    } else {
        at = fraction(bytes, at, &mut decimal);
    }
    let mut glued = false;
    while bytes.get(at) == Some(&b'.') && digit_at(bytes, at + 1) {
        glued = true; // a version or an address
        at = run(bytes, at + 1);
    }
    at = exponent(bytes, at, &mut decimal);
    let mut denominator = Some(1_u128);
    if bytes.get(at) == Some(&b'/') && digit_at(bytes, at + 1) {
        let mut below = Decimal::default();
        at = integer(bytes, at + 1, &mut below);
        denominator = below.value().map(|(n, _)| n);
    }
    if bytes.get(at) == Some(&b'%') {
        denominator = denominator.and_then(|d| d.checked_mul(100));
        at += 1;
    }
    let glued_after = text[at..].starts_with(glues);
    let value = match (decimal.value(), denominator) {
        (Some((n, d)), Some(by)) => d.checked_mul(by).and_then(|d| Rational::new(negative, n, d)),
        _ => None,
    };
    Token { start, end: at, is_number: !(glued || glued_before || glued_after), value }
}

/// Where the token starts (its sign, currency sign or leading point) and whether it is negative. A minus after a letter
/// or a digit is a dash.
fn sign(text: &str, digit: usize) -> (usize, bool) {
    let mut start = digit;
    if text[..start].ends_with('.') && !text[..start - 1].ends_with(|c: char| c.is_alphanumeric() || c == '.') {
        start -= 1;
    }
    let currency = |c: char| matches!(c, '$' | '€' | '£' | '¥');
    let back = |start: usize, is: &dyn Fn(char) -> bool| {
        text[..start].chars().next_back().filter(|&c| is(c)).map(|c| (start - c.len_utf8(), c))
    };
    let with_currency = back(start, &currency).map_or(start, |(at, _)| at);
    match back(with_currency, &|c| matches!(c, '-' | '−' | '+')) {
        Some((at, c)) if !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == ')') => (at, c != '+'),
        _ => (with_currency, false),
    }
}

fn digit_at(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(u8::is_ascii_digit)
}

/// The end of the digits from `at`.
fn run(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|b| !b.is_ascii_digit()).map_or(bytes.len(), |n| at + n)
}

/// Reads digits with thousands separators; a comma counts only if one to three digits lead and three follow.
fn integer(bytes: &[u8], at: usize, decimal: &mut Decimal) -> usize {
    let mut end = run(bytes, at);
    decimal.push(&bytes[at..end], 0);
    if end - at <= 3 {
        while bytes.get(end) == Some(&b',') && digit_at(bytes, end + 1) {
            let group = bytes[end + 1..].iter().take(4).take_while(|b| b.is_ascii_digit()).count();
            if group != 3 {
                break;
            }
            decimal.push(&bytes[end + 1..end + 4], 0);
            end += 4;
        }
    }
    end
}

fn fraction(bytes: &[u8], at: usize, decimal: &mut Decimal) -> usize {
    let end = run(bytes, at);
    decimal.push(&bytes[at..end], 1);
    end
}

fn exponent(bytes: &[u8], at: usize, decimal: &mut Decimal) -> usize {
    if !matches!(bytes.get(at), Some(b'e' | b'E')) {
        return at;
    }
    let signed = matches!(bytes.get(at + 1), Some(b'-' | b'+'));
    let digits = at + 1 + usize::from(signed);
    if !digit_at(bytes, digits) {
        return at;
    }
    let end = run(bytes, digits);
    let size = bytes[digits..end].iter().fold(0_i64, |n, b| (n * 10 + i64::from(b - b'0')).min(1_000_000));
    decimal.scale += if bytes.get(at + 1) == Some(&b'-') { size } else { -size };
    end
}

/// Digits without leading zeros and where the point stands: `digits * 10^-scale`.
#[derive(Default)]
struct Decimal {
    digits: Vec<u8>,
    scale: i64,
}

impl Decimal {
    fn push(&mut self, digits: &[u8], scale_each: i64) {
        self.scale += scale_each * digits.len() as i64;
        let skip = if self.digits.is_empty() { digits.iter().take_while(|&&d| d == b'0').count() } else { 0 };
        self.digits.extend_from_slice(&digits[skip..]);
    }

    /// Numerator and denominator; `None` if they do not fit.
    fn value(&self) -> Option<(u128, u128)> {
        let zeros = self.digits.iter().rev().take_while(|&&d| d == b'0').count();
        let digits = &self.digits[..self.digits.len() - zeros];
        let scale = self.scale - zeros as i64;
        if digits.is_empty() {
            return Some((0, 1));
        }
        if digits.len() > 38 {
            return None;
        }
        let value = digits.iter().fold(0_u128, |n, d| n * 10 + u128::from(d - b'0'));
        let power = u32::try_from(scale.unsigned_abs()).ok().and_then(|p| 10_u128.checked_pow(p))?;
        if scale >= 0 { Some((value, power)) } else { value.checked_mul(power).map(|n| (n, 1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &str, b: &str) -> bool {
        whole(a).is_some() && whole(a) == whole(b)
    }

    #[test]
    fn equal_values_in_different_dress_are_equal() {
        for (a, b) in [
            ("7", "7.000"),
            ("007", "7"),
            ("1,234,567", "1234567"),
            ("-0", "0"),
            ("+3", "3"),
            ("−3", "-3"),
            ("3/4", "0.75"),
            ("6/8", "75%"),
            (".5", "1/2"),
            ("$1,000", "1000"),
            ("-$5", "-5"),
            ("1e3", "1000"),
            ("25E-2", "1/4"),
            ("100000000000000000000000000000000000000000", "1e41"),
            ("0.1000000000000000000000000000000000000000000000", "0.1"),
        ] {
            assert_eq!(whole(a), whole(b), "{a} {b}");
        }
        assert!(same("1e20", "100000000000000000000"));
        assert!(!same("0.3", "0.30000000000000001") && !same("7", "-7") && !same("50%", "50"));
    }

    #[test]
    fn the_last_number_of_a_text_is_found_as_it_is_written() {
        for (text, expected) in [
            ("", None),
            ("none", None),
            ("7", Some("7")),
            ("from 3 to 5.", Some("5")),
            ("3-4", Some("4")),
            ("x = -4", Some("-4")),
            ("(−4)", Some("−4")),
            ("costs $1,250.50, or so", Some("$1,250.50")),
            ("1,2,3", Some("3")),
            ("12,34", Some("34")),
            ("5, version 1.2.3", Some("5")),
            ("5 in utf8", Some("5")),
            ("5 on 3rd", Some("5")),
            ("5 at x86_64", Some("5")),
            ("5 at 10.0.0.1", Some("5")),
            ("3/4 cup", Some("3/4")),
            ("12%.", Some("12%")),
            ("数は 42 です", Some("42")),
            ("数は42です", Some("42")),
            ("a .5 b", Some(".5")),
            ("wait...5", Some("5")),
        ] {
            assert_eq!(last(text).map(|(written, _)| written), expected, "{text:?}");
        }
    }

    #[test]
    fn numbers_that_do_not_fit_or_divide_by_zero_have_no_value() {
        let long = "1".repeat(60);
        assert_eq!(last(&long), Some((long.as_str(), None)));
        assert_eq!(last("1/0"), Some(("1/0", None)));
        assert_eq!(last("1e99999999999"), Some(("1e99999999999", None)));
        assert_eq!(whole("3 4"), None);
        assert_eq!(whole("v3"), None);
        assert_eq!(whole(""), None);
    }
}
