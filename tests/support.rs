//! Running the program in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is a folder of the repository").to_path_buf()
}

/// A call of the program, from the repository's root.
pub fn gristmill(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gristmill"));
    command.current_dir(root()).args(arguments).env_remove("GRISTMILL_FAIL");
    command
}

/// Runs a call to its end.
pub fn run(arguments: &[&str]) -> Output {
    gristmill(arguments).output().expect("the program was built with the tests")
}

/// What a call printed, after asserting that it went well.
pub fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?} failed:\n{}", text(&output.stderr));
    text(&output.stdout)
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts an exit code and gives what was said on stderr.
pub fn fails_with(arguments: &[&str], code: i32) -> String {
    let output = run(arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?} said:\n{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// A path as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// Writes a manifest into a folder.
pub fn manifest(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("test.toml");
    std::fs::write(&path, text).expect("a temporary folder can be written");
    path
}
