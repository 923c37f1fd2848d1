//! Dates as people and programs write them, to `YYYY-MM-DD`.
//!
//! In: a short text or an address. Out: the first full date in it, as written: no time zone is applied, no clock is
//! read, and a date whose day and month cannot be told apart (`03/04/2020`, but not `03.04.2020`) is none. Where dates stand on a page is
//! left to `meta`.

/// Years the web can have pages of; there is no clock to say which of these lie in the future.
const YEARS: std::ops::RangeInclusive<u32> = 1990..=2099;

/// Dates stand near the beginning of the texts that hold them; longer ones are cut, in bytes.
const MAX_BYTES: usize = 200;

/// A number with its count of digits, a month by name, or what stands between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Number(u32, usize),
    Month(u32),
    Mark(char),
    Word,
}

/// Month names by their beginnings, lower-cased; the first that fits counts. English, German, French, Spanish, Italian,
/// Portuguese, Dutch, Polish, Czech, Swedish and Russian.
const MONTHS: &[(&str, u32)] = &[
    ("janv", 1),
    ("jan", 1),
    ("jän", 1),
    ("ene", 1),
    ("gen", 1),
    ("sty", 1),
    ("led", 1),
    ("янв", 1),
    ("feb", 2),
    ("fév", 2),
    ("fev", 2),
    ("lut", 2),
    ("úno", 2),
    ("фев", 2),
    ("mar", 3),
    ("mär", 3),
    ("mrz", 3),
    ("maa", 3),
    ("břez", 3),
    ("мар", 3),
    ("apr", 4),
    ("avr", 4),
    ("abr", 4),
    ("kwi", 4),
    ("dub", 4),
    ("апр", 4),
    ("may", 5),
    ("mai", 5),
    ("maj", 5),
    ("mag", 5),
    ("mei", 5),
    ("kvě", 5),
    ("мая", 5),
    ("май", 5),
    ("jun", 6),
    ("juin", 6),
    ("giu", 6),
    ("cze", 6),
    ("červn", 6),
    ("июн", 6),
    ("jul", 7),
    ("juil", 7),
    ("lug", 7),
    ("lip", 7),
    ("červe", 7),
    ("июл", 7),
    ("aug", 8),
    ("aoû", 8),
    ("aou", 8),
    ("ago", 8),
    ("sie", 8),
    ("srp", 8),
    ("авг", 8),
    ("sep", 9),
    ("set", 9),
    ("wrz", 9),
    ("zář", 9),
    ("сен", 9),
    ("oct", 10),
    ("okt", 10),
    ("out", 10),
    ("ott", 10),
    ("paź", 10),
    ("říj", 10),
    ("окт", 10),
    ("nov", 11),
    ("lis", 11),
    ("ноя", 11),
    ("dec", 12),
    ("dez", 12),
    ("déc", 12),
    ("dic", 12),
    ("gru", 12),
    ("pro", 12),
    ("дек", 12),
];

/// First full date in a text.
pub(super) fn date_in(text: &str) -> Option<String> {
    let parts = parts(text);
    (0..parts.len()).find_map(|i| date_at(&parts[i..]))
}

/// Date in the path of an address: `/2019/11/21/`, `/2019-11-21-` or `/20191121/`.
pub(super) fn date_in_url(url: &str) -> Option<String> {
    let path = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = path.split(['?', '#']).next()?;
    let path = &path[path.find('/')?..];
    let parts = parts(path);
    (0..parts.len()).find_map(|i| match &parts[i..] {
        [Part::Mark('/'), rest @ ..] => match rest {
            [Part::Number(_, 4), Part::Mark('/' | '-'), Part::Number(_, 2), ..] | [Part::Number(_, 8), ..] => {
                date_at(rest)
            }
            _ => None,
        },
        _ => None,
    })
}

fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = &text[..text.floor_char_boundary(MAX_BYTES)];
    while let Some(first) = rest.chars().next() {
        let length = |wanted: fn(char) -> bool| rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        if first.is_ascii_digit() {
            let digits = length(|c| c.is_ascii_digit());
            parts.push(Part::Number(rest[..digits].parse().unwrap_or(u32::MAX), digits));
            rest = &rest[digits..];
        } else if matches!(first, '年' | '月' | '日' | '년' | '월' | '일') {
            parts.push(Part::Mark('-'));
            rest = &rest[first.len_utf8()..];
        } else if first.is_alphabetic() {
            let letters = length(|c| c.is_alphabetic() && !matches!(c, '年' | '月' | '日' | '년' | '월' | '일'));
            parts.push(word(&rest[..letters]));
            rest = &rest[letters..];
        } else {
            if !first.is_whitespace() {
                parts.push(Part::Mark(first));
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    parts
}

/// A month, an ordinal ending or little word that may stand inside a date (left out as `Mark(' ')`), or another word.
fn word(word: &str) -> Part {
    let lower = word.to_lowercase();
    if matches!(lower.as_str(), "de" | "of" | "st" | "nd" | "rd" | "th" | "er" | "del" | "du") {
        return Part::Mark(' ');
    }
    let found = MONTHS.iter().find(|(name, _)| lower.starts_with(name));
    found.filter(|_| lower.chars().count() <= 11).map_or(Part::Word, |(_, month)| Part::Month(*month))
}

/// The date that begins with the first part.
fn date_at(parts: &[Part]) -> Option<String> {
    use Part::*;
    match *parts {
        [Number(year, 4), Mark(a @ ('-' | '/' | '.')), Number(month, 1..=2), Mark(b), Number(day, 1..=2), ..]
            if a == b =>
        {
            valid(year, month, day)
        }
        [Number(date, 8), ..] => valid(date / 10_000, date / 100 % 100, date % 100),
        [Number(a, 1..=2), Mark(x @ ('.' | '/' | '-')), Number(b, 1..=2), Mark(y), Number(year, 4), ..] if x == y => {
            match (a, b) {
                (_, 13..) => valid(year, a, b),
                (13.., _) => valid(year, b, a),
                _ if x != '.' && a != b => None,
                _ => valid(year, b, a),
            }
        }
        [Month(_) | Number(..), ..] => by_name(parts),
        _ => None,
    }
}

/// `November 21st, 2019`, `21. November 2019`, `21 de noviembre de 2019`, `21-Nov-2019`, `2019 November 21`.
fn by_name(parts: &[Part]) -> Option<String> {
    let mut kept = [Part::Word; 3];
    let mut n = 0;
    for part in parts.iter().take(8) {
        match part {
            Part::Mark('.' | ',' | ' ' | '-' | '/') => continue,
            Part::Number(..) | Part::Month(_) => kept[n] = *part,
            _ => return None,
        }
        n += 1;
        if n == 3 {
            break;
        }
    }
    match kept {
        [Part::Month(month), Part::Number(day, 1..=2), Part::Number(year, 4)]
        | [Part::Number(day, 1..=2), Part::Month(month), Part::Number(year, 4)]
        | [Part::Number(year, 4), Part::Month(month), Part::Number(day, 1..=2)] => valid(year, month, day),
        _ => None,
    }
}

fn valid(year: u32, month: u32, day: u32) -> Option<String> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    (YEARS.contains(&year) && (1..=days).contains(&day)).then(|| format!("{year:04}-{month:02}-{day:02}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_common_spellings() {
        for (text, date) in [
            ("", None),
            ("yesterday", None),
            ("2019-11-21T10:00:00+01:00", Some("2019-11-21")),
            ("2019/1/2", Some("2019-01-02")),
            ("20191121", Some("2019-11-21")),
            ("Published on November 21st, 2019 at 9:30", Some("2019-11-21")),
            ("Thu, 21 Nov 2019 10:00:00 GMT", Some("2019-11-21")),
            ("21. November 2019", Some("2019-11-21")),
            ("Freitag, 3. März 2021", Some("2021-03-03")),
            ("21 de noviembre de 2019", Some("2019-11-21")),
            ("8 août 2020", Some("2020-08-08")),
            ("12 июня 2018 г.", Some("2018-06-12")),
            ("21.11.2019, 08:00", Some("2019-11-21")),
            ("11/21/2019", Some("2019-11-21")),
            ("21/11/2019", Some("2019-11-21")),
            ("03/04/2020", None),
            ("03-04-2020", None),
            ("03.04.2020", Some("2020-04-03")),
            ("2019年11月21日", Some("2019-11-21")),
            ("2020년 3월 4일", Some("2020-03-04")),
            ("2019-02-29", None),
            ("2020-02-29", Some("2020-02-29")),
            ("0001-01-01", None),
            ("call 555 1234", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(date_in(text).as_deref(), date, "{text}");
        }
    }

    #[test]
    fn addresses_name_the_day_only_in_full() {
        for (url, date) in [
            ("https://a.org/2019/11/21/title", Some("2019-11-21")),
            ("https://a.org/blog/2019-11-21-title.html", Some("2019-11-21")),
            ("https://a.org/20191121/x", Some("2019-11-21")),
            ("https://a.org/2019/11/", None),
            ("https://a.org/?d=2019/11/21/", None),
            ("https://a.org", None),
            ("", None),
        ] {
            assert_eq!(date_in_url(url).as_deref(), date, "{url}");
        }
    }
}
