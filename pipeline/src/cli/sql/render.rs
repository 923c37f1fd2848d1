//! Rows as text: a table, one column per line, CSV, JSON.

use super::Format;
use crate::error::{Error, Result};
use crate::report::value;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::arrow::util::pretty::pretty_format_batches;
use serde_json::Value;
use std::io::Write;

/// Least columns of a terminal that a cut cell keeps.
const LEAST_CELL: usize = 4;

/// How a table looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct View {
    /// Columns of the terminal; None: nothing is cut.
    pub width: Option<usize>,
    /// One line per column instead of one per row.
    pub expanded: bool,
}

/// What a query gave.
pub struct Rows<'a> {
    pub schema: &'a SchemaRef,
    pub batches: &'a [RecordBatch],
}

fn io(e: std::io::Error) -> Error {
    Error::io("write", "the rows")(e)
}

impl Rows<'_> {
    /// Writes all rows in one format.
    pub fn write(&self, format: Format, view: View, out: &mut dyn Write) -> Result<()> {
        match format {
            Format::Table | Format::Parquet if view.expanded => self.expanded(view, out),
            Format::Table | Format::Parquet => match view.width {
                Some(width) => self.cut(width, out),
                None => {
                    let empty = [RecordBatch::new_empty(self.schema.clone())];
                    let batches = if self.batches.is_empty() { &empty } else { self.batches };
                    writeln!(out, "{}", pretty_format_batches(batches)?).map_err(io)
                }
            },
            Format::Csv => self.csv(out),
            Format::Json | Format::Jsonl => self.objects().try_for_each(|object| writeln!(out, "{object}").map_err(io)),
        }
    }

    /// One JSON array, a row per line.
    pub fn json_array(&self, out: &mut dyn Write) -> Result<()> {
        let mut before = "[\n";
        for object in self.objects() {
            write!(out, "{before}{object}").map_err(io)?;
            before = ",\n";
        }
        out.write_all(if before == "[\n" { b"[]\n" } else { b"\n]\n" }).map_err(io)
    }

    fn objects(&self) -> impl Iterator<Item = Value> {
        self.batches.iter().flat_map(move |batch| {
            (0..batch.num_rows()).map(move |row| {
                let cells = self.schema.fields().iter().zip(batch.columns());
                Value::Object(cells.map(|(f, c)| (f.name().clone(), value(c, row))).collect())
            })
        })
    }

    fn csv(&self, out: &mut dyn Write) -> Result<()> {
        let quoted = |s: &str| {
            if s.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", s.replace('"', "\"\"")) } else { s.to_string() }
        };
        let header: Vec<String> = self.schema.fields().iter().map(|f| quoted(f.name())).collect();
        writeln!(out, "{}", header.join(",")).map_err(io)?;
        for batch in self.batches {
            let columns = formatters(batch)?;
            for row in 0..batch.num_rows() {
                let cells = batch.columns().iter().zip(&columns).map(|(array, formatter)| {
                    // Lists and structs as JSON, so that they can be read back.
                    let nested = array.data_type().is_nested() && !array.is_null(row);
                    quoted(&if nested { value(array, row).to_string() } else { formatter.value(row).to_string() })
                });
                writeln!(out, "{}", cells.collect::<Vec<_>>().join(",")).map_err(io)?;
            }
        }
        Ok(())
    }

    /// The table with its long cells cut, so that a row is a line of the terminal.
    fn cut(&self, width: usize, out: &mut dyn Write) -> Result<()> {
        let header: Vec<String> = self.schema.fields().iter().map(|f| f.name().clone()).collect();
        let mut lines = vec![header];
        for batch in self.batches {
            let columns = formatters(batch)?;
            for row in 0..batch.num_rows() {
                lines.push(columns.iter().map(|c| fit(&c.value(row).to_string(), width)).collect());
            }
        }
        let natural: Vec<usize> = (0..self.schema.fields().len())
            .map(|c| lines.iter().map(|l| cell_width(&l[c])).max().unwrap_or(0))
            .collect();
        let widths = widths(&natural, width.saturating_sub(3 * natural.len() + 1));
        let rule: String = widths.iter().map(|w| format!("+{}", "-".repeat(w + 2))).collect::<String>() + "+";
        writeln!(out, "{rule}").map_err(io)?;
        for (n, line) in lines.iter().enumerate() {
            for (cell, width) in line.iter().zip(&widths) {
                let cell = fit(cell, *width);
                write!(out, "| {cell}{} ", " ".repeat(width - cell_width(&cell))).map_err(io)?;
            }
            writeln!(out, "|").map_err(io)?;
            if n == 0 {
                writeln!(out, "{rule}").map_err(io)?;
            }
        }
        writeln!(out, "{rule}").map_err(io)
    }

    fn expanded(&self, view: View, out: &mut dyn Write) -> Result<()> {
        let names: Vec<&str> = self.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let widest = names.iter().map(|n| cell_width(n)).max().unwrap_or(0);
        let mut n = 0;
        for batch in self.batches {
            let columns = formatters(batch)?;
            for row in 0..batch.num_rows() {
                n += 1;
                writeln!(out, "-[ row {n} ]-").map_err(io)?;
                for (name, column) in names.iter().zip(&columns) {
                    let text = column.value(row).to_string();
                    let text = match view.width {
                        Some(width) => fit(&text, width.saturating_sub(widest + 3).max(LEAST_CELL)),
                        None => text,
                    };
                    let space = " ".repeat(widest - cell_width(name));
                    writeln!(out, "{name}{space} | {text}").map_err(io)?;
                }
            }
        }
        Ok(())
    }
}

fn formatters(batch: &RecordBatch) -> Result<Vec<ArrayFormatter<'_>>> {
    const OPTIONS: FormatOptions<'static> = FormatOptions::new();
    batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &OPTIONS).map_err(Error::from)).collect()
}

/// Widths whose sum is at most `available`, taken from the widest columns.
fn widths(natural: &[usize], available: usize) -> Vec<usize> {
    let fits = |cap: usize| natural.iter().map(|w| (*w).min(cap)).sum::<usize>() <= available;
    let widest = natural.iter().copied().max().unwrap_or(0);
    let cap = (LEAST_CELL..=widest).rev().find(|cap| fits(*cap)).unwrap_or(LEAST_CELL);
    let mut widths: Vec<usize> = natural.iter().map(|w| (*w).min(cap)).collect();
    // What is left over goes to the first columns that were cut.
    let mut left = available.saturating_sub(widths.iter().sum());
    for (width, natural) in widths.iter_mut().zip(natural) {
        if left > 0 && *width < *natural {
            *width += 1;
            left -= 1;
        }
    }
    widths
}

/// A cell on one line of at most `width` columns; what is cut ends in `…`.
fn fit(text: &str, width: usize) -> String {
    let (mut shown, mut used) = (String::new(), 0);
    for c in text.chars() {
        let piece = match c {
            '\n' => "\\n".to_string(),
            '\r' => "\\r".to_string(),
            '\t' => "\\t".to_string(),
            c if c.is_control() => "?".to_string(),
            c => c.to_string(),
        };
        used += cell_width(&piece);
        if used > width {
            while cell_width(&shown) + 1 > width && shown.pop().is_some() {}
            return shown + "…";
        }
        shown += &piece;
    }
    shown
}

/// Columns that a text takes on a terminal.
fn cell_width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// Columns of a character: 0 for marks that join the one before, 2 for East Asian wide ones and pictures, else 1.
/// A short form of Unicode's East_Asian_Width.
fn char_width(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f | 0x20d0..=0x20ff => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_cells_are_cut_to_the_width_and_short_ones_are_not() {
        for (text, width, shown) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("", 3, ""),
            ("a\nb", 4, "a\\nb"),
            ("日本語", 4, "日…"),
            ("日本", 4, "日本"),
            ("abc", 1, "…"),
        ] {
            assert_eq!(fit(text, width), shown, "{text:?} in {width}");
        }
        assert_eq!(widths(&[3, 100, 50], 60), [3, 29, 28]);
        assert_eq!(widths(&[3, 5], 60), [3, 5]);
        assert_eq!(widths(&[], 60), Vec::<usize>::new());
    }
}
