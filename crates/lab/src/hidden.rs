//! The hidden commands by which the lab starts the binary again.

use std::{ffi::OsString, path::Path, process::ExitCode};

use crate::{LabError, enter, node, rehearsal::observe, supervisor};

/// Runs a hidden command of the lab if the arguments ask for one, and says how to exit.
///
/// Call it first thing in `main`: the process must have one thread, as it enters namespaces. Returns `None` for every
/// other command line. The commands: `lab-supervise DIRECTORY`, `lab-node DIRECTORY HOST`,
/// `lab-enter DIRECTORY HOST PROGRAM...`, `lab-observe KIND ADDRESS MAC`.
#[must_use]
pub fn run_hidden() -> Option<ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let result = match arguments.iter().map(|text| text.to_str()).next()?? {
        "lab-supervise" if arguments.len() == 2 => {
            supervisor::run(Path::new(&arguments[1])).map(|()| ExitCode::SUCCESS)
        }
        "lab-node" if arguments.len() == 3 => {
            node::run(Path::new(&arguments[1]), &arguments[2].to_string_lossy()).map(|()| ExitCode::SUCCESS)
        }
        "lab-enter" if arguments.len() >= 4 => enter::run(Path::new(&arguments[1]), &arguments[2], &arguments[3..]),
        "lab-observe" if arguments.len() == 4 => {
            let words: Vec<String> = arguments[1..].iter().map(|word| word.to_string_lossy().into_owned()).collect();
            observe::run(&words[0], &words[1], &words[2]).map(|()| ExitCode::SUCCESS)
        }
        _ => return None,
    };
    Some(result.unwrap_or_else(|error| {
        eprintln!("lab: {}", with_causes(&error));
        ExitCode::FAILURE
    }))
}

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &LabError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}
