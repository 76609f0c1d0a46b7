//! `tandem`: one program that keeps services alive across two sites.

mod agent;
mod api;
mod cli;
mod ledger;
mod paths;
mod plan_files;
mod topology;
mod utc;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The lab enters namespaces, which a process can do only while it has one thread.
    tandem_lab::run_hidden().unwrap_or_else(cli::run)
}
