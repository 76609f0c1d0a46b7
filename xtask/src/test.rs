//! `cargo xtask test`: everything that must hold before a change lands.

use crate::{packages, step::Tally};
use clap::Args;
use std::process::{Command, ExitCode};

/// How much to run.
#[derive(Args)]
pub(crate) struct Options {
    /// Seeds for the simulator.
    #[arg(long, default_value_t = 20_000)]
    seeds: u64,
    /// Leave out the rehearsals in the lab.
    #[arg(long)]
    no_lab: bool,
}

/// Runs it all, and says at the end how many passed and failed.
pub(crate) fn run(options: &Options) -> ExitCode {
    if let Err(why) = packages::ensure(packages::TEST) {
        eprintln!("{why}");
        return ExitCode::FAILURE;
    }
    let mut tally = Tally::default();
    tally.check("format", &mut cargo(&["fmt", "--all", "--check"]));
    tally.check("clippy", &mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]));
    // The binary by itself, before the workspace's tests unite the features of all crates: the lab's tests run this one.
    tally.check("build", &mut cargo(&["build", "--quiet", "--package", "tandem"]));
    tally.tests("unit, property, golden and lab tests", &mut cargo(&["test", "--workspace", "--no-fail-fast"]));
    let seeds = options.seeds.to_string();
    tally.check("simulator", &mut cargo(&["xtask", "sim", "--seeds", &seeds, "--from", "0"]));
    // Each deliberate mistake must be noticed within its first histories; each counts as one test.
    let mistakes = ["xtask", "sim", "--mutation", "all", "--seeds", "800"];
    tally.tests("simulator notices deliberate mistakes", &mut cargo(&mistakes));
    if !options.no_lab {
        // The release build is what a newcomer runs; both examples are played on it.
        let rehearse = ["run", "--quiet", "--release", "--package", "tandem", "--", "rehearse"];
        for example in ["duo", "postgres"] {
            let plan = format!("examples/{example}");
            tally.check(&format!("rehearsal: {example}"), cargo(&rehearse).arg(plan));
        }
    }
    tally.close();
    if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}
