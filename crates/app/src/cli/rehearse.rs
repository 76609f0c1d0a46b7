//! `tandem rehearse PLAN`.

use super::{Failure, print_json};
use crate::plan_files;
use std::{path::PathBuf, process::ExitCode};
use tandem_lab::rehearsal::{self, Scenario};

/// What to rehearse.
#[derive(clap::Args)]
pub(super) struct Options {
    /// The plan's file, or its directory
    plan: PathBuf,
    /// Only this scenario; may be given again
    #[arg(long, value_name = "NAME")]
    scenario: Vec<Scenario>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: Options) -> Result<ExitCode, Failure> {
    let loaded = plan_files::load(&options.plan)?;
    let scenarios = if options.scenario.is_empty() { Scenario::ALL.to_vec() } else { options.scenario };
    let report = rehearsal::rehearse(&loaded.plan, &loaded.dir, &scenarios, &std::env::current_exe()?)?;
    if options.json {
        print_json(&report);
    } else {
        print!("{report}");
    }
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
