//! Why a service process could not be started, adopted or stopped.

use std::{ffi::OsString, io, path::PathBuf};

use crate::user::UserError;

/// Why a process could not be started, adopted or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// Nothing to run.
    #[error("service `{0}` has an empty command")]
    NoCommand(String),
    /// A process of this name lives already.
    #[error("service `{name}` runs already, as process {pid}")]
    Running {
        /// The service.
        name: String,
        /// Its first process.
        pid: u32,
    },
    /// The user or group is not there.
    #[error("service `{name}` cannot change its user")]
    User {
        /// The service.
        name: String,
        /// Why.
        #[source]
        cause: UserError,
    },
    /// The program could not be executed.
    #[error("service `{name}`: cannot start {program:?}")]
    Start {
        /// The service.
        name: String,
        /// The program.
        program: OsString,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// A file of the service could not be read or written.
    #[error("service `{name}`: cannot {what} {path}")]
    File {
        /// The service.
        name: String,
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// The process could not be followed or signalled.
    #[error("service `{name}`: cannot {what}")]
    System {
        /// The service.
        name: String,
        /// The operation.
        what: &'static str,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// Processes survived SIGKILL, which a process does in an uninterruptible sleep only. The node must be fenced.
    #[error("service `{name}`: processes {pids:?} do not die")]
    Unkillable {
        /// The service.
        name: String,
        /// Those that are left; empty if only the cgroup knows.
        pids: Vec<u32>,
    },
}

impl ProcessError {
    /// One thing the operator can try, printed as `hint:`.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Start { cause, .. } if cause.kind() == io::ErrorKind::NotFound => {
                Some("is the package installed on this node, and the path the same on every node?")
            }
            Self::Start { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied => {
                Some("changing the user needs root; is the program executable for that user?")
            }
            Self::Unkillable { .. } => Some("a device or network file system that a process waits for does not answer"),
            _ => None,
        }
    }
}
