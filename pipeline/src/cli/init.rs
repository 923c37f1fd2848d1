//! `gristmill init`

use super::out;
use crate::error::{Error, Result};
use std::io::Write;
use std::path::PathBuf;

/// Write a first manifest to start from.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gristmill init crawl.toml --source 'crawl/*.warc.gz'")]
pub struct Init {
    /// The file to write; it must not exist.
    path: PathBuf,
    /// Files to read, relative to the manifest.
    #[arg(long, default_value = "crawl/*.warc.gz")]
    source: String,
}

impl Init {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        let shown = self.path.display();
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        if let Some(parent) = parent.filter(|p| !p.is_dir()) {
            return Err(Error::Manifest(format!(
                "error: there is no folder {} to write {shown} in\nhint: make it first:  mkdir -p {}",
                parent.display(),
                out::quoted(parent)
            )));
        }
        let name = run_name(&self.path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default());
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&self.path).map_err(|e| {
            if e.kind() != std::io::ErrorKind::AlreadyExists {
                return Error::io("create", &self.path)(e);
            }
            Error::Manifest(format!(
                "error: {shown} is there already and is left as it is\nhint: choose another name, or look at it with  gristmill check {}",
                out::quoted(&self.path)
            ))
        })?;
        file.write_all(manifest(&name, &self.source).as_bytes()).map_err(Error::io("write", &self.path))?;
        note!("wrote {shown}; check it with  gristmill check {}", out::quoted(&self.path));
        if json {
            say!("{}", serde_json::json!({ "manifest": self.path, "name": name, "source": self.source }));
        }
        Ok(())
    }
}

/// The manifest's text.
fn manifest(name: &str, source: &str) -> String {
    // JSON writes strings as TOML's basic strings are read.
    let source = serde_json::Value::from(source);
    format!(
        "# Next: `gristmill check` and `plan` this file, then `gristmill run` it. Every kind and option is told by\n\
         # `gristmill schema --markdown`.\n\
         name = \"{name}\"\nseed = 17\n\n[stage]\n\
         crawl   = {{ kind = \"ingest\", source = {source} }}\n\
         text    = {{ kind = \"extract\", input = \"crawl\" }}\n\
         lang    = {{ kind = \"language\", input = \"text\", keep = [\"en\"], min_score = 0.65 }}\n\
         # This recipe suits prose. For documentation it drops too much: see manifests/quickstart.toml for another.\n\
         # Which rule dropped what, with samples: `gristmill report runs/{name}`; other thresholds without a new run:\n\
         # `gristmill explain runs/{name} --rule RULE --threshold NUMBER`.\n\
         quality = {{ kind = \"filter\", input = \"lang\", recipe = \"fineweb\" }}\n\
         unique  = {{ kind = \"dedup\", input = \"quality\" }}\n\
         # `gristmill sql runs/{name}` shows any stage as a table.\n\
         bpe     = {{ kind = \"tokenizer\", input = \"unique\", vocab_size = 4096 }}\n\
         shards  = {{ kind = \"tokenize\", input = \"unique\", tokenizer = \"bpe\" }}\n\
         base    = {{ kind = \"pretrain\", input = \"shards\", depth = 3, budget_tokens = 1_000_000 }}\n"
    )
}

/// A name that a manifest may have, from a file's: a letter first, then letters, digits, `_` and `-`, at most 64.
fn run_name(stem: &str) -> String {
    let mut name = String::new();
    for c in stem.chars() {
        let c = if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        if c != '_' || !name.ends_with('_') {
            name.push(c);
        }
    }
    let name = name.trim_matches(['_', '-']);
    let name =
        if name.starts_with(|c: char| c.is_ascii_alphabetic()) { name.to_string() } else { format!("run-{name}") };
    name.chars().take(64).collect::<String>().trim_end_matches('-').to_string()
}

#[cfg(test)]
mod tests {
    use super::run_name;

    #[test]
    fn any_file_name_gives_a_name_that_check_takes() {
        for (stem, name) in [
            ("crawl", "crawl"),
            ("Ünï code 1", "n_code_1"),
            ("2024-05", "run-2024-05"),
            ("文", "run"),
            ("", "run"),
            ("a b.c", "a_b_c"),
        ] {
            assert_eq!(run_name(stem), name, "{stem}");
        }
        assert_eq!(run_name(&"x".repeat(99)).len(), 64);
    }
}
