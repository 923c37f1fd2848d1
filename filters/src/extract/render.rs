//! Kept nodes to text.
//!
//! In: the tree and which nodes are content. Out: text with white space collapsed, one block a line, list markers,
//! table rows, and preformatted text as it stands; or the same as Markdown. Writes each kept text node exactly once.
//! Which nodes are kept is decided in `score`, which tables hold records in `table`. Spec: CommonMark 0.31, GitHub tables.

use super::dom::{Attr, Tree};
use super::score::Content;
use super::table::is_table_of_records;
use super::tag::Tag;
use super::work::Work;
use super::{ExtractFault, Format};
use std::ops::Range;

/// Lists and quotes nested deeper than this are written like those at this depth: each line repeats its indentation.
const MAX_INDENT: usize = 16;

/// Longest name of a language after a code fence, in bytes.
const MAX_LANGUAGE_BYTES: usize = 20;

/// What separates the next piece of text from what was written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    Nothing,
    Space,
    Cell,
    Line,
    Block,
}

struct Writer<'a> {
    work: &'a mut Work,
    out: String,
    gap: Gap,
    format: Format,
    /// Marker of a list item whose text has not begun.
    marker: Option<String>,
    /// Open lists.
    lists: Vec<List>,
    /// Depth of open blockquotes (Markdown only).
    quotes: usize,
    /// Fewest quotes open since the last text.
    gap_quotes: usize,
    /// A heading is open (Markdown only): it is one line.
    heading: bool,
    /// Depth of open preformatted elements.
    verbatim: usize,
    /// Backticks around the open preformatted element (Markdown only).
    fence: usize,
    /// Nothing was written yet inside the preformatted element; its first line breaks are not content.
    fresh: bool,
    /// Depth of open inline code (Markdown only).
    code: usize,
    /// Inline code has begun and its backtick is not written yet.
    backtick: bool,
    tables: Vec<Rows>,
}

/// An open list.
struct List {
    /// Next number of an ordered one.
    number: Option<u32>,
    /// Width of the marker of the open item, 0 before the first.
    marker: usize,
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
pub(super) fn render(tree: &Tree, content: &Content, format: Format, work: &mut Work) -> Result<String, ExtractFault> {
    let mut writer = Writer {
        work,
        out: String::new(),
        gap: Gap::Nothing,
        format,
        marker: None,
        lists: Vec::new(),
        quotes: 0,
        gap_quotes: 0,
        heading: false,
        verbatim: 0,
        fence: 0,
        fresh: false,
        code: 0,
        backtick: false,
        tables: Vec::new(),
    };
    for range in content.ranges(tree) {
        writer.subtree(tree, content, range)?;
    }
    let mut out = writer.out;
    out.truncate(out.trim_end().len());
    let start = out.len() - out.trim_start_matches('\n').len();
    Ok(if start == 0 { out } else { out.split_off(start) })
}

impl Writer<'_> {
    fn subtree(&mut self, tree: &Tree, content: &Content, range: Range<usize>) -> Result<(), ExtractFault> {
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
            self.work.charge(1)?;
            if !content.keeps(at) {
                if node.tag.is_block() {
                    self.raise(Gap::Block);
                }
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
                self.enter(tree, content, at)?;
                open.push(at);
            }
            at += 1;
        }
        while let Some(last) = open.pop() {
            self.leave(tree, last);
        }
        self.work.check()
    }

    fn in_cell(&self) -> bool {
        self.tables.last().is_some_and(|rows| rows.row_open)
    }

    fn raise(&mut self, gap: Gap) {
        // A row of a table is one line, and items of a list stay together.
        let gap = match gap {
            _ if self.in_cell() && self.markdown() && self.out.ends_with("| ") => return,
            _ if self.in_cell() || self.heading => gap.min(Gap::Space),
            Gap::Block if !self.lists.is_empty() => Gap::Line,
            Gap::Block if self.tables.last().is_some_and(|rows| rows.head_done || rows.cells_in_row > 0) => Gap::Line,
            _ => gap,
        };
        self.gap_quotes = if self.gap == Gap::Nothing { self.quotes } else { self.gap_quotes.min(self.quotes) };
        self.gap = self.gap.max(gap);
    }

    fn markdown(&self) -> bool {
        self.format == Format::Markdown
    }

    /// Writes what separates the pieces, then the marker of a list item that begins here.
    fn begin(&mut self) {
        let gap = std::mem::replace(&mut self.gap, Gap::Nothing);
        let first = self.out.is_empty();
        match gap {
            _ if first => {}
            Gap::Nothing => {}
            Gap::Space => self.out.push(' '),
            Gap::Cell => self.out.push_str(" | "),
            Gap::Block if self.markdown() => {
                self.out.push('\n');
                self.empty_line(self.gap_quotes);
                self.out.push('\n');
            }
            Gap::Line | Gap::Block => self.out.push('\n'),
        }
        if gap >= Gap::Line || first {
            self.margin();
        }
        if let Some(marker) = self.marker.take() {
            self.out.push_str(&marker);
            if let Some(list) = self.lists.last_mut() {
                list.marker = marker.len();
            }
        }
        if std::mem::take(&mut self.backtick) {
            self.out.push('`');
        }
    }

    /// Keeps quotes together over a line without text.
    fn empty_line(&mut self, quotes: usize) {
        for i in 0..quotes.min(MAX_INDENT) {
            self.out.push_str(if i == 0 { ">" } else { " >" });
        }
    }

    /// What stands before a line: marks of quotes, and indentation in lists.
    fn margin(&mut self) {
        let from = self.out.len();
        self.out.extend(std::iter::repeat_n("> ", self.quotes.min(MAX_INDENT)));
        if self.markdown() {
            let width: usize = self.lists.iter().take(MAX_INDENT).map(|list| list.marker).sum();
            self.out.extend(std::iter::repeat_n(' ', width));
        } else if self.marker.is_some() {
            self.out.extend(std::iter::repeat_n("  ", self.lists.len().saturating_sub(1).min(MAX_INDENT)));
        }
        self.work.add(self.out.len() - from);
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
        } else if self.markdown() && self.out.ends_with('\n') {
            self.margin();
        }
        let has_margin = self.markdown() && (self.quotes > 0 || !self.lists.is_empty());
        let n_lines = text.split('\n').count();
        for (i, line) in text.split('\n').enumerate() {
            if i > 0 {
                self.out.push('\n');
                // An empty last line goes on with the next piece of text.
                match (has_margin, line.is_empty(), i + 1 == n_lines) {
                    (true, false, _) => self.margin(),
                    (true, true, false) => self.empty_line(self.quotes),
                    _ => {}
                }
            }
            self.out.extend(line.chars().filter(|c| !c.is_control() || *c == '\t'));
        }
    }

    fn enter(&mut self, tree: &Tree, content: &Content, at: usize) -> Result<(), ExtractFault> {
        let tag = tree.nodes[at].tag;
        match tag {
            // In verbatim text a break is a character, and two breaks are the end of a paragraph.
            Tag::Br if self.verbatim > 0 && !self.in_cell() => self.preformatted("\n"),
            Tag::Br if self.gap == Gap::Line => self.raise(Gap::Block),
            Tag::Br => self.raise(Gap::Line),
            Tag::Table if !self.in_cell() && is_table_of_records(tree, content, at, self.work)? => {
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
            tag if tag.is_preformatted() => self.enter_pre(tree, at)?,
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
                    self.heading = true;
                }
            }
        }
        Ok(())
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
                    self.heading = false;
                }
                if tag.is_block() {
                    self.raise(Gap::Block);
                }
            }
        }
    }

    fn enter_list(&mut self, number: Option<u32>) {
        self.raise(if self.lists.is_empty() { Gap::Block } else { Gap::Line });
        self.lists.push(List { number, marker: 0 });
    }

    fn enter_item(&mut self) {
        self.raise(Gap::Line);
        let Some(list) = self.lists.last_mut() else { return self.marker = Some("- ".to_owned()) };
        list.marker = 0;
        self.marker = Some(match &mut list.number {
            Some(number) => {
                *number = number.saturating_add(1);
                format!("{}. ", *number - 1)
            }
            None => "- ".to_owned(),
        });
    }

    fn enter_pre(&mut self, tree: &Tree, at: usize) -> Result<(), ExtractFault> {
        self.raise(Gap::Block);
        if self.verbatim == 0 && self.markdown() && !self.in_cell() {
            self.work.charge(tree.subtree(at).len())?;
            self.fence = fence(tree, at);
            (self.code, self.backtick) = (0, false);
            self.begin();
            self.out.extend(std::iter::repeat_n('`', self.fence));
            self.out.push_str(language(tree, at).unwrap_or(""));
            self.out.push('\n');
        }
        self.fresh |= self.verbatim == 0;
        self.verbatim += 1;
        Ok(())
    }

    fn leave_pre(&mut self) {
        self.verbatim = self.verbatim.saturating_sub(1);
        if self.verbatim == 0 && !self.in_cell() {
            self.out.truncate(self.out.trim_end().len());
            if self.markdown() {
                self.out.push('\n');
                self.margin();
                self.out.extend(std::iter::repeat_n('`', self.fence));
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

/// Backticks that no line of the element can be mistaken for.
fn fence(tree: &Tree, at: usize) -> usize {
    let longest = |text: &str| text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    tree.subtree(at).map(|node| longest(tree.text(node))).max().unwrap_or(0).max(2) + 1
}

/// Language that the class of the element, or of the code in it, names: `language-rust`, `lang-rust`, `highlight-rust`.
fn language(tree: &Tree, at: usize) -> Option<&str> {
    let holds =
        [Some(at), (at + 1 < tree.nodes[at].end as usize).then_some(at + 1), Some(tree.nodes[at].parent as usize)];
    holds.into_iter().flatten().filter_map(|node| tree.attr(node, Attr::Class)).find_map(|class| {
        class.split_ascii_whitespace().find_map(|name| {
            let language =
                ["language-", "lang-", "highlight-source-", "highlight-"].iter().find_map(|p| name.strip_prefix(p))?;
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '#' | '-' | '_');
            (language.len() <= MAX_LANGUAGE_BYTES && !language.is_empty() && language.chars().all(plain))
                .then_some(language)
        })
    })
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
        let markdown = "## Use `cargo`\n\nSee the book.\n\n> said\n>\n> so";
        assert_eq!(written(html, Format::Markdown), markdown);
        assert_eq!(written("<code><pre>x</pre></code>y", Format::Markdown), "```\nx\n```\n\ny");
    }

    #[test]
    fn blocks_inside_list_items_stay_inside_in_markdown() {
        let html = "<ol><li><p>one</p><p>more</p><pre class=language-sh>ls\n  -l\n\nend</pre></li><li>two<ul><li>sub</ul></ol><p>End</p>";
        let markdown = "1. one\n   more\n   ```sh\n   ls\n     -l\n\n   end\n   ```\n2. two\n   - sub\n\nEnd";
        assert_eq!(written(html, Format::Markdown), markdown);
        let text = "1. one\nmore\nls\n  -l\n\nend\n2. two\n  - sub\nEnd";
        assert_eq!(written(html, Format::Text), text);
    }

    #[test]
    fn code_in_quotes_and_code_with_backticks_can_be_read_back() {
        let html = "<blockquote><p>say</p><pre>a\n\nb</pre></blockquote><pre><code class='lang-md hl'>```\nx\n```</code></pre>";
        let markdown = "> say\n>\n> ```\n> a\n>\n> b\n> ```\n\n````md\n```\nx\n```\n````";
        assert_eq!(written(html, Format::Markdown), markdown);
        assert_eq!(written("<pre>a<br>  b</pre>", Format::Text), "a\n  b");
    }

    #[test]
    fn headings_are_one_line_and_two_breaks_end_a_paragraph_in_markdown() {
        let html = "<h2>a<br>b</h2>c<br>d<br><br>e";
        assert_eq!(written(html, Format::Markdown), "## a b\n\nc\nd\n\ne");
        assert_eq!(written(html, Format::Text), "a\nb\nc\nd\ne");
    }

    #[test]
    fn tables_in_cells_and_white_space_between_tags_are_no_trouble() {
        let html = "<table>\n<caption>Sizes</caption>\n<thead>\n<tr>\n<th>A</th>\n<th>B</th>\n</tr>\n</thead>\n<tbody>\n<tr>\n<td> 1 </td>\n<td><ul><li>x</li><li>y</li></ul></td>\n</tr>\n</tbody>\n</table>";
        assert_eq!(written(html, Format::Text), "Sizes\nA | B\n1 | x y");
        assert_eq!(written(html, Format::Markdown), "Sizes\n\n| A | B |\n| --- | --- |\n| 1 | x y |");
    }

    /// Each line of a nested list repeats its indentation, so the text could be longer than the page by far.
    #[test]
    fn deep_lists_do_not_multiply_the_text() {
        let html = format!("{}{}", "<ul><li>".repeat(250), "<li>x".repeat(10_000));
        for format in [Format::Text, Format::Markdown] {
            assert!(written(&html, format).len() < 10_000 * 40);
        }
    }

    #[test]
    fn formulas_are_written_as_their_source_once() {
        let html = "<p>Euler: <span style='display:none'><math alttext='e^{i\\pi}=-1'><mi>e</mi>\
                    <annotation>e</annotation></math></span> holds.</p>";
        assert_eq!(written(html, Format::Text), "Euler: e^{i\\pi}=-1 holds.");
    }
}
