//! Why a lab cannot do what it was asked.

use std::{io, path::PathBuf};

/// Why a lab could not be built, found or told something. The cause is in `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The name would not fit into paths and host names.
    #[error("`{0}` cannot name a lab: use 1 to 32 characters of a-z, 0-9 and `-`")]
    Name(String),
    /// A lab of this name lives already.
    #[error("a lab named `{0}` is up already")]
    Exists(String),
    /// No such lab lives.
    #[error("no lab named `{0}` is up")]
    Absent(String),
    /// The state directory belongs to somebody else.
    #[error("{path} belongs to another user")]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// This user may not do what a lab needs.
    #[error("this user lacks what a lab needs: {}", .missing.join("; "))]
    Privileges {
        /// What is missing, one text each.
        missing: Vec<String>,
    },
    /// A system call failed.
    #[error("cannot {doing}")]
    System {
        /// What was being done, to what.
        doing: String,
        /// What the kernel answered.
        #[source]
        cause: io::Error,
    },
    /// A program inside a node failed.
    #[error("node `{node}`: `{command}` failed ({ended}): {output}")]
    Command {
        /// Where it ran.
        node: String,
        /// What was run.
        command: String,
        /// How it ended.
        ended: String,
        /// The end of what it said.
        output: String,
    },
    /// The lab refused or could not do it; its own words.
    #[error("{0}")]
    Refused(String),
    /// The lab's own process ended early; the end of its log.
    #[error("the lab's process ended: {0}")]
    Supervisor(String),
}

impl LabError {
    /// One thing the operator can try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exists(name) => {
                Some(format!("end it with `tandem lab down --name {name}`, or give another `--name`"))
            }
            Self::Absent(_) => Some("`tandem lab list` shows the labs that are up".into()),
            Self::Privileges { .. } => Some(
                "run this as root, as with `sudo`; in a container, start it with those capabilities and devices; as a \
                 user, have the devices opened to you: `setfacl -m u:$USER:rw /dev/net/tun /dev/fuse`"
                    .into(),
            ),
            Self::System { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied => Some(
                "a lab needs the capabilities CAP_SYS_ADMIN and CAP_NET_ADMIN, of root or of a user namespace of its own"
                    .into(),
            ),
            Self::Foreign { .. } => Some("give another `--name`, or another directory in $TANDEM_LAB_DIR".into()),
            _ => None,
        }
    }
}

/// For system calls whose error is rustix's own type.
pub(crate) trait Doing<T> {
    /// Names what was being done.
    fn doing(self, what: impl Into<String>) -> Result<T, LabError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T, LabError> {
        self.map_err(|cause| LabError::System { doing: what.into(), cause: cause.into() })
    }
}
