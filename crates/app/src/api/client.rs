//! The command line's side of the agent's socket.

use super::{Answer, Ask};
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

/// Why the agent could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AgentError {
    #[error("no agent answers on {path}")]
    Absent {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("the agent on {path} closed the connection without an answer")]
    Silent {
        path: PathBuf,
        #[source]
        cause: Option<std::io::Error>,
    },
    #[error("the agent on {path} answered something this version does not know")]
    Unknown {
        path: PathBuf,
        #[source]
        cause: serde_json::Error,
    },
    #[error("{why}")]
    Refused { why: String, hint: Option<String> },
}

impl AgentError {
    /// One thing to try.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Absent { cause, .. } if cause.kind() == std::io::ErrorKind::PermissionDenied => {
                Some(format!("only root may ask it: {}", crate::cli::hints::AS_ROOT))
            }
            Self::Absent { .. } => Some("start it with `tandem agent`, or `systemctl start tandem`".into()),
            Self::Silent { .. } => Some("`journalctl -u tandem` may say why".into()),
            Self::Unknown { .. } => {
                Some("the agent and this command are of different versions; restart the agent".into())
            }
            Self::Refused { hint, .. } => hint.clone(),
        }
    }
}

/// How long an answer may take: a move waits for the log, nothing else for long.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Asks the agent on `socket`, and turns a refusal into an error.
///
/// # Errors
///
/// [`AgentError`]; only [`AgentError::Refused`] comes from the agent itself.
pub(crate) fn ask(socket: &Path, ask: &Ask) -> Result<Answer, AgentError> {
    let path = || socket.to_path_buf();
    let absent = |cause| AgentError::Absent { path: path(), cause };
    let mut stream = UnixStream::connect(socket).map_err(absent)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(absent)?;
    let mut line = serde_json::to_vec(ask).expect("a question is plain data");
    line.push(b'\n');
    let silent = |cause| AgentError::Silent { path: path(), cause };
    stream.write_all(&line).map_err(|e| silent(Some(e)))?;
    let mut answer = String::new();
    if BufReader::new(stream).read_line(&mut answer).map_err(|e| silent(Some(e)))? == 0 {
        return Err(silent(None));
    }
    match serde_json::from_str(&answer).map_err(|cause| AgentError::Unknown { path: path(), cause })? {
        Answer::Refused { why, hint } => Err(AgentError::Refused { why, hint }),
        answer => Ok(answer),
    }
}
