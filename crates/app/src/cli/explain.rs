//! `tandem explain SERVICE`.

use super::{Failure, print_json};
use crate::{
    api::{Answer, Ask, ask},
    paths::Paths,
};
use std::process::ExitCode;

/// What to explain.
#[derive(clap::Args)]
pub(super) struct Options {
    /// The service
    service: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(paths: &Paths, options: Options) -> Result<ExitCode, Failure> {
    let Answer::Explain { lines } = ask(&paths.agent_socket(), &Ask::Explain { service: options.service.clone() })?
    else {
        return Err(Failure::new("the agent answered another question"));
    };
    if options.json {
        print_json(&serde_json::json!({ "service": options.service, "because": lines }));
    } else {
        lines.iter().for_each(|line| println!("{line}"));
    }
    Ok(ExitCode::SUCCESS)
}
