//! Kept nodes to text.
//!
//! In: the tree and which nodes are content. Out: text with white space collapsed, one block a line, list markers,
//! table rows, and preformatted text as it stands; or the same as Markdown. Writes each kept text node exactly once.
//! Which nodes are kept is decided in `score`.

use super::Format;
use super::dom::{Attr, Tree};
use super::score::Content;
use super::tag::Tag;

/// Text longer than this in one cell, in bytes, means the table arranges the page and holds no records.
const MAX_CELL_BYTES: usize = 600;

/// What separates the next piece of text from what was written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    Nothing,
    Space,
    Cell,
    Line,
    Block,
}

struct Writer {
    out: String,
    gap: Gap,
    format: Format,
    /// Marker of a list item whose text has not begun.
    marker: Option<String>,
    /// Open lists: next number of an ordered one.
    lists: Vec<Option<u32>>,
    /// Depth of open blockquotes (Markdown only).
    quotes: usize,
    /// Depth of open preformatted elements.
    verbatim: usize,
    /// Nothing was written yet inside the preformatted element; its first line breaks are not content.
    fresh: bool,
    /// Depth of open inline code (Markdown only).
    code: usize,
    /// Inline code has begun and its backtick is not written yet.
    backtick: bool,
    tables: Vec<Rows>,
}

/// A table of records being written.
struct Rows {
    end: usize,
    cells_in_row: usize,
    row_open: bool,
    /// The line under the first row is written (Markdown only).
    head_done: bool,
}

/// Writes the kept nodes.
pub(super) fn render(tree: &Tree, content: &Content, format: Format) -> String {
    let mut writer = Writer {
        out: String::new(),
        gap: Gap::Nothing,
        format,
        marker: None,
        lists: Vec::new(),
        quotes: 0,
        verbatim: 0,
        fresh: false,
        code: 0,
        backtick: false,
        tables: Vec::new(),
    };
    writer.subtree(tree, content, content.range(tree));
    let kept = writer.out.trim_end().len();
    writer.out.truncate(kept);
    let start = writer.out.len() - writer.out.trim_start_matches('\n').len();
    writer.out.split_off(start)
}

impl Writer {
    fn subtree(&mut self, tree: &Tree, content: &Content, range: std::ops::Range<usize>) {
        let mut open: Vec<usize> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            while let Some(&last) = open.last()
                && tree.nodes[last].end as usize <= at
            {
                open.pop();
                self.leave(tree, last);
            }
            let node = &tree.nodes[at];
            if !content.keeps(at) {
                at = node.end as usize;
                continue;
            }
            if node.tag == Tag::Text {
                self.text(tree.text(at));
            } else if let (Tag::Math, Some(source)) = (node.tag, tree.attr(at, Attr::Alttext)) {
                self.text(source);
                at = node.end as usize;
                continue;
            } else {
                self.enter(tree, content, at);
                open.push(at);
            }
            at += 1;
        }
        while let Some(last) = open.pop() {
            self.leave(tree, last);
        }
    }

    fn in_cell(&self) -> bool {
        self.tables.last().is_some_and(|rows| rows.row_open)
    }

    fn raise(&mut self, gap: Gap) {
        // A row of a table is one line, and items of a list stay together.
        let gap = match gap {
            _ if self.in_cell() => gap.min(Gap::Space),
            Gap::Block if !self.lists.is_empty() => Gap::Line,
            _ => gap,
        };
        self.gap = self.gap.max(gap);
    }

    fn markdown(&self) -> bool {
        self.format == Format::Markdown
    }

    /// Writes what separates the pieces, then the marker of a list item that begins here.
    fn begin(&mut self) {
        let gap = std::mem::replace(&mut self.gap, Gap::Nothing);
        let fresh = self.out.is_empty();
        match gap {
            _ if fresh => {}
            Gap::Nothing => {}
            Gap::Space => self.out.push(' '),
            Gap::Cell => self.out.push_str(" | "),
            Gap::Block if self.markdown() => self.out.push_str("\n\n"),
            Gap::Line | Gap::Block => self.out.push('\n'),
        }
        if gap >= Gap::Line || fresh {
            for _ in 0..self.quotes {
                self.out.push_str("> ");
            }
            let nested = self.lists.len().saturating_sub(1);
            if self.markdown() || self.marker.is_some() {
                self.out.extend(std::iter::repeat_n("  ", nested));
            }
        }
        if let Some(marker) = self.marker.take() {
            self.out.push_str(&marker);
        }
        if std::mem::take(&mut self.backtick) {
            self.out.push('`');
        }
    }

    fn text(&mut self, text: &str) {
        if self.verbatim > 0 && !self.in_cell() {
            return self.preformatted(text);
        }
        let mut pieces = text.split([' ', '\n', '\t', '\r', '\x0c', '\u{a0}', '\u{3000}', '\u{2028}', '\u{2029}']);
        let mut first = true;
        for piece in &mut pieces {
            if !first {
                self.raise(Gap::Space);
            }
            first = false;
            if !piece.is_empty() {
                self.word(piece);
            }
        }
    }

    /// One run of text without white space; characters nobody sees are left out.
    fn word(&mut self, piece: &str) {
        if piece.is_ascii() && !piece.bytes().any(|b| b < b' ' || b == 0x7f || b == b'|') {
            self.begin();
            self.out.push_str(piece);
            return;
        }
        let visible = |c: &char| !(c.is_control() || matches!(c, '\u{ad}' | '\u{200b}' | '\u{2060}' | '\u{feff}'));
        if !piece.chars().any(|c| visible(&c)) {
            return;
        }
        self.begin();
        let escape = self.markdown() && self.in_cell();
        for c in piece.chars().filter(visible) {
            if c == '|' && escape {
                self.out.push('\\');
            }
            self.out.push(c);
        }
    }

    fn preformatted(&mut self, text: &str) {
        let text = if self.fresh { text.trim_start_matches(['\n', '\r']) } else { text };
        self.fresh &= text.is_empty();
        if text.is_empty() {
            return;
        }
        if self.gap != Gap::Nothing || self.out.is_empty() || self.marker.is_some() {
            self.begin();
        }
        self.out.extend(text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')));
    }

    fn enter(&mut self, tree: &Tree, content: &Content, at: usize) {
        let tag = tree.nodes[at].tag;
        match tag {
            Tag::Br => self.raise(Gap::Line),
            Tag::Table if !self.in_cell() && is_table_of_records(tree, content, at) => {
                self.raise(Gap::Block);
                let end = tree.nodes[at].end as usize;
                self.tables.push(Rows { end, cells_in_row: 0, row_open: false, head_done: false });
            }
            Tag::Tr if !self.tables.is_empty() && !self.in_cell() => self.enter_row(),
            Tag::Td | Tag::Th if self.in_cell() => self.enter_cell(),
            Tag::Ul | Tag::Menu => self.enter_list(None),
            Tag::Ol => {
                let start = tree.attr(at, Attr::Start).and_then(|s| s.trim().parse().ok());
                self.enter_list(Some(start.unwrap_or(1)));
            }
            Tag::Li if !self.in_cell() => self.enter_item(),
            tag if tag.is_preformatted() => self.enter_pre(),
            Tag::Blockquote if self.markdown() && !self.in_cell() => {
                self.raise(Gap::Block);
                self.quotes += 1;
            }
            Tag::Code if self.markdown() && self.verbatim == 0 => self.enter_code(),
            _ => {
                if tag.is_block() {
                    self.raise(Gap::Block);
                }
                if let Some(level) = tag.heading_level()
                    && self.markdown()
                    && !self.in_cell()
                {
                    self.marker = Some(format!("{} ", "#".repeat(level)));
                }
            }
        }
    }

    fn leave(&mut self, tree: &Tree, at: usize) {
        let tag = tree.nodes[at].tag;
        match tag {
            Tag::Table if self.tables.last().is_some_and(|rows| rows.end == tree.nodes[at].end as usize) => {
                self.tables.pop();
                self.raise(Gap::Block);
            }
            Tag::Tr if self.in_cell() => self.leave_row(),
            Tag::Ul | Tag::Ol | Tag::Menu => {
                self.lists.pop();
                self.raise(if self.lists.is_empty() { Gap::Block } else { Gap::Line });
            }
            Tag::Li => {
                self.marker = None;
                self.raise(Gap::Line);
            }
            tag if tag.is_preformatted() => self.leave_pre(),
            Tag::Blockquote if self.markdown() && !self.in_cell() => {
                self.quotes = self.quotes.saturating_sub(1);
                self.raise(Gap::Block);
            }
            Tag::Code if self.markdown() && self.verbatim == 0 => self.leave_code(),
            _ => {
                if tag.heading_level().is_some() {
                    self.marker = None;
                }
                if tag.is_block() {
                    self.raise(Gap::Block);
                }
            }
        }
    }

    fn enter_list(&mut self, number: Option<u32>) {
        self.raise(if self.lists.is_empty() { Gap::Block } else { Gap::Line });
        self.lists.push(number);
    }

    fn enter_item(&mut self) {
        self.raise(Gap::Line);
        self.marker = Some(match self.lists.last_mut() {
            Some(Some(number)) => {
                *number = number.saturating_add(1);
                format!("{}. ", *number - 1)
            }
            _ => "- ".to_owned(),
        });
    }

    fn enter_pre(&mut self) {
        self.raise(Gap::Block);
        if self.verbatim == 0 && self.markdown() && !self.in_cell() {
            (self.code, self.backtick) = (0, false);
            self.begin();
            self.out.push_str("```\n");
        }
        self.fresh |= self.verbatim == 0;
        self.verbatim += 1;
    }

    fn leave_pre(&mut self) {
        self.verbatim = self.verbatim.saturating_sub(1);
        if self.verbatim == 0 && !self.in_cell() {
            let kept = self.out.trim_end().len();
            self.out.truncate(kept);
            if self.markdown() {
                self.out.push_str("\n```");
            }
        }
        self.raise(Gap::Block);
    }

    /// Marks where inline code begins; the backtick waits for its first character.
    fn enter_code(&mut self) {
        self.code += 1;
        if self.code == 1 {
            self.backtick = true;
        }
    }

    fn leave_code(&mut self) {
        if self.code == 0 {
            return; // a fence inside took its place
        }
        self.code -= 1;
        if self.code == 0 && !std::mem::take(&mut self.backtick) {
            self.out.push('`');
        }
    }

    fn enter_row(&mut self) {
        self.raise(Gap::Line);
        let rows = self.tables.last_mut().expect("a row is entered only inside a table");
        rows.row_open = true;
        rows.cells_in_row = 0;
    }

    /// In text an empty cell leaves no trace; in Markdown every cell has its column.
    fn enter_cell(&mut self) {
        let markdown = self.markdown();
        let rows = self.tables.last_mut().expect("a cell is entered only inside a row");
        rows.cells_in_row += 1;
        match (rows.cells_in_row == 1, markdown) {
            (true, false) => {}
            (false, false) => self.gap = self.gap.max(Gap::Cell),
            (true, true) => {
                self.begin();
                self.out.push_str("| ");
            }
            (false, true) => {
                self.gap = Gap::Nothing;
                self.out.push_str(if self.out.ends_with(' ') { "| " } else { " | " });
            }
        }
    }

    fn leave_row(&mut self) {
        let markdown = self.markdown();
        let rows = self.tables.last_mut().expect("a row is left only inside a table");
        rows.row_open = false;
        let cells = rows.cells_in_row;
        if cells > 0 && markdown {
            self.out.push_str(if self.out.ends_with(' ') { "|" } else { " |" });
            if !rows.head_done {
                rows.head_done = true;
                self.out.push_str("\n|");
                self.out.extend(std::iter::repeat_n(" --- |", cells));
            }
        }
        self.gap = self.gap.max(Gap::Line);
    }
}

/// True for rows of short cells; a table around blocks of prose or other tables is page layout.
fn is_table_of_records(tree: &Tree, content: &Content, table: usize) -> bool {
    let (mut cells, mut at) = (0, table + 1);
    let end = tree.nodes[table].end as usize;
    while at < end {
        let node = &tree.nodes[at];
        if !content.keeps(at) {
            at = node.end as usize;
            continue;
        }
        match node.tag {
            Tag::Table => return false,
            Tag::H1 | Tag::H2 | Tag::H3 | Tag::Article | Tag::Section | Tag::Pre => return false,
            Tag::Td | Tag::Th => {
                cells += 1;
                let mut bytes = 0;
                for inner in tree.subtree(at) {
                    bytes += tree.text(inner).trim().len();
                    if bytes > MAX_CELL_BYTES {
                        return false;
                    }
                }
            }
            _ => {}
        }
        at += 1;
    }
    cells > 1
}

#[cfg(test)]
mod tests {
    use super::super::{ExtractConfig, Format, extract};

    fn written(html: &str, format: Format) -> String {
        let config = ExtractConfig { format, ..Default::default() };
        extract(&format!("<body>{html}"), None, &config).map(|page| page.text).unwrap_or_default()
    }

    #[test]
    fn blocks_become_lines_and_white_space_collapses() {
        for (html, text) in [
            ("", ""),
            ("word", "word"),
            ("<p>one\n  two</p> <p>three<br>four</p>", "one two\nthree\nfour"),
            ("a<b>b</b>c <i> d</i>", "abc d"),
            ("<div><div>x</div></div><span>y</span>z", "x\nyz"),
            ("soft\u{ad}hyphen zero\u{200b}width\u{a0}space\u{0}", "softhyphen zerowidth space"),
            ("<p>吾輩は<b>猫</b>である</p><p>名前はまだ無い</p>", "吾輩は猫である\n名前はまだ無い"),
            ("a | b &amp; &lt;c&gt;", "a | b & <c>"),
        ] {
            assert_eq!(written(html, Format::Text), text, "{html}");
        }
    }

    #[test]
    fn lists_keep_their_markers_and_order() {
        let html =
            "<p>Intro</p><ul><li>one<li><p>two</p><ol start=3><li>three</li><li></li><li>five</ol></ul><p>End</p>";
        let text = "Intro\n- one\n- two\n  3. three\n  5. five\nEnd";
        assert_eq!(written(html, Format::Text), text);
        assert_eq!(written(html, Format::Markdown), "Intro\n\n- one\n- two\n  3. three\n  5. five\n\nEnd");
        assert_eq!(
            written("<dl><dt>term<dd>meaning<dt>other<dd>thing</dl>", Format::Text),
            "term\nmeaning\nother\nthing"
        );
    }

    #[test]
    fn preformatted_text_is_verbatim() {
        let html = "<p>Run:</p><pre><code>\nfn main() {\n    go();\n\n}\n</code></pre><p>Done.</p>";
        assert_eq!(written(html, Format::Text), "Run:\nfn main() {\n    go();\n\n}\nDone.");
        let markdown = "Run:\n\n```\nfn main() {\n    go();\n\n}\n```\n\nDone.";
        assert_eq!(written(html, Format::Markdown), markdown);
    }

    #[test]
    fn tables_of_records_become_rows() {
        let html = "<table><tr><th>Name<th>Size<tr><td>a|b<td><b>1</b> kB<tr><td><td>2</table>after";
        assert_eq!(written(html, Format::Text), "Name | Size\na|b | 1 kB\n2\nafter");
        let markdown = "| Name | Size |\n| --- | --- |\n| a\\|b | 1 kB |\n| | 2 |\n\nafter";
        assert_eq!(written(html, Format::Markdown), markdown);
    }

    #[test]
    fn layout_tables_are_read_as_blocks() {
        let html = "<table><tr><td><h1>Head</h1><td><p>Left</p><p>Right</p></table>";
        assert_eq!(written(html, Format::Text), "Head\nLeft\nRight");
    }

    #[test]
    fn markdown_has_headings_quotes_and_inline_code() {
        let html = "<h2>Use <code>cargo</code></h2><p>See <a href=/x>the <em>book</em></a>.</p><blockquote><p>said</p><p>so</p></blockquote>";
        let markdown = "## Use `cargo`\n\nSee the book.\n\n> said\n\n> so";
        assert_eq!(written(html, Format::Markdown), markdown);
        assert_eq!(written("<code><pre>x</pre></code>y", Format::Markdown), "```\nx\n```\n\ny");
    }

    #[test]
    fn formulas_are_written_as_their_source_once() {
        let html = "<p>Euler: <span style='display:none'><math alttext='e^{i\\pi}=-1'><mi>e</mi>\
                    <annotation>e</annotation></math></span> holds.</p>";
        assert_eq!(written(html, Format::Text), "Euler: e^{i\\pi}=-1 holds.");
    }
}
