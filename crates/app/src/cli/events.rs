//! `tandem events`.

use super::{Failure, print_json};
use crate::{
    api::{Answer, Ask, ask},
    paths::Paths,
    utc::Utc,
};
use std::process::ExitCode;

/// Which events.
#[derive(clap::Args)]
pub(super) struct Options {
    /// Only those of this service
    #[arg(long)]
    service: Option<String>,
    /// Only those from this instant on: UTC, milliseconds since 1970
    #[arg(long, value_name = "MS")]
    since_ms: Option<u64>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

pub(super) fn run(paths: &Paths, options: Options) -> Result<ExitCode, Failure> {
    let question = Ask::Events { service: options.service, since_ms: options.since_ms };
    let Answer::Events { events } = ask(&paths.agent_socket(), &question)? else {
        return Err(Failure::new("the agent answered another question"));
    };
    if options.json {
        print_json(&events);
    } else {
        for event in events {
            println!("{}  {:<8}  {}: {}", Utc(event.at_ms), event.node, event.what, event.why);
        }
    }
    Ok(ExitCode::SUCCESS)
}
