//! `tandem volume`.

use super::{Failure, print_json};
use crate::{
    api::{Answer, Ask, ask},
    paths::Paths,
};
use std::process::ExitCode;

/// What to do with volumes.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Show this node's replicas
    Status {
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Let this node's disk under a group fail, for rehearsals
    #[command(hide = true)]
    InjectDiskFault {
        /// The group
        group: String,
        /// The error number: 5 is EIO, 28 is ENOSPC
        #[arg(long, default_value_t = 5)]
        errno: i32,
    },
}

pub(super) fn run(paths: &Paths, command: Command) -> Result<ExitCode, Failure> {
    let socket = paths.agent_socket();
    match command {
        Command::Status { json } => {
            let Answer::Volumes { volumes } = ask(&socket, &Ask::Volumes)? else {
                return Err(Failure::new("the agent answered another question"));
            };
            if json {
                print_json(&volumes);
                return Ok(ExitCode::SUCCESS);
            }
            for volume in volumes {
                println!("{}   nbd {}", volume.group, volume.nbd);
                match (volume.refused, volume.replica) {
                    (Some(why), _) => println!("  does not run: {why}"),
                    (None, None) => println!("  the volume server does not answer"),
                    (None, Some(serde_json::Value::Object(fields))) => {
                        for (name, value) in fields {
                            println!("  {name}: {}", plain(&value));
                        }
                    }
                    (None, Some(other)) => println!("  {}", plain(&other)),
                }
            }
        }
        Command::InjectDiskFault { group, errno } => {
            ask(&socket, &Ask::InjectDiskFault { group, errno })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A value without the punctuation of JSON.
fn plain(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => fields.iter().map(|(k, v)| format!("{k} {}", plain(v))).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
