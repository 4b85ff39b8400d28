//! The `run` program.

fn main() {
    std::process::exit(run::cli::main(std::env::args_os()));
}
