//! The project's own chores: `cargo xtask test`, `cargo xtask sim`, `cargo xtask bench`.

mod bench;
mod packages;
mod step;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Chores of the Tandem repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the tests need, then run every check and test; ends with `N passed, N failed`.
    Test(test::Options),
    /// Play seeded histories of the pure cores: `--seeds N --from S --mutation NAME|all --trace`.
    #[command(disable_help_flag = true)]
    Sim {
        /// Handed to the simulator as they are.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure against a peer, and print the ratios of one run.
    #[command(subcommand)]
    Bench(bench::Command),
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Test(options) => test::run(&options),
        Command::Sim { args } => tandem_sim::cli(&args),
        Command::Bench(command) => bench::run(command),
    }
}
