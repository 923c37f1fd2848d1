//! The interactive shell: history, completion, `\` commands, and Ctrl-C that ends a query and not the shell.

use super::render::{Rows, View};
use super::script::{Item, Script};
use super::{Format, gather};
use crate::cli::out;
use crate::error::{Error, Result};
use crate::session::block_on;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::TableReference;
use datafusion::prelude::SessionContext;
use futures::future::{Either, select};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Context, Editor, Helper, Highlighter, Hinter, Validator};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How often a running query looks for Ctrl-C.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a query may take to end after Ctrl-C before the shell says that it does not.
const PATIENCE: Duration = Duration::from_secs(1);

const HELP: &str = "\\d         tables              \\d TABLE   its columns
\\x         one line per column, on and off
\\q         end (also exit, quit, Ctrl-D)
A query is one SELECT and ends with a semicolon. Ctrl-C ends a running query or forgets a begun one; if the query does not end,
Ctrl-C once more ends the shell. Tab completes.";

/// What commands read and change.
pub struct State<'a> {
    session: &'a SessionContext,
    format: Format,
    tables: Vec<String>,
    expanded: bool,
}

impl<'a> State<'a> {
    pub fn new(session: &'a SessionContext, format: Format) -> Self {
        Self { session, format, tables: tables(session), expanded: false }
    }

    /// Prints rows, cut to the terminal if there is one.
    pub fn print(&self, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<()> {
        let view = View { width: terminal_width(), expanded: self.expanded };
        let mut bytes = std::io::BufWriter::new(std::io::stdout().lock());
        Rows { schema, batches }.write(self.format, view, &mut bytes)?;
        std::io::Write::flush(&mut bytes).map_err(out::failed)
    }

    /// Does a command; false ends the shell.
    pub fn command(&mut self, line: &str) -> Result<bool> {
        let (name, rest) = line.split_once(char::is_whitespace).map_or((line, ""), |(n, r)| (n, r.trim()));
        match (name.to_lowercase().as_str(), rest) {
            ("\\q" | "exit" | "quit", _) => return Ok(false),
            ("\\?" | "\\h" | "help", _) => say!("{HELP}"),
            ("\\x", _) => {
                self.expanded = !self.expanded;
                note!("one line per column is {}", if self.expanded { "on" } else { "off" });
            }
            ("\\d" | "\\dt", "") => {
                for table in &self.tables {
                    say!("{table}");
                }
            }
            ("\\d" | "\\dt", table) => {
                let table = table.trim_matches('"');
                let Some(columns) = columns(self.session, table) else {
                    let near = crate::manifest::nearest(table, &self.tables)
                        .map(|n| format!("did you mean {n}?"))
                        .unwrap_or_else(|| "\\d lists the tables".into());
                    return Err(Error::Manifest(format!("error: no table {table}\nhint: {near}")));
                };
                for (name, kind) in columns {
                    say!("{name:28} {kind}");
                }
            }
            _ => return Err(Error::Manifest(format!("error: unknown command {line}\nhint: \\? lists the commands"))),
        }
        Ok(true)
    }
}

pub fn run(session: &SessionContext, format: Format) -> Result<()> {
    let mut state = State::new(session, format);
    let names = Names::new(session, &state.tables);
    let failed = |e: ReadlineError| Error::Query(format!("the shell cannot read the terminal: {e}"));
    let mut editor: Editor<Names, FileHistory> = Editor::new().map_err(failed)?;
    editor.set_helper(Some(names));
    let history = std::env::var_os("HOME").map(|h| std::path::Path::new(&h).join(".gristmill_history"));
    if let Some(path) = &history {
        let _ = editor.load_history(path);
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, interrupted.clone())
        .map_err(Error::io("listen for signals in", "the shell"))?;
    note!("{} tables; \\d lists them, \\? helps, \\q ends. A query ends with a semicolon.", state.tables.len());
    let mut script = Script::default();
    loop {
        if let Some(names) = editor.helper_mut() {
            names.begun = script.pending().to_string();
        }
        match editor.readline(if script.is_empty() { "sql> " } else { "...> " }) {
            Ok(line) => {
                let items = script.line(&line);
                if !items.is_empty() {
                    let asked: Vec<String> = items
                        .iter()
                        .map(|i| match i {
                            Item::Query(query) => format!("{query};"),
                            Item::Command(command) => command.clone(),
                        })
                        .collect();
                    let _ = editor.add_history_entry(asked.join(" "));
                    if let Some(path) = &history {
                        let _ = editor.save_history(path);
                    }
                }
                for item in items {
                    let going_on = match item {
                        Item::Query(query) => match ask(&state, &query, &interrupted) {
                            // The thread of the query ends with the process.
                            Err(e @ Error::Interrupted(_)) => return Err(e),
                            asked => asked.map(|done| (true, done)),
                        },
                        Item::Command(command) => state.command(&command).map(|going_on| (going_on, true)),
                    };
                    match going_on {
                        Ok((false, _)) => return Ok(()),
                        Ok((true, true)) => {}
                        Ok((true, false)) => {
                            note!("interrupted");
                            break;
                        }
                        Err(e) => {
                            let text = e.to_string();
                            note!("{}{text}", if text.starts_with("error") { "" } else { "error: " });
                            break;
                        }
                    }
                }
            }
            Err(ReadlineError::Interrupted) => script.clear(),
            Err(ReadlineError::Eof) => return Ok(()),
            Err(e) => return Err(failed(e)),
        }
    }
}

/// Asks and prints; false if Ctrl-C came first.
fn ask(state: &State<'_>, query: &str, interrupted: &AtomicBool) -> Result<bool> {
    let started = Instant::now();
    let Some((schema, batches)) = unless_interrupted(state.session, query, interrupted)? else { return Ok(false) };
    let n: usize = batches.iter().map(RecordBatch::num_rows).sum();
    state.print(&schema, &batches)?;
    note!("{n} rows in {:.3} s", started.elapsed().as_secs_f64());
    Ok(true)
}

/// The rows of a query, or None if the flag ended it. The query runs on a thread of its own and is dropped where it next waits. One
/// that does not wait for longer than [`PATIENCE`] is told to the user and waited for, so that it takes no time and memory from the next
/// one unseen; [`Error::Interrupted`] if the flag is raised once more.
fn unless_interrupted(
    session: &SessionContext,
    query: &str,
    interrupted: &AtomicBool,
) -> Result<Option<(SchemaRef, Vec<RecordBatch>)>> {
    interrupted.store(false, Ordering::SeqCst);
    let (send, receive) = channel();
    let (stop, stopped) = futures::channel::oneshot::channel::<()>();
    let (session, query) = (session.clone(), query.to_string());
    std::thread::Builder::new()
        .stack_size(8 << 20)
        .spawn(move || {
            let found = block_on(async {
                match select(Box::pin(gather(&session, &query)), stopped).await {
                    Either::Left((rows, _)) => Some(rows),
                    Either::Right(_) => None,
                }
            });
            let _ = send.send(found);
        })
        .map_err(Error::io("start a thread for", "the query"))?;
    let mut stop = Some(stop);
    let mut told = false;
    let mut asked_at = Instant::now();
    loop {
        match receive.recv_timeout(LOOK_EVERY) {
            Ok(found) if stop.is_some() => return found.transpose(),
            Ok(_) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => return Err(Error::Query("the query came to no end".into())),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if interrupted.swap(false, Ordering::SeqCst) {
            match stop.take() {
                Some(stop) => {
                    let _ = stop.send(());
                    asked_at = Instant::now();
                }
                None => {
                    return Err(Error::Interrupted(
                        "the shell ended with a query that did not stop\nhint: start it again with the same command"
                            .into(),
                    ));
                }
            }
        }
        if stop.is_none() && !told && asked_at.elapsed() > PATIENCE {
            note!(
                "the query is in a step that cannot be stopped; waiting for its end (Ctrl-C once more ends the shell)"
            );
            told = true;
        }
    }
}

/// Columns of the terminal that stdout is; None if it is none.
fn terminal_width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    // SAFETY: winsize is plain numbers, for which zero is a value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: TIOCGWINSZ writes one winsize through the pointer, which lives until the call returns.
    let told = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    Some(if told == 0 && size.ws_col > 0 { usize::from(size.ws_col) } else { 80 })
}

fn tables(session: &SessionContext) -> Vec<String> {
    let schema = session.catalog("datafusion").and_then(|c| c.schema("public"));
    let mut names = schema.map(|s| s.table_names()).unwrap_or_default();
    names.sort();
    names
}

fn columns(session: &SessionContext, table: &str) -> Option<Vec<(String, String)>> {
    let frame = block_on(session.table(TableReference::bare(table))).ok()?;
    Some(frame.schema().fields().iter().map(|f| (f.name().clone(), f.data_type().to_string())).collect())
}

const SQL: [&str; 18] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "LIMIT",
    "JOIN",
    "LEFT JOIN",
    "USING",
    "COUNT(*)",
    "AVG",
    "SUM",
    "DISTINCT",
    "HAVING",
    "LIKE",
    "BETWEEN",
    "NOT",
    "AND",
];

/// Completes table and column names and the words of SQL; after `table.` or `alias.` the columns of that table, or
/// all columns while the alias is not known.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Names {
    words: Vec<String>,
    columns: BTreeMap<String, Vec<String>>,
    /// Earlier lines of the query.
    begun: String,
}

impl Names {
    fn new(session: &SessionContext, tables: &[String]) -> Self {
        let named =
            |t: &String| (t.clone(), columns(session, t).unwrap_or_default().into_iter().map(|(n, _)| n).collect());
        let columns: BTreeMap<String, Vec<String>> = tables.iter().map(named).collect();
        let fixed = SQL.iter().chain(&["\\d", "\\x", "\\q", "\\?"]).map(|s| s.to_string());
        let mut words: Vec<String> =
            fixed.chain(tables.iter().cloned()).chain(columns.values().flatten().cloned()).collect();
        words.sort();
        words.dedup();
        Self { words, columns, begun: String::new() }
    }

    /// Where the completed word starts in `line`, and what it may become.
    fn complete(&self, line: &str, position: usize) -> (usize, Vec<String>) {
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '\\';
        let before = |end: usize| line[..end].char_indices().rev().find(|(_, c)| !is_word(*c));
        let start = before(position).map_or(0, |(i, c)| i + c.len_utf8());
        let typed = line[start..position].to_lowercase();
        let fits = |words: &[String]| -> Vec<String> {
            words.iter().filter(|w| w.to_lowercase().starts_with(&typed)).cloned().collect()
        };
        if !line[..start].ends_with('.') {
            return (start, if typed.is_empty() { Vec::new() } else { fits(&self.words) });
        }
        let end = start - 1;
        let from = before(end).map_or(0, |(i, c)| i + c.len_utf8());
        let text = format!("{}{line}", self.begun);
        match self.table(&line[from..end], &text) {
            Some(table) => (start, fits(&self.columns[table])),
            // The alias comes later, in a FROM that is not typed yet.
            None => {
                let all: BTreeSet<String> = self.columns.values().flatten().cloned().collect();
                (start, fits(&all.into_iter().collect::<Vec<_>>()))
            }
        }
    }

    /// The table that a qualifier means: its own name, or the name before it as in `FROM unique u` or `unique AS u`.
    fn table(&self, qualifier: &str, text: &str) -> Option<&String> {
        let known = |name: &str| self.columns.keys().find(|t| t.eq_ignore_ascii_case(name));
        if let Some(table) = known(qualifier) {
            return Some(table);
        }
        let words: Vec<&str> =
            text.split(|c: char| c.is_whitespace() || ",();\"".contains(c)).filter(|w| !w.is_empty()).collect();
        words.windows(2).enumerate().find_map(|(i, pair)| {
            let [name, alias] = pair else { return None };
            if !alias.eq_ignore_ascii_case(qualifier) {
                return None;
            }
            let name = if name.eq_ignore_ascii_case("as") { words.get(i.checked_sub(1)?)? } else { name };
            known(name)
        })
    }
}

impl Completer for Names {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.complete(line, position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_an_alias_come_the_columns_of_its_table() {
        let names = Names {
            words: vec!["SELECT".into(), "unique".into(), "url".into()],
            columns: BTreeMap::from([
                ("unique".to_string(), vec!["id".to_string(), "url".into()]),
                ("lang".to_string(), vec!["id".to_string(), "language".into()]),
            ]),
            begun: "SELECT l.id FROM lang AS l\n".into(),
        };
        for (line, position, expected) in [
            ("SELECT u.u FROM unique u", 10, &["url"][..]),
            ("SELECT l.", 9, &["id", "language"]),
            ("SELECT unique.i", 15, &["id"]),
            ("SELECT x.u", 10, &["url"]),
            ("sel", 3, &["SELECT"]),
            ("SELECT 'é', u", 14, &["unique", "url"]),
            ("", 0, &[]),
        ] {
            assert_eq!(names.complete(line, position).1, expected, "{line}");
        }
    }

    #[test]
    fn a_raised_flag_ends_a_query_and_the_next_one_runs() {
        let session = crate::session::session(None, None).unwrap();
        let flag = Arc::new(AtomicBool::new(false));
        let raise = flag.clone();
        let started = Instant::now();
        let raiser = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            raise.store(true, Ordering::SeqCst);
        });
        let long = "SELECT count(*) FROM generate_series(1, 100000000000) a";
        assert!(unless_interrupted(&session, long, &flag).unwrap().is_none());
        assert!(started.elapsed() < Duration::from_secs(20));
        raiser.join().unwrap();
        assert!(unless_interrupted(&session, "SELECT 1", &flag).unwrap().is_some());
    }

    #[test]
    fn a_query_that_never_yields_is_waited_for_and_a_second_flag_ends_the_shell() {
        use datafusion::arrow::datatypes::DataType;
        use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
        let session = crate::session::session(None, None).unwrap();
        let flag = Arc::new(AtomicBool::new(false));
        // A function that raises the flag so many times, each time until it is seen, and does not yield meanwhile.
        for times in 0..3 {
            let raise = flag.clone();
            let stubborn = move |values: &[ColumnarValue]| {
                for _ in 0..times {
                    raise.store(true, Ordering::SeqCst);
                    while raise.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
                Ok(values[0].clone())
            };
            let (name, kind) = (format!("stubborn_{times}"), DataType::Int64);
            session.register_udf(create_udf(&name, vec![kind.clone()], kind, Volatility::Volatile, Arc::new(stubborn)));
            let query = format!("SELECT {name}(value) FROM generate_series(1, 2)");
            let found = unless_interrupted(&session, &query, &flag);
            match times {
                0 => assert_eq!(found.unwrap().unwrap().1.iter().map(RecordBatch::num_rows).sum::<usize>(), 2),
                1 => assert!(found.unwrap().is_none()),
                _ => assert!(matches!(found, Err(Error::Interrupted(_)))),
            }
        }
    }
}
