//! `cargo xtask bench`: ratios against real peers, both sides measured in one run.

mod fio;
mod volume;

use std::process::ExitCode;

/// What to measure.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// The synchronous write path over NBD against nbdkit's file plugin.
    Volume(volume::Options),
}

/// Measures, prints, and fails only when something could not be measured: a figure is never a test.
pub(crate) fn run(command: Command) -> ExitCode {
    let Command::Volume(options) = command;
    match volume::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// One comparison.
#[derive(serde::Serialize)]
struct Row {
    job: String,
    peer: &'static str,
    metric: &'static str,
    tandem: f64,
    other: f64,
    ratio: f64,
}

/// The middle of `values`; of an even number, the lower of the two middle ones.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}
