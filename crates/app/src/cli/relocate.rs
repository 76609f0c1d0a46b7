//! `tandem move SERVICE --to NODE`.

use super::{Failure, print_json};
use crate::{
    api::{Answer, Ask, ask},
    paths::Paths,
};
use std::process::ExitCode;

/// What to move, and where.
#[derive(clap::Args)]
pub(super) struct Options {
    /// The service
    service: String,
    /// The node that shall run it
    #[arg(long, value_name = "NODE")]
    to: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(paths: &Paths, options: Options) -> Result<ExitCode, Failure> {
    let Answer::Done { what } = ask(&paths.agent_socket(), &Ask::Move { service: options.service, to: options.to })?
    else {
        return Err(Failure::new("the agent answered another question"));
    };
    if options.json {
        print_json(&serde_json::json!({ "done": what }));
    } else {
        println!("{what}");
    }
    Ok(ExitCode::SUCCESS)
}
