//! The one way to print: data on stdout with `say!`, which fails like any other write; all else on stderr with `note!`.

use crate::error::{Error, Result};
use std::fmt::Arguments;
use std::io::Write;
use std::path::Path;

pub use crate::progress::size;

/// Prints a line of data; a full disk ends the command as it does everywhere else.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::out::line(format_args!($($text)*))? };
}

/// Tells a person something on stderr; what cannot be told there has no other place to go.
macro_rules! note {
    ($($text:tt)*) => { $crate::cli::out::aside(format_args!($($text)*)) };
}

/// A line on stdout.
pub fn line(text: Arguments<'_>) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(failed)
}

/// Bytes on stdout as they are, all of them out when it returns.
pub fn raw(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(failed)
}

/// A line on stderr.
pub fn aside(text: Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// What a failed write to stdout is.
pub fn failed(e: std::io::Error) -> Error {
    match Error::io("write", "standard output")(e) {
        Error::Resources(_) => Error::Resources(
            "no space left to write standard output\nhint: free some space where it is redirected to, or choose another place"
                .into(),
        ),
        other => other,
    }
}

/// A path as a shell reads it back: in quotes where it must be.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_paths_are_shown_as_people_write_them() {
        for (bytes, shown) in
            [(0, "0 B"), (999, "999 B"), (12_345, "12.3 KB"), (4_600_000, "4.6 MB"), (2_000_000_000, "2.0 GB")]
        {
            assert_eq!(size(bytes), shown);
        }
        for (path, shown) in
            [("a/b.toml", "a/b.toml"), ("my run", "'my run'"), ("it's", "'it'\\''s'"), ("Ünï", "Ünï"), ("", "''")]
        {
            assert_eq!(quoted(Path::new(path)), shown);
        }
    }
}
