//! The nearest known name, for "did you mean".

/// The closest of `known` to `name` within a third of its length (at least 2 edits), ties by order.
pub fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let allowed = (name.chars().count() / 3).max(2);
    let best = known.iter().map(|k| (distance(name, k), k)).min_by_key(|(d, _)| *d)?;
    (best.0 <= allowed).then_some(best.1.as_str())
}

/// Levenshtein distance over characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_a_stranger_finds_none() {
        let known = ["bands".to_string(), "rows".into(), "ngram".into()];
        assert_eq!(nearest("bandz", &known), Some("bands"));
        assert_eq!(nearest("", &known), None);
        assert_eq!(nearest("threshold", &known), None);
    }
}
