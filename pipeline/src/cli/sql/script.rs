//! Lines of SQL and shell commands to queries: cut at semicolons outside of quotes and comments.

/// What a person asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// One query, without its semicolon.
    Query(String),
    /// A shell command: `\d`, `\x`, `exit`.
    Command(String),
}

/// Words that are commands when they stand alone.
const WORDS: [&str; 3] = ["exit", "quit", "help"];

/// Takes lines, gives what they complete.
#[derive(Default)]
pub struct Script {
    pending: String,
}

impl Script {
    /// What a line completes, in order.
    pub fn line(&mut self, line: &str) -> Vec<Item> {
        let word = line.trim().trim_end_matches(';').trim();
        if self.is_empty() && (word.starts_with('\\') || WORDS.contains(&word.to_lowercase().as_str())) {
            self.clear();
            return vec![Item::Command(word.to_string())];
        }
        self.pending.push_str(line);
        self.pending.push('\n');
        let mut items = Vec::new();
        while let Some(end) = semicolon(&self.pending) {
            let rest = self.pending.split_off(end + 1);
            let query = std::mem::replace(&mut self.pending, rest);
            items.extend(query_item(&query[..end]));
        }
        if self.is_empty() {
            self.clear();
        }
        items
    }

    /// A last query without a semicolon.
    pub fn end(&mut self) -> Option<Item> {
        query_item(&std::mem::take(&mut self.pending))
    }

    /// Whether a query has begun: blanks and whole comments are none.
    pub fn is_empty(&self) -> bool {
        blank(&self.pending)
    }

    /// Forgets a query that has begun.
    pub fn clear(&mut self) {
        self.pending.clear();
    }

    /// The query that has begun.
    pub fn pending(&self) -> &str {
        &self.pending
    }
}

fn query_item(text: &str) -> Option<Item> {
    (!blank(text)).then(|| Item::Query(text.trim().to_string()))
}

/// Where we are in a text of SQL.
#[derive(Clone, Copy, PartialEq)]
enum In {
    Code,
    Quote(char),
    Line,
    Block,
}

/// Byte offset, character and place of every character.
fn places(text: &str) -> impl Iterator<Item = (usize, char, In)> {
    let mut now = In::Code;
    let mut chars = text.char_indices().peekable();
    let mut closing = false;
    std::iter::from_fn(move || {
        let (at, c) = chars.next()?;
        let next = chars.peek().map(|(_, c)| *c);
        let here = now;
        if std::mem::take(&mut closing) {
            now = In::Code;
            return Some((at, c, In::Block));
        }
        match (now, c, next) {
            (In::Code, '\'' | '"', _) => now = In::Quote(c),
            (In::Code, '-', Some('-')) => now = In::Line,
            (In::Code, '/', Some('*')) => now = In::Block,
            // A doubled quote ends one text and begins the next, which is the same for our purpose.
            (In::Quote(q), c, _) if c == q => now = In::Code,
            (In::Line, '\n', _) => now = In::Code,
            (In::Block, '*', Some('/')) => closing = true,
            _ => {}
        }
        Some((at, c, if now == In::Line || now == In::Block { now } else { here }))
    })
}

/// The first semicolon that ends a query.
fn semicolon(text: &str) -> Option<usize> {
    places(text).find(|(_, c, place)| *c == ';' && *place == In::Code).map(|(at, ..)| at)
}

/// Whether there is nothing but blanks and finished comments.
fn blank(text: &str) -> bool {
    let mut last = In::Code;
    let empty = places(text).all(|(_, c, place)| {
        last = place;
        c.is_whitespace() || matches!(place, In::Line | In::Block)
    });
    empty && (last != In::Block || text.trim_end().ends_with("*/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(lines: &[&str]) -> Vec<String> {
        let mut script = Script::default();
        let mut found: Vec<Item> = lines.iter().flat_map(|l| script.line(l)).collect();
        found.extend(script.end());
        found
            .into_iter()
            .map(|i| match i {
                Item::Query(q) => q,
                Item::Command(c) => format!("!{c}"),
            })
            .collect()
    }

    #[test]
    fn queries_end_at_semicolons_outside_of_quotes_and_comments() {
        for (lines, expected) in [
            (&["SELECT 1; SELECT 2;"][..], &["SELECT 1", "SELECT 2"][..]),
            (&["SELECT 1; -- done"], &["SELECT 1"]),
            (&["SELECT ';', \";\", 'it''s;' -- ;", "FROM x"], &["SELECT ';', \";\", 'it''s;' -- ;\nFROM x"]),
            (&["SELECT /* ; */ 1;", "/* only", "this */"], &["SELECT /* ; */ 1"]),
            (&["\\d", "SELECT 1", "\\x", ";", "exit;"], &["!\\d", "SELECT 1\n\\x", "!exit"]),
            (&["-- a remark", "\\d unique"], &["!\\d unique"]),
            (&["", " ; ;", ""], &[]),
            (&["SELECT 'ü;é'; help"], &["SELECT 'ü;é'", "help"]),
        ] {
            assert_eq!(items(lines), expected, "{lines:?}");
        }
    }
}
