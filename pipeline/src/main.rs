//! The program `gristmill`: reads the command line, runs one command, exits with its code.

fn main() {
    std::process::exit(pipeline::cli::main());
}
