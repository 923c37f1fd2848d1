//! `gristmill init`

use crate::error::{Error, Result};
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
    pub(super) fn run(&self) -> Result<()> {
        use std::io::Write;
        let name = self.path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let text = format!(
            "name = \"{name}\"\nseed = 17\n\n[stage]\n\
             crawl   = {{ kind = \"ingest\", source = {:?} }}\n\
             text    = {{ kind = \"extract\", input = \"crawl\" }}\n\
             lang    = {{ kind = \"language\", input = \"text\", keep = [\"en\"], min_score = 0.65 }}\n\
             quality = {{ kind = \"filter\", input = \"lang\", recipe = \"fineweb\" }}\n\
             unique  = {{ kind = \"dedup\", input = \"quality\" }}\n\
             bpe     = {{ kind = \"tokenizer\", input = \"unique\", vocab_size = 4096 }}\n\
             shards  = {{ kind = \"tokenize\", input = \"unique\", tokenizer = \"bpe\" }}\n\
             base    = {{ kind = \"pretrain\", input = \"shards\", depth = 3, budget_tokens = 1_000_000 }}\n",
            self.source
        );
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&self.path)
            .map_err(Error::io("create", &self.path))?;
        file.write_all(text.as_bytes()).map_err(Error::io("write", &self.path))?;
        eprintln!("wrote {}; check it with  gristmill check {}", self.path.display(), self.path.display());
        Ok(())
    }
}
