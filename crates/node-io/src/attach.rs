//! Attach drivers: the child processes that make an attachment of a volume appear as a file or a device.

use serde::Deserialize;
use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};
use tandem_base::Duration;

use crate::{Exit, ProcessError, ProcessSpec, ServiceProcess, ServiceProcesses, Stopped};

/// What to attach, and how.
#[derive(Debug, Clone)]
pub struct AttachSpec {
    /// Names its record: one driver for each name, such as the volume's.
    pub name: String,
    /// The driver's whole command.
    pub argv: Vec<OsString>,
    /// How long it may take until it says that it is ready.
    pub ready_within: Duration,
}

/// Why there is no attachment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The driver could not be started or stopped.
    #[error("attachment `{name}`")]
    Process {
        /// The attachment.
        name: String,
        /// Why.
        #[source]
        cause: ProcessError,
    },
    /// The driver ended before it was ready; its log says why.
    #[error("attachment `{name}`: the driver ended with {exit}: {said}")]
    Ended {
        /// The attachment.
        name: String,
        /// How it ended.
        exit: Exit,
        /// Its last words.
        said: String,
    },
    /// The driver is silent.
    #[error("attachment `{name}` is not ready after {after}")]
    TimedOut {
        /// The attachment.
        name: String,
        /// How long was waited.
        after: Duration,
    },
    /// The driver said something else than that it is ready.
    #[error("attachment `{name}`: the driver said `{line}`")]
    Garbled {
        /// The attachment.
        name: String,
        /// Its line.
        line: String,
    },
    /// A file in the run directory.
    #[error("attachment `{name}`: cannot read {path}")]
    File {
        /// The attachment.
        name: String,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
}

/// The line a driver prints on its standard output once the attachment can be used.
#[derive(Debug, Deserialize)]
struct Ready {
    ready: bool,
    path: PathBuf,
}

/// The attach drivers of one node, recorded in one directory.
#[derive(Debug, Clone)]
pub struct AttachDrivers {
    directory: PathBuf,
    processes: ServiceProcesses,
}

impl AttachDrivers {
    /// Keeps records, logs and readiness lines in `directory`.
    ///
    /// # Errors
    ///
    /// The directory cannot be made.
    pub fn new(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        // Drivers are never frozen with their service: a frozen FUSE server would hang whoever looks at its mount.
        let processes = ServiceProcesses::new(&directory, None)?;
        Ok(Self { directory, processes })
    }

    /// Starts a driver and waits for its readiness line, `{"ready":true,"path":"/..."}`. The line goes into a file, so
    /// that neither the driver nor the next agent depends on this one.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; the driver is gone then.
    pub async fn start(&self, spec: &AttachSpec) -> Result<AttachDriver, AttachError> {
        let name = &spec.name;
        let mut process = ProcessSpec::new(name, spec.argv.clone(), self.directory.join(format!("{name}.log")));
        process.stdout = Some(self.ready_file(name));
        let failed = |cause| AttachError::Process { name: name.clone(), cause };
        let process = self.processes.start(&process).await.map_err(failed)?;
        match self.ready(&process, spec.ready_within).await {
            Ok(path) => Ok(AttachDriver { process, path }),
            Err(error) => {
                process.stop(Duration::from_secs(1)).await.map_err(failed)?;
                Err(error)
            }
        }
    }

    /// Takes over a driver that an earlier agent started; `None` if it is gone or never became ready.
    ///
    /// # Errors
    ///
    /// [`AttachError::Process`].
    pub async fn adopt(&self, name: &str) -> Result<Option<AttachDriver>, AttachError> {
        let failed = |cause| AttachError::Process { name: name.into(), cause };
        let Some(process) = self.processes.adopt(name).await.map_err(failed)? else { return Ok(None) };
        match self.read_line(name)? {
            Some(path) => Ok(Some(AttachDriver { process, path })),
            None => {
                process.stop(Duration::from_secs(1)).await.map_err(failed)?;
                Ok(None)
            }
        }
    }

    /// The names that have a record: what an earlier agent left to adopt.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn recorded(&self) -> io::Result<Vec<String>> {
        self.processes.recorded()
    }

    async fn ready(&self, process: &ServiceProcess, within: Duration) -> Result<PathBuf, AttachError> {
        let name = process.name();
        let deadline = tokio::time::Instant::now() + within.into();
        loop {
            // The exit is looked at first: what the driver wrote before it ended is then in the file.
            let exit = process.exit();
            if let Some(path) = self.read_line(name)? {
                return Ok(path);
            }
            if let Some(exit) = exit {
                return Err(AttachError::Ended { name: name.into(), exit, said: self.last_words(name) });
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(AttachError::TimedOut { name: name.into(), after: within });
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// The path in the readiness line; `None` until the line is whole.
    fn read_line(&self, name: &str) -> Result<Option<PathBuf>, AttachError> {
        let path = self.ready_file(name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(AttachError::File { name: name.into(), path, cause }),
        };
        let Some((line, _)) = text.split_once('\n') else { return Ok(None) };
        match serde_json::from_str::<Ready>(line) {
            Ok(Ready { ready: true, path }) => Ok(Some(path)),
            _ => Err(AttachError::Garbled { name: name.into(), line: line.into() }),
        }
    }

    /// The last line of the driver's log; of an error with causes and a hint all of it, in one line.
    fn last_words(&self, name: &str) -> String {
        let log = fs::read(self.directory.join(format!("{name}.log"))).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let from = lines.iter().rposition(|line| line.starts_with("error: ")).unwrap_or(lines.len().saturating_sub(1));
        let words: Vec<&str> = lines[from..]
            .iter()
            .map(|line| ["error: ", "because: "].iter().find_map(|label| line.strip_prefix(label)).unwrap_or(line))
            .collect();
        if words.is_empty() { "nothing".into() } else { words.join("; ") }
    }

    fn ready_file(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.ready"))
    }
}

/// A driver that is ready. Dropping it lets the attachment stand.
#[derive(Debug, Clone)]
pub struct AttachDriver {
    process: ServiceProcess,
    path: PathBuf,
}

impl AttachDriver {
    /// The file or device to use.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The driver's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until the driver has ended: the attachment is gone. Cancel safe.
    pub async fn ended(&self) -> Exit {
        self.process.exited().await
    }

    /// Asks the driver to detach, kills it after `timeout`.
    ///
    /// # Errors
    ///
    /// [`AttachError::Process`].
    pub async fn stop(&self, timeout: Duration) -> Result<Stopped, AttachError> {
        let stopped = self.process.stop(timeout).await;
        stopped.map_err(|cause| AttachError::Process { name: self.process.name().into(), cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(script: &str) -> AttachSpec {
        AttachSpec {
            name: "ledger".into(),
            argv: ["sh", "-c", script].map(OsString::from).into(),
            ready_within: Duration::from_secs(10),
        }
    }

    #[tokio::test]
    async fn a_ready_driver_is_found_again_by_the_next_agent() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let drivers = AttachDrivers::new(directory.path()).expect("it is writable");
        let ready = r#"printf '{"ready":true,'; echo '"path":"/srv/ledger"}'; exec sleep 1000"#;
        let first = drivers.start(&spec(ready)).await.expect("it says that it is ready");
        assert_eq!(first.path(), Path::new("/srv/ledger"));
        let next = AttachDrivers::new(directory.path()).expect("it is writable");
        let adopted = next.adopt("ledger").await.expect("the record is whole").expect("it runs");
        assert_eq!((adopted.pid(), adopted.path()), (first.pid(), first.path()));
        assert_eq!(adopted.stop(Duration::from_secs(10)).await.expect("it dies"), Stopped::Asked);
        first.ended().await;
        assert!(next.adopt("ledger").await.expect("nothing is there").is_none());
    }

    #[tokio::test]
    async fn a_failing_driver_is_explained_by_its_last_words() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let drivers = AttachDrivers::new(directory.path()).expect("it is writable");
        match drivers.start(&spec("echo 'no such export' >&2; exit 3")).await {
            Err(AttachError::Ended { exit: Exit::Code(3), said, .. }) => assert_eq!(said, "no such export"),
            other => panic!("{other:?}"),
        }
        let with_cause = "printf 'noise\\nerror: cannot do it\\n  because: no\\nhint: do it so\\n' >&2; exit 1";
        match drivers.start(&spec(with_cause)).await {
            Err(AttachError::Ended { said, .. }) => assert_eq!(said, "cannot do it; no; hint: do it so"),
            other => panic!("{other:?}"),
        }
        let garbled = drivers.start(&spec("echo hello; exec sleep 1000")).await;
        assert!(matches!(garbled, Err(AttachError::Garbled { .. })), "{garbled:?}");
        let mut silent = spec("exec sleep 1000");
        silent.ready_within = Duration::from_millis(50);
        assert!(matches!(drivers.start(&silent).await, Err(AttachError::TimedOut { .. })));
        assert!(drivers.recorded().expect("it is readable").is_empty());
    }
}
