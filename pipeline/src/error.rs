//! The one error type of the pipeline and the exit code each case ends in (DESIGN §7).

use std::path::{Path, PathBuf};

/// What can stop a command. A bad row is never here: it is data, counted and kept aside.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest or the arguments are wrong; every fault is listed, nothing was started.
    #[error("{0}")]
    Manifest(String),
    /// Input data is bad beyond what the manifest allows.
    #[error("{0}")]
    InputData(String),
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, as an infinitive ("write", "rename").
        action: &'static str,
        /// The file or folder concerned.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Memory or disk is short.
    #[error("{0}")]
    Resources(String),
    /// The run was asked to stop, or another process holds it; running again goes on.
    #[error("{0}")]
    Interrupted(String),
    /// Bytes on disk are not those that were committed.
    #[error("{0}")]
    Integrity(String),
    /// A query or a relational stage failed.
    #[error("{0}")]
    Query(String),
    /// A model or tokenizer stage failed.
    #[error("{0}")]
    Model(String),
    /// A process that trains with this one is lost or silent; running again goes on.
    #[error("{0}")]
    Peer(String),
}

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Wraps an I/O error with what was tried and where. A full disk becomes [`Error::Resources`].
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| {
            use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
            if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
                Error::Resources(format!(
                    "no space left to {action} {}\nhint: free some space and run the same command again; \
                     finished fragments are kept",
                    path.display()
                ))
            } else {
                Error::Io { action, path, source }
            }
        }
    }

    /// The process exit code: 1 failed, 2 manifest or arguments, 3 input data, 4 resources, 5 interrupted, 6 integrity,
    /// 7 lost peer.
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Manifest(_) => 2,
            Error::InputData(_) => 3,
            Error::Resources(_) => 4,
            Error::Interrupted(_) => 5,
            Error::Integrity(_) => 6,
            Error::Peer(_) => 7,
            Error::Io { .. } | Error::Query(_) | Error::Model(_) => 1,
        }
    }

    /// The case that ends in this exit code, with its text: an error that was said in another process.
    pub fn of_code(code: i32, message: String) -> Self {
        match code {
            2 => Error::Manifest(message),
            3 => Error::InputData(message),
            4 => Error::Resources(message),
            5 => Error::Interrupted(message),
            6 => Error::Integrity(message),
            7 => Error::Peer(message),
            _ => Error::Query(message),
        }
    }
}

impl From<datafusion::error::DataFusionError> for Error {
    fn from(e: datafusion::error::DataFusionError) -> Self {
        use datafusion::error::DataFusionError as D;
        match e.find_root() {
            D::ResourcesExhausted(m) => Error::Resources(format!(
                "memory limit reached: {m}\nhint: give more with --memory-limit, or fewer --threads"
            )),
            _ => Error::Query(e.strip_backtrace()),
        }
    }
}

impl From<datafusion::arrow::error::ArrowError> for Error {
    fn from(e: datafusion::arrow::error::ArrowError) -> Self {
        Error::Query(e.to_string())
    }
}

impl From<datafusion::parquet::errors::ParquetError> for Error {
    fn from(e: datafusion::parquet::errors::ParquetError) -> Self {
        Error::Integrity(format!("cannot read or write Parquet: {e}"))
    }
}
