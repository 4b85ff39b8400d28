//! The `copy` program: see [`copy::cli`].

fn main() -> std::process::ExitCode {
    copy::cli::main(std::env::args_os().collect())
}
