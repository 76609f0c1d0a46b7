//! `tandem plan`.

use super::{Failure, print_json};
use crate::plan_files;
use std::{path::PathBuf, process::ExitCode};

/// What to do with a plan.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Check a plan; everything that is wrong is reported at once
    Check {
        /// The plan's file, or its directory
        #[arg(default_value = "/etc/tandem")]
        plan: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the plan with every default made visible
    Show {
        /// The plan's file, or its directory
        #[arg(default_value = "/etc/tandem")]
        plan: PathBuf,
        /// Print JSON instead of TOML
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of plans, for editors
    Schema,
}

pub(super) fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Check { plan, json: true } => {
            let (files, _) = plan_files::read(&plan)?;
            let (valid, found) = match tandem_plan::parse(&files) {
                Ok((_, warnings)) => (true, warnings),
                Err(wrong) => (false, wrong),
            };
            let found = tandem_plan::to_json(&files, &found);
            print_json(&serde_json::json!({ "valid": valid, "diagnostics": found }));
            Ok(if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Check { plan, json: false } => {
            let loaded = plan_files::load(&plan)?;
            let plan = loaded.plan;
            let count = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
            println!(
                "plan {}: {}, {}, {}, {}: no error found",
                plan.name,
                count(plan.sites.len(), "site", "sites"),
                count(plan.nodes.len(), "node", "nodes"),
                count(plan.volumes.len(), "volume", "volumes"),
                count(plan.services.len(), "service", "services"),
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { plan, json } => {
            let loaded = plan_files::load(&plan)?;
            if json {
                print_json(&loaded.plan);
            } else {
                print!("{}", loaded.plan.show());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Schema => {
            print_json(&tandem_plan::schema());
            Ok(ExitCode::SUCCESS)
        }
    }
}
