//! The handle by which a program builds a lab and tells it what to do.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    LabError, Status, Topology, cleanup,
    control::{Answer, Request},
    directory::{Directory, Spec},
    error::Doing,
    plan_files, privileges,
    shaper::QualityChange,
    supervisor::Progress,
};

/// How to build a lab.
#[derive(Debug, Clone)]
pub struct Options {
    /// The lab's name: 1 to 32 characters of `a-z`, `0-9`, `-`. Labs of different names live side by side.
    pub name: String,
    /// Where its directory is made.
    pub base: PathBuf,
    /// The `tandem` binary: it is started with the hidden commands of [`crate::run_hidden`], and runs in every node.
    pub binary: PathBuf,
    /// Run in every node instead of founding, joining and the agent.
    pub instead_of_agent: Option<Vec<String>>,
    /// End the lab when the [`Lab`] that built it is dropped or its process ends, however it ends.
    pub tied: bool,
}

impl Options {
    /// A lab called `name` with `binary`, in the directory `$TANDEM_LAB_DIR` or else in `/tmp`.
    #[must_use]
    pub fn new(name: &str, binary: PathBuf) -> Self {
        let base = std::env::var_os("TANDEM_LAB_DIR").map_or_else(|| "/tmp".into(), PathBuf::from);
        Self { name: name.into(), base, binary, instead_of_agent: None, tied: false }
    }
}

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    name: String,
    directory: Directory,
    binary: PathBuf,
    /// While this is open a tied lab lives.
    tie: Option<(Child, ChildStdin)>,
}

/// A lab that [`list`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// Whether it lives; else its directory is what a crash left, which `up` and `down` clear away.
    pub up: bool,
}

/// The labs in `base`.
///
/// # Errors
///
/// [`LabError::System`] when `base` cannot be read.
pub fn list(base: &Path) -> Result<Vec<Listed>, LabError> {
    let mut labs = Vec::new();
    for (name, directory) in Directory::all(base).doing(format!("read {}", base.display()))? {
        // Another user's lab cannot be looked into, and cannot be ours to end.
        let Ok(lock) = directory.lock() else { continue };
        labs.push(Listed { name, path: directory.path().into(), up: lock.is_none() });
    }
    Ok(labs)
}

impl Lab {
    /// Builds a lab: hosts and network, then a cluster by the real way: the founder runs `tandem init`, the others
    /// `tandem join`, all of them `tandem agent`. Returns once every agent was started; `progress` hears each step.
    ///
    /// `plan` is the plan's file or its directory. In every node its file is `/etc/tandem/plan.toml`, with the files that
    /// stand beside it, and `plan.d`.
    ///
    /// # Errors
    ///
    /// [`LabError::Exists`], [`LabError::Privileges`], [`LabError::Command`] when founding or joining fails; nothing is
    /// left behind but the logs, in the lab's directory.
    pub fn up(
        topology: &Topology,
        plan: &Path,
        options: &Options,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Self, LabError> {
        let directory = Directory::new(&options.base, &options.name)?;
        privileges::check()?;
        directory.create()?;
        let Some(lock) = directory.lock()? else { return Err(LabError::Exists(options.name.clone())) };
        cleanup::clear(&directory)?;
        let binary = options.binary.canonicalize().doing(format!("find the binary {}", options.binary.display()))?;
        plan_files::copy(plan, &directory.plan())?;
        directory.write_spec(&Spec {
            name: options.name.clone(),
            binary: binary.clone(),
            instead_of_agent: options.instead_of_agent.clone(),
            tied: options.tied,
            topology: topology.clone(),
        })?;
        // The supervisor takes the lock over; a third party that slips in between is refused by it.
        drop(lock);
        let log = std::fs::File::create(directory.log()).doing("create the lab's log")?;
        let mut supervisor = Command::new(&binary)
            .args([OsStr::new("lab-supervise"), directory.path().as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // A group of its own: Ctrl-C at the terminal is for the caller, who then decides.
            .process_group(0)
            .spawn()
            .doing(format!("start {}", binary.display()))?;
        let stdin = supervisor.stdin.take().expect("it was asked for");
        let stdout = supervisor.stdout.take().expect("it was asked for");
        for line in BufReader::new(stdout).lines() {
            let line = line.doing("listen to the lab's process")?;
            match serde_json::from_str(&line) {
                Ok(Progress::Step(step)) => progress(&step),
                Ok(Progress::Ready) => {
                    let tie = options.tied.then_some((supervisor, stdin));
                    return Ok(Self { name: options.name.clone(), directory, binary, tie });
                }
                Ok(Progress::Failed(why)) => {
                    let _ = supervisor.wait();
                    return Err(LabError::Refused(why));
                }
                Err(_) => tracing::warn!(line, "the lab's process said something odd"),
            }
        }
        let _ = supervisor.wait();
        Err(LabError::Supervisor(Directory::log_end(&directory.log())))
    }

    /// Finds the lab `name` in `base`.
    ///
    /// # Errors
    ///
    /// [`LabError::Absent`] when no such lab lives.
    pub fn open(base: &Path, name: &str) -> Result<Self, LabError> {
        let directory = Directory::new(base, name)?;
        if !directory.exists() || directory.lock()?.is_some() {
            return Err(LabError::Absent(name.into()));
        }
        Self::at(&directory)
    }

    /// The lab in `directory`, thought to live.
    pub(crate) fn at(directory: &Directory) -> Result<Self, LabError> {
        let spec = directory.read_spec()?;
        Ok(Self { name: spec.name, directory: directory.clone(), binary: spec.binary, tie: None })
    }

    /// Clears away what a crashed lab left; does nothing to a living one.
    ///
    /// # Errors
    ///
    /// [`LabError::Exists`] when it lives.
    pub fn clear(base: &Path, name: &str) -> Result<(), LabError> {
        let directory = Directory::new(base, name)?;
        if !directory.exists() {
            return Err(LabError::Absent(name.into()));
        }
        if directory.lock()?.is_none() {
            return Err(LabError::Exists(name.into()));
        }
        cleanup::remove(&directory)
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where a host's log is: what its first process, its agent and everything the agent starts say.
    #[must_use]
    pub fn log(&self, host: &str) -> PathBuf {
        self.directory.host(host).join("log")
    }

    /// How the hosts are.
    ///
    /// # Errors
    ///
    /// As every verb: [`LabError::Absent`] when the lab is gone, [`LabError::Refused`] with the reason.
    pub fn status(&self) -> Result<Status, LabError> {
        match self.ask(&Request::Status)? {
            Answer::Status(status) => Ok(status),
            other => Err(LabError::Refused(format!("the lab answered {other:?} when asked for its status"))),
        }
    }

    /// Ends everything and removes the lab's directory.
    ///
    /// # Errors
    ///
    /// See [`Self::status`].
    pub fn down(mut self) -> Result<(), LabError> {
        self.end()?;
        // Nothing is left to end at drop.
        self.tie = None;
        Ok(())
    }

    fn end(&mut self) -> Result<(), LabError> {
        match self.tell(&Request::Down) {
            // On a busy machine it has ended before its answer was out.
            Ok(()) | Err(LabError::Absent(_)) => {}
            Err(error) => return Err(error),
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.directory.lock()?.is_none() {
            if Instant::now() > deadline {
                return Err(LabError::Refused("the lab's process did not end within 20 s".into()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some((child, _)) = &mut self.tie {
            let _ = child.wait();
        }
        cleanup::remove(&self.directory)
    }

    /// Cuts `node`'s power; its disk stays.
    ///
    /// # Errors
    ///
    /// See [`Self::status`].
    pub fn kill(&self, node: &str) -> Result<(), LabError> {
        self.tell(&Request::Kill { node: node.into() })
    }

    /// Starts a killed node again, with its disk.
    ///
    /// # Errors
    ///
    /// See [`Self::status`].
    pub fn start(&self, node: &str) -> Result<(), LabError> {
        self.tell(&Request::Start { node: node.into() })
    }

    /// Stops (SIGSTOP) every process of `node`. Its kernel goes on: it answers ARP, and accepts TCP data.
    ///
    /// # Errors
    ///
    /// See [`Self::status`].
    pub fn freeze(&self, node: &str) -> Result<(), LabError> {
        self.tell(&Request::Freeze { node: node.into() })
    }

    /// Lets a frozen node's processes go on.
    ///
    /// # Errors
    ///
    /// See [`Self::status`].
    pub fn resume(&self, node: &str) -> Result<(), LabError> {
        self.tell(&Request::Resume { node: node.into() })
    }

    /// Lets nothing pass between `a` and `b` (sites or nodes; with `b` absent, `a` is a link's name, or a site or node
    /// that is cut from everything else). With `one_way`, only from `a` to `b`.
    ///
    /// # Errors
    ///
    /// See [`Self::status`].
    pub fn cut(&self, a: &str, b: Option<&str>, one_way: bool) -> Result<(), LabError> {
        self.tell(&Request::Cut { from: a.into(), to: b.map(Into::into), both: !one_way })
    }

    /// Undoes cuts: all, all of `a` (or of the link `a`), or those between `a` and `b`.
    ///
    /// # Errors
    ///
    /// See [`Self::status`].
    pub fn heal(&self, a: Option<&str>, b: Option<&str>) -> Result<(), LabError> {
        self.tell(&Request::Heal { from: a.map(Into::into), to: b.map(Into::into) })
    }

    /// Changes how the way between the places of `a` and `b` carries, in both directions.
    ///
    /// # Errors
    ///
    /// See [`Self::status`].
    pub fn slow(&self, a: &str, b: &str, change: &QualityChange) -> Result<(), LabError> {
        self.tell(&Request::Slow { from: a.into(), to: b.into(), change: change.clone() })
    }

    /// A command that will run `program` inside `host`: its network, mounts and processes.
    ///
    /// Set its streams as of any [`Command`]. It ends as `program` does; a signal becomes 128 and its number.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, host: &str, program: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("lab-enter").arg(self.directory.path()).arg(host).args(program);
        command
    }

    fn tell(&self, request: &Request) -> Result<(), LabError> {
        match self.ask(request)? {
            Answer::Done => Ok(()),
            Answer::Refused(why) => Err(LabError::Refused(why)),
            Answer::Status(_) => Err(LabError::Refused("the lab answered something else".into())),
        }
    }

    fn ask(&self, request: &Request) -> Result<Answer, LabError> {
        let absent = || LabError::Absent(self.name.clone());
        let mut stream = UnixStream::connect(self.directory.socket()).map_err(|_| absent())?;
        let mut line = serde_json::to_vec(request).expect("the type has only text keys");
        line.push(b'\n');
        let mut answer = String::new();
        // Whatever fails here: it ended while it was asked.
        stream.write_all(&line).map_err(|_| absent())?;
        BufReader::new(stream).read_line(&mut answer).map_err(|_| absent())?;
        if answer.is_empty() {
            return Err(absent());
        }
        serde_json::from_str(&answer).map_err(std::io::Error::other).doing("understand the lab's process")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.tie.is_some()
            && let Err(error) = self.end()
        {
            tracing::warn!(%error, lab = self.name, "a lab did not end cleanly");
        }
    }
}
