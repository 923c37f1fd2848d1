//! `gristmill sql`: one query, or a shell with history and completion.

use crate::error::{Error, Result};
use crate::session::block_on;
use crate::stage::sql::read_only;
use crate::{sink, tables};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::SessionContext;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
    Parquet,
}

/// Query the finished stages of a run, read-only; without a query: a shell.
#[derive(clap::Args)]
#[command(
    after_help = "Stage x is table x; its verdicts (one row per input row) are x_verdicts, both joined are x_all; `stages` lists them.
In the shell: \\d lists tables, \\d TABLE its columns, \\q ends.

Examples:
  gristmill sql runs/quickstart \"SELECT rule, count(*) AS n FROM quality_verdicts GROUP BY rule ORDER BY n DESC\"
  gristmill sql runs/quickstart \"SELECT id, url FROM unique ORDER BY id LIMIT 5\" --format csv
  gristmill sql runs/quickstart"
)]
pub struct Sql {
    /// Folder of the run.
    run: PathBuf,
    /// The query; none: a shell, or queries from standard input.
    query: Option<String>,
    /// How to print rows.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write the rows to a file instead; Parquet unless --format says otherwise.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Cap on the memory of query operators, e.g. 512MB.
    #[arg(long, value_name = "SIZE", value_parser = super::parse_bytes)]
    memory_limit: Option<u64>,
}

impl Sql {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        super::existing_run(&self.run)?;
        let default = match (json, &self.output) {
            (true, _) => Format::Json,
            (_, Some(_)) => Format::Parquet,
            _ => Format::Table,
        };
        let format = self.format.unwrap_or(default);
        let session = block_on(tables::open(&self.run, self.memory_limit))?;
        match &self.query {
            Some(query) => self.one(&session, query, format),
            None if std::io::stdin().is_terminal() => shell::run(&session, format),
            None => {
                let text = std::io::read_to_string(std::io::stdin()).map_err(Error::io("read", "standard input"))?;
                text.split(';').filter(|q| !q.trim().is_empty()).try_for_each(|q| self.one(&session, q, format))
            }
        }
    }

    fn one(&self, session: &SessionContext, query: &str, format: Format) -> Result<()> {
        let (schema, batches) = rows(session, query)?;
        match &self.output {
            None => print(&schema, &batches, format),
            Some(path) => write(path, &schema, &batches, format),
        }
    }
}

/// All rows of a query.
fn rows(session: &SessionContext, query: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    block_on(async {
        let frame = read_only(session, query).await?;
        let schema = std::sync::Arc::new(frame.schema().as_arrow().clone());
        Ok((schema, frame.collect().await?))
    })
}

fn write(path: &std::path::Path, schema: &SchemaRef, batches: &[RecordBatch], format: Format) -> Result<()> {
    let (folder, name) =
        (path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(std::path::Path::new(".")), path.file_name());
    let name =
        name.ok_or_else(|| Error::Manifest(format!("error: {} is no file name", path.display())))?.to_string_lossy();
    if format == Format::Parquet {
        let mut file = sink::TableSink::create(folder, &name, schema.clone())?;
        batches.iter().try_for_each(|b| file.write(b))?;
        return file.finish().map(drop);
    }
    let mut bytes = Vec::new();
    render(schema, batches, format, &mut bytes)?;
    crate::store::durable::write_file(folder, &name, &bytes).map(drop)
}

fn print(schema: &SchemaRef, batches: &[RecordBatch], format: Format) -> Result<()> {
    if format == Format::Parquet {
        return Err(Error::Manifest("error: Parquet needs a place\nhint: add  --output rows.parquet".into()));
    }
    let mut out = std::io::stdout().lock();
    render(schema, batches, format, &mut out)
}

fn render(schema: &SchemaRef, batches: &[RecordBatch], format: Format, out: &mut dyn Write) -> Result<()> {
    let io = Error::io("write", "the rows");
    let result = match format {
        Format::Table | Format::Parquet => {
            let empty = [RecordBatch::new_empty(schema.clone())];
            writeln!(out, "{}", pretty_format_batches(if batches.is_empty() { &empty } else { batches })?)
        }
        Format::Csv => csv(schema, batches, out)?,
        Format::Json => json_rows(schema, batches, out)?,
    };
    result.map_err(io)
}

fn csv(schema: &SchemaRef, batches: &[RecordBatch], out: &mut dyn Write) -> Result<std::io::Result<()>> {
    let quoted = |s: &str| {
        if s.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", s.replace('"', "\"\"")) } else { s.to_string() }
    };
    let header: Vec<String> = schema.fields().iter().map(|f| quoted(f.name())).collect();
    if let Err(e) = writeln!(out, "{}", header.join(",")) {
        return Ok(Err(e));
    }
    let options = FormatOptions::default();
    for batch in batches {
        let columns: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|c| ArrayFormatter::try_new(c.as_ref(), &options))
            .collect::<std::result::Result<_, _>>()?;
        for row in 0..batch.num_rows() {
            let cells: Vec<String> = columns.iter().map(|c| quoted(&c.value(row).to_string())).collect();
            if let Err(e) = writeln!(out, "{}", cells.join(",")) {
                return Ok(Err(e));
            }
        }
    }
    Ok(Ok(()))
}

fn json_rows(schema: &SchemaRef, batches: &[RecordBatch], out: &mut dyn Write) -> Result<std::io::Result<()>> {
    for batch in batches {
        for row in 0..batch.num_rows() {
            let object: serde_json::Map<String, serde_json::Value> = schema
                .fields()
                .iter()
                .zip(batch.columns())
                .map(|(f, c)| (f.name().clone(), crate::report::value(c, row)))
                .collect();
            if let Err(e) = writeln!(out, "{}", serde_json::Value::Object(object)) {
                return Ok(Err(e));
            }
        }
    }
    Ok(Ok(()))
}

mod shell {
    //! The interactive shell.

    use super::{Format, Result, SessionContext};
    use crate::error::Error;
    use rustyline::completion::Completer;
    use rustyline::error::ReadlineError;
    use rustyline::{Context, Editor, Helper, Highlighter, Hinter, Validator};
    use std::time::Instant;

    /// Completes table and column names and the words of SQL.
    #[derive(Helper, Highlighter, Hinter, Validator)]
    struct Names {
        words: Vec<String>,
    }

    impl Completer for Names {
        type Candidate = String;

        fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
            let start =
                line[..position].rfind(|c: char| !(c.is_alphanumeric() || c == '_' || c == '\\')).map_or(0, |i| i + 1);
            let typed = line[start..position].to_lowercase();
            let fits = self.words.iter().filter(|w| !typed.is_empty() && w.to_lowercase().starts_with(&typed));
            Ok((start, fits.cloned().collect()))
        }
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

    pub(in crate::cli) fn run(session: &SessionContext, format: Format) -> Result<()> {
        let tables = tables(session);
        let mut words: Vec<String> =
            SQL.iter().map(|s| s.to_string()).chain(["\\d".to_string(), "\\q".to_string()]).collect();
        words.extend(tables.iter().cloned());
        for table in &tables {
            words.extend(columns(session, table).unwrap_or_default().into_iter().map(|(name, _)| name));
        }
        words.sort();
        words.dedup();
        let failed = |e: ReadlineError| Error::Query(format!("the shell cannot read the terminal: {e}"));
        let mut editor: Editor<Names, rustyline::history::FileHistory> = Editor::new().map_err(failed)?;
        editor.set_helper(Some(Names { words }));
        let history = std::env::var_os("HOME").map(|h| std::path::Path::new(&h).join(".gristmill_history"));
        if let Some(path) = &history {
            let _ = editor.load_history(path);
        }
        eprintln!("{} tables; \\d lists them, \\q ends. A query ends with a semicolon.", tables.len());
        let mut query = String::new();
        loop {
            match editor.readline(if query.is_empty() { "sql> " } else { "...> " }) {
                Ok(line) if query.is_empty() && line.trim() == "\\q" => break,
                Ok(line) if query.is_empty() && line.trim().starts_with('\\') => {
                    describe(session, &tables, line.trim())
                }
                Ok(line) => {
                    query.push_str(&line);
                    query.push('\n');
                    if line.trim_end().ends_with(';') {
                        let text = std::mem::take(&mut query);
                        let _ = editor.add_history_entry(text.trim());
                        ask(session, text.trim().trim_end_matches(';'), format);
                    }
                }
                Err(ReadlineError::Interrupted) => query.clear(),
                Err(ReadlineError::Eof) => break,
                Err(e) => return Err(failed(e)),
            }
        }
        if let Some(path) = &history {
            let _ = editor.save_history(path);
        }
        Ok(())
    }

    fn ask(session: &SessionContext, query: &str, format: Format) {
        if query.trim().is_empty() {
            return;
        }
        let started = Instant::now();
        match super::rows(session, query).and_then(|(schema, batches)| {
            let n: usize = batches.iter().map(|b| b.num_rows()).sum();
            super::print(&schema, &batches, format).map(|()| n)
        }) {
            Ok(n) => eprintln!("{n} rows in {:.3} s", started.elapsed().as_secs_f64()),
            Err(e) => eprintln!("error: {e}"),
        }
    }

    fn describe(session: &SessionContext, tables: &[String], line: &str) {
        match line.strip_prefix("\\d").map(str::trim) {
            Some("") => tables.iter().for_each(|t| println!("{t}")),
            Some(table) => match columns(session, table) {
                Some(columns) => columns.iter().for_each(|(name, kind)| println!("{name:28} {kind}")),
                None => {
                    let near = crate::manifest::nearest(table, tables)
                        .map(|n| format!("; did you mean {n}?"))
                        .unwrap_or_default();
                    eprintln!("no table {table}{near}");
                }
            },
            None => eprintln!("unknown command {line}: use \\d, \\d TABLE or \\q"),
        }
    }

    fn tables(session: &SessionContext) -> Vec<String> {
        let schema = session.catalog("datafusion").and_then(|c| c.schema("public"));
        let mut names = schema.map(|s| s.table_names()).unwrap_or_default();
        names.sort();
        names
    }

    fn columns(session: &SessionContext, table: &str) -> Option<Vec<(String, String)>> {
        let frame = crate::session::block_on(session.table(datafusion::common::TableReference::bare(table))).ok()?;
        Some(frame.schema().fields().iter().map(|f| (f.name().clone(), f.data_type().to_string())).collect())
    }
}
