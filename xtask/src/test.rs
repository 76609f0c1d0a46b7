//! `cargo xtask test`: everything that must hold before a change lands.

use crate::{packages, step::Tally};
use clap::Args;
use std::process::{Command, ExitCode};

/// How much to run.
#[derive(Args)]
pub(crate) struct Options {
    /// Seeds for the simulator.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// Leave out the rehearsals in the lab.
    #[arg(long)]
    no_lab: bool,
}

/// Deliberate mistakes that the simulator must notice within its first 400 histories.
const MUTATIONS: [&str; 14] = [
    "ack_before_shrink_commit",
    "retry_failed_sync",
    "lease_checked_before_io",
    "skip_takeover_barrier",
    "same_epoch_after_restart",
    "count_flush_from_old_open",
    "grow_before_joiner_flush",
    "stop_waiting_on_unknown_grow",
    "thaw_by_role",
    "read_uncommitted",
    "ignore_overlap_order",
    "trust-swapped-disk",
    "keep-member-with-new-open",
    "new-leader-does-not-wait",
];

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
    for mutation in MUTATIONS {
        let search = ["xtask", "sim", "--mutation", mutation, "--seeds", "400"];
        tally.check(&format!("simulator notices {mutation}"), &mut cargo(&search));
    }
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
