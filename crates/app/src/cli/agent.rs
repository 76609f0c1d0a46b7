//! `tandem agent`.

use super::Failure;
use crate::{agent, paths::Paths};
use std::process::ExitCode;

/// How to run.
#[derive(clap::Args)]
pub(super) struct Options {
    /// This node is part of a lab: its disks may be made to fail
    #[arg(long, hide = true)]
    lab: bool,
}

pub(super) fn run(paths: Paths, options: Options) -> Result<ExitCode, Failure> {
    super::log_to_stderr();
    super::runtime()?.block_on(agent::run(paths, options.lab))?;
    Ok(ExitCode::SUCCESS)
}
