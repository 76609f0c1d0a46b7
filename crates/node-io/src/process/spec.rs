//! What a service process is started with, and how it ends.

use rustix::process::Signal;
use std::{ffi::OsString, os::unix::process::ExitStatusExt, path::PathBuf, process::ExitStatus};

/// What to start.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// Names its record, its cgroup and its lines in the journal: one live process for each name.
    pub name: String,
    /// The program, looked up in `PATH`, and its arguments.
    pub argv: Vec<OsString>,
    /// Added to the agent's own environment.
    pub env: Vec<(OsString, OsString)>,
    /// Whom it runs as, if not as the agent.
    pub user: Option<String>,
    /// Its primary group, if not the user's; needs `user`.
    pub group: Option<String>,
    /// Where it starts; the agent's own directory otherwise.
    pub directory: Option<PathBuf>,
    /// Where its standard outputs go.
    pub log: PathBuf,
    /// The most bytes that file has; as many again are kept in `<log>.1`.
    pub log_max: u64,
    /// Standard output apart from the log, in a file that is emptied first.
    pub stdout: Option<PathBuf>,
    /// What asks it to stop; `Signal::TERM` unless the program is particular (PostgreSQL: `Signal::INT`).
    pub stop_signal: Signal,
}

impl ProcessSpec {
    /// A process with defaults for everything else.
    #[must_use]
    pub fn new(name: impl Into<String>, argv: Vec<OsString>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            argv,
            env: Vec::new(),
            user: None,
            group: None,
            directory: None,
            log: log.into(),
            log_max: 4 << 20,
            stdout: None,
            stop_signal: Signal::TERM,
        }
    }
}

/// How the first process of a service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It ended, and was not our child: an earlier agent started it.
    Unknown,
}

impl Exit {
    /// Whether it returned 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("an unknown end"),
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It had ended before.
    Already,
    /// It ended when it was asked to.
    Asked,
    /// It did not in time, and was killed.
    Killed,
}
