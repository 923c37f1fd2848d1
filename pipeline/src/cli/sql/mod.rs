//! `gristmill sql`: queries over a run, printed, written to a file, or asked in a shell.

mod render;
mod script;
mod shell;

use super::out;
use crate::error::{Error, Result};
use crate::session::block_on;
use crate::stage::sql::read_only;
use crate::{sink, store, tables};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::prelude::SessionContext;
use render::{Rows, View};
use script::{Item, Script};
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Format {
    Table,
    Csv,
    /// One object per line; a file named `.json` holds an array of them.
    Json,
    /// One object per line, in any file.
    Jsonl,
    Parquet,
}

/// Query the finished stages of a run, read-only; without a query: a shell.
#[derive(clap::Args)]
#[command(
    after_help = "Stage x is table x; its verdicts (one row per input row) are x_verdicts, both joined are x_all; `stages` lists them.
Several queries end with a semicolon each. In the shell or a query: \\d lists tables, \\d TABLE its columns, \\? helps.
In CSV a list or a struct is written as JSON.

Examples:
  gristmill sql runs/quickstart \"SELECT rule, count(*) AS n FROM quality_verdicts GROUP BY rule ORDER BY n DESC\"
  gristmill sql runs/quickstart \"SELECT id, url FROM unique ORDER BY id LIMIT 5\" --format csv
  gristmill sql runs/quickstart \"SELECT id, text FROM unique\" --output unique.jsonl
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
    /// Write the rows to a file instead; its extension (.csv .json .jsonl .parquet) is the format unless --format is given.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Cap on the memory of query operators, e.g. 512MB.
    #[arg(long, value_name = "SIZE", value_parser = super::parse_bytes)]
    memory_limit: Option<u64>,
}

impl Sql {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        super::existing_run(&self.run)?;
        super::tell_unfinished(&self.run)?;
        let format = match (self.format, &self.output) {
            (Some(format), _) => format,
            (None, Some(path)) => format_of(path)?,
            (None, None) if json => Format::Json,
            (None, None) => Format::Table,
        };
        match &self.output {
            Some(path) => writable(path)?,
            None if format == Format::Parquet => {
                return Err(Error::Manifest("error: Parquet needs a place\nhint: add  --output rows.parquet".into()));
            }
            None => {}
        }
        let session = block_on(tables::open(&self.run, self.memory_limit))?;
        if let Some(path) = &self.output {
            return self.write(&session, path, format, json);
        }
        if self.query.is_none() && std::io::stdin().is_terminal() {
            return shell::run(&session, format);
        }
        let mut script = Script::default();
        let mut state = shell::State::new(&session, format);
        let mut ask = |item: Item| match item {
            Item::Query(query) => rows(&session, &query).and_then(|(s, b)| state.print(&s, &b)).map(|()| true),
            Item::Command(command) => state.command(&command),
        };
        let mut take = |items: Vec<Item>| -> Result<bool> {
            for item in items {
                if !ask(item)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        match &self.query {
            Some(query) => {
                for line in query.lines() {
                    if !take(script.line(line))? {
                        return Ok(());
                    }
                }
            }
            None => {
                for line in std::io::stdin().lock().lines() {
                    let line = line.map_err(Error::io("read", "standard input"))?;
                    if !take(script.line(&line))? {
                        return Ok(());
                    }
                }
            }
        }
        take(script.end().into_iter().collect()).map(drop)
    }

    /// The rows of one query into a file, and a word about it.
    fn write(&self, session: &SessionContext, path: &Path, format: Format, json: bool) -> Result<()> {
        let text = match &self.query {
            Some(query) => query.clone(),
            None => std::io::read_to_string(std::io::stdin()).map_err(Error::io("read", "standard input"))?,
        };
        let mut script = Script::default();
        let mut items: Vec<Item> = text.lines().flat_map(|line| script.line(line)).collect();
        items.extend(script.end());
        let [Item::Query(query)] = items.as_slice() else {
            return Err(Error::Manifest(format!(
                "error: --output takes the rows of one query, got {} queries and commands\nhint: write one file per query",
                items.len()
            )));
        };
        let (schema, batches) = rows(session, query)?;
        let bytes = write(path, &schema, &batches, format)?;
        let n: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let name = format!("{format:?}").to_lowercase();
        note!("{n} rows to {} ({name}, {})", path.display(), out::size(bytes));
        if json {
            say!("{}", serde_json::json!({ "output": path, "format": name, "rows": n, "bytes": bytes }));
        }
        Ok(())
    }
}

/// The format a file's name asks for.
fn format_of(path: &Path) -> Result<Format> {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    match extension.as_str() {
        "csv" => Ok(Format::Csv),
        "json" => Ok(Format::Json),
        "jsonl" | "ndjson" => Ok(Format::Jsonl),
        "parquet" => Ok(Format::Parquet),
        _ => Err(Error::Manifest(format!(
            "error: --output {}: no format goes by this extension   (known: .csv, .json, .jsonl, .parquet)\n\
             hint: name the format, as in  --format csv",
            path.display()
        ))),
    }
}

/// An error if a file cannot stand there; before the query, which may take long.
fn writable(path: &Path) -> Result<()> {
    let fault = |text: String| Err(Error::Manifest(format!("error: --output {}: {text}", path.display())));
    let folder = folder(path);
    if !folder.is_dir() {
        return fault(format!(
            "there is no folder {}\nhint: make it first:  mkdir -p {}",
            folder.display(),
            out::quoted(folder)
        ));
    }
    if path.file_name().is_none() || path.is_dir() {
        return fault("it is a folder, expected a file\nhint: add a name, such as rows.csv".into());
    }
    if path.exists() && !path.is_file() {
        return fault("it is no plain file\nhint: leave --output away and send standard output there".into());
    }
    Ok(())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// All rows of a query.
fn rows(session: &SessionContext, query: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    block_on(gather(session, query))
}

async fn gather(session: &SessionContext, query: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let frame = match read_only(session, query).await {
        Ok(frame) => frame,
        Err(e) => return Err(without_documents(session, &e).await.unwrap_or(e)),
    };
    let schema = std::sync::Arc::new(frame.schema().as_arrow().clone());
    Ok((schema, frame.collect().await?))
}

/// What to say in place of the engine's words for a table that has gone with its documents.
async fn without_documents(session: &SessionContext, said: &Error) -> Option<Error> {
    let said = said.to_string();
    let (_, rest) = said.split_once("table 'datafusion.public.")?;
    let (name, _) = rest.split_once("' not found")?;
    let query = format!("SELECT 1 FROM stages WHERE documents = 'dropped' AND name = '{}'", name.replace('\'', "''"));
    let found = session.sql(&query).await.ok()?.count().await.ok()?;
    (found > 0).then(|| Error::Query(crate::dataset::dropped(name)))
}

/// Writes rows under a temporary name and renames; gives the file's bytes. A failure leaves what was there before.
fn write(path: &Path, schema: &SchemaRef, batches: &[RecordBatch], format: Format) -> Result<u64> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = folder(path);
    let written = (|| {
        if format == Format::Parquet {
            let mut file = sink::TableSink::create(folder, &name, schema.clone())?;
            batches.iter().try_for_each(|b| file.write(b))?;
            return file.finish();
        }
        let array = format == Format::Json && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        let mut file = store::durable::DurableFile::create(folder, &name)?;
        let rows = Rows { schema, batches };
        if array { rows.json_array(&mut file) } else { rows.write(format, View::default(), &mut file) }?;
        file.flush().map_err(Error::io("write", path))?;
        file.finish()
    })();
    Ok(written?.bytes)
}
