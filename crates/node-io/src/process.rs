//! Service processes: started with a confinement, followed, stopped whole, and adopted by the next agent.

mod error;
mod spec;

pub use error::ProcessError;
pub use spec::{Exit, ProcessSpec, Stopped};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Stdio,
};
use tandem_base::Duration;
use tokio::{
    io::Interest,
    process::Command,
    runtime::{Handle, RuntimeFlavor},
    sync::watch,
};

use crate::{
    Cgroups, Confinement, cgroup, log_file,
    proc_table::{self, ProcTable},
    user::User,
};

/// How long the processes of a service may take to die of SIGKILL before the stop counts as failed.
const KILL_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// What is written down of a process so that the next agent finds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    pid: u32,
    start_time: u64,
    confinement: Confinement,
    log: PathBuf,
    log_max: u64,
    stop_signal: i32,
}

/// The service processes of one node, recorded in one directory.
#[derive(Debug, Clone)]
pub struct ServiceProcesses {
    records: PathBuf,
    cgroups: Option<Cgroups>,
}

impl ServiceProcesses {
    /// Keeps records as `<directory>/<name>.json`; without `cgroups`, services are confined by session.
    ///
    /// # Errors
    ///
    /// The directory cannot be made.
    pub fn new(directory: impl Into<PathBuf>, cgroups: Option<Cgroups>) -> io::Result<Self> {
        let records = directory.into();
        fs::create_dir_all(&records)?;
        Ok(Self { records, cgroups })
    }

    /// The names that have a record: what an earlier agent left to adopt.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn recorded(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.records)? {
            let name = entry?.file_name();
            names.extend(name.to_str().and_then(|name| name.strip_suffix(".json")).map(String::from));
        }
        names.sort();
        Ok(names)
    }

    /// How a process of this name will be confined, where that is known before it runs: its cgroup, made by this if it
    /// is not there. Tell the guard of it first, so that there is no moment in which the process runs unguarded. `None`
    /// without cgroups: a session is known by its first process.
    ///
    /// # Errors
    ///
    /// [`ProcessError::File`].
    pub fn confine(&self, name: &str) -> Result<Option<Confinement>, ProcessError> {
        let Some(cgroups) = &self.cgroups else { return Ok(None) };
        let path = cgroups.group(name).map_err(|cause| ProcessError::File {
            name: name.into(),
            what: "make a cgroup for",
            path: self.records.clone(),
            cause,
        })?;
        Ok(Some(Confinement::Cgroup { path }))
    }

    /// Starts a process in a session and, where possible, a cgroup of its own, and records it. In a cgroup that is
    /// frozen it starts once that is thawed.
    ///
    /// # Errors
    ///
    /// [`ProcessError`]; nothing runs then.
    pub async fn start(&self, spec: &ProcessSpec) -> Result<ServiceProcess, ProcessError> {
        let name = &spec.name;
        if let Some(running) = self.adopt(name).await? {
            return Err(ProcessError::Running { name: name.clone(), pid: running.pid() });
        }
        let program = spec.argv.first().ok_or_else(|| ProcessError::NoCommand(name.clone()))?;
        let file = |what, path: &Path| {
            let path = path.to_owned();
            move |cause| ProcessError::File { name: name.clone(), what, path, cause }
        };
        let log = log_file::open(&spec.log).map_err(file("open", &spec.log))?;
        let follow_from = log.metadata().map_err(file("open", &spec.log))?.len();
        let stdout = match &spec.stdout {
            Some(path) => fs::File::create(path).map_err(file("open", path))?,
            None => log.try_clone().map_err(file("open", &spec.log))?,
        };
        let group = match self.confine(name)? {
            Some(Confinement::Cgroup { path }) => Some(path),
            _ => None,
        };
        let mut command = Command::new(program);
        command.args(&spec.argv[1..]).stdin(Stdio::null()).stdout(stdout).stderr(log);
        let mut user = None;
        if let Some(wanted) = &spec.user {
            let found = User::lookup(wanted, spec.group.as_deref());
            let found = found.map_err(|cause| ProcessError::User { name: name.clone(), cause })?;
            command.env("USER", &found.name).env("LOGNAME", &found.name).env("HOME", &found.home);
            user = Some(found).filter(|user| !user.is_self());
        }
        command.envs(spec.env.iter().map(|(key, value)| (key, value)));
        if let Some(directory) = &spec.directory {
            command.current_dir(directory);
        }
        let entrance = match &group {
            Some(group) => Some(cgroup::entrance(group).map_err(file("enter", group))?),
            None => None,
        };
        // SAFETY: between fork and exec only system calls are made; nothing allocates or locks (signal-safety(7)).
        unsafe {
            command.pre_exec(move || {
                rustix::process::setsid()?;
                if let Some(entrance) = &entrance {
                    rustix::io::write(entrance, b"0")?;
                }
                if let Some(user) = &user {
                    // One thread is left after the fork, so the thread's identity is the process's.
                    rustix::thread::set_thread_groups(&user.groups)?;
                    rustix::thread::set_thread_gid(user.gid)?;
                    rustix::thread::set_thread_uid(user.uid)?;
                }
                Ok(())
            });
        }
        let system = |what| move |cause| ProcessError::System { name: name.clone(), what, cause };
        // Not to be given up half-way, so that what runs is recorded; and it returns when the child executes its program,
        // which in a frozen group is when that is thawed: the runtime's other tasks must go on meanwhile.
        let child = match Handle::current().runtime_flavor() {
            RuntimeFlavor::MultiThread => tokio::task::block_in_place(|| command.spawn()),
            _ => command.spawn(),
        };
        let child = child.map_err(|cause| ProcessError::Start { name: name.clone(), program: program.clone(), cause });
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                if let Some(group) = &group {
                    // Empty, since nothing runs; and if not, the next start uses it again.
                    let _ = fs::remove_dir(group);
                }
                return Err(error);
            }
        };
        let pid = child.id().expect("a child that was not waited for has its number");
        let start_time = proc_table::start_time(pid).map_err(system("read /proc"))?.unwrap_or(0);
        let confinement = match group {
            Some(path) => Confinement::Cgroup { path },
            None => Confinement::Session { leader: pid, start_time },
        };
        let record = Record {
            pid,
            start_time,
            confinement,
            log: spec.log.clone(),
            log_max: spec.log_max,
            stop_signal: spec.stop_signal.as_raw(),
        };
        let (sender, exit) = watch::channel(None);
        let process = ServiceProcess { name: name.clone(), record, path: self.path(name), exit };
        if let Err(error) = process.write_record() {
            sweep(name, process.confinement(), Vec::new()).await?;
            return Err(error);
        }
        tokio::spawn(async move {
            let exit = child.wait().await.map_or(Exit::Unknown, Exit::from);
            sender.send_replace(Some(exit));
        });
        process.follow(follow_from);
        tracing::info!(service = %name, pid, program = ?program, "started");
        Ok(process)
    }

    /// Takes over the process of this name that an earlier agent started. If its first process is gone, what is left
    /// of it is killed and its record removed; so is one that has no record, because its agent fell as it started it.
    ///
    /// # Errors
    ///
    /// [`ProcessError::File`] for a record that cannot be read, [`ProcessError::Unkillable`].
    pub async fn adopt(&self, name: &str) -> Result<Option<ServiceProcess>, ProcessError> {
        let path = self.path(name);
        let file = |what| {
            let path = path.clone();
            move |cause| ProcessError::File { name: name.into(), what, path, cause }
        };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.clear(name).await.map(|()| None);
            }
            Err(error) => return Err(file("read")(error)),
        };
        let record: Record = serde_json::from_slice(&text).map_err(|error| file("understand")(error.into()))?;
        let system = |what| move |cause| ProcessError::System { name: name.into(), what, cause };
        let (sender, exit) = watch::channel(None);
        let process = ServiceProcess { name: name.into(), record, path: path.clone(), exit };
        let pidfd = process.pidfd().map_err(system("open a process"))?;
        let Some(pidfd) = pidfd else {
            sender.send_replace(Some(Exit::Unknown));
            process.stop(Duration::ZERO).await?;
            return Ok(None);
        };
        let pidfd = crate::clock::watch(pidfd).map_err(system("follow a process"))?;
        tokio::spawn(async move {
            // Readable once the process has ended (pidfd_open(2)). How it ended only its parent hears.
            let _ = pidfd.async_io(Interest::READABLE, |_| Ok(())).await;
            sender.send_replace(Some(Exit::Unknown));
        });
        process.follow(fs::metadata(&process.record.log).map_or(0, |log| log.len()));
        Ok(Some(process))
    }

    /// Kills what lives in the cgroup of this name. One that is empty stays: the guard may have it open.
    async fn clear(&self, name: &str) -> Result<(), ProcessError> {
        let Some(path) = self.cgroups.as_ref().map(|cgroups| cgroups.path(name)) else { return Ok(()) };
        let populated = cgroup::populated(&path).map_err(|cause| ProcessError::System {
            name: name.into(),
            what: "read the cgroup",
            cause,
        })?;
        if populated {
            sweep(name, &Confinement::Cgroup { path }, Vec::new()).await?;
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.records.join(format!("{name}.json"))
    }
}

/// A running service. Dropping it lets the service go on.
#[derive(Debug, Clone)]
pub struct ServiceProcess {
    name: String,
    record: Record,
    path: PathBuf,
    exit: watch::Receiver<Option<Exit>>,
}

impl ServiceProcess {
    /// The name it was started under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its first process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.record.pid
    }

    /// How the guard finds all of it.
    #[must_use]
    pub fn confinement(&self) -> &Confinement {
        &self.record.confinement
    }

    /// How the first process ended; `None` while it lives.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits until the first process has ended. Others of the service may be left: call [`stop`](Self::stop) then too.
    /// Cancel safe.
    pub async fn exited(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::Unknown),
            // The task that waits is gone, so the runtime ends.
            Err(_) => Exit::Unknown,
        }
    }

    /// Stops the whole service: asks the first process, waits for at most `timeout`, then kills everything that is
    /// left, and removes the record. With a `timeout` of zero it kills at once, which is what a frozen service needs:
    /// it hears no request.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Unkillable`]: something survived SIGKILL for five seconds; the record stays, call again.
    pub async fn stop(&self, timeout: Duration) -> Result<Stopped, ProcessError> {
        let known = self.members()?;
        let mut outcome = Stopped::Already;
        if self.exit().is_none() {
            outcome = Stopped::Killed;
            if timeout > Duration::ZERO {
                let signal = Signal::from_named_raw(self.record.stop_signal).unwrap_or(Signal::TERM);
                self.signal(signal)?;
                if tokio::time::timeout(timeout.into(), self.exited()).await.is_ok() {
                    outcome = Stopped::Asked;
                }
            }
        }
        sweep(&self.name, &self.record.confinement, known).await?;
        match fs::remove_file(&self.path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(ProcessError::File { name: self.name.clone(), what: "remove", path: self.path.clone(), cause })
            }
            _ => Ok(outcome),
        }
    }

    /// All processes of the service now, where it has no cgroup: what detaches itself later is still known then.
    fn members(&self) -> Result<Vec<(u32, u64)>, ProcessError> {
        let Confinement::Session { leader, start_time } = self.record.confinement else { return Ok(Vec::new()) };
        let mut table = ProcTable::new().map_err(self.system("read /proc"))?;
        table.scan().map_err(self.system("read /proc"))?;
        table.mark(leader, start_time);
        Ok(table.members().map(|process| (process.pid, process.start_time)).collect())
    }

    fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        match self.pidfd().map_err(self.system("open a process"))? {
            Some(pidfd) => match pidfd_send_signal(pidfd.as_fd(), signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
                Err(error) => Err(self.system("signal the process")(error.into())),
            },
            None => Ok(()),
        }
    }

    /// A handle on the first process, if it is still the one that was started.
    fn pidfd(&self) -> io::Result<Option<rustix::fd::OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.record.pid as i32) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Read after the handle was opened: if the time is right now, the handle is of that process.
        let same = proc_table::start_time(self.record.pid)? == Some(self.record.start_time);
        Ok(same.then_some(pidfd))
    }

    fn follow(&self, from: u64) {
        let ended = self.clone();
        let (log, size_max) = (self.record.log.clone(), self.record.log_max);
        tokio::spawn(log_file::follow(self.name.clone(), log, from, size_max, async move {
            ended.exited().await;
        }));
    }

    fn write_record(&self) -> Result<(), ProcessError> {
        let text = serde_json::to_vec(&self.record).expect("the record has no maps and no odd numbers");
        let fresh = self.path.with_extension("new");
        let written = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &self.path));
        written.map_err(|cause| ProcessError::File {
            name: self.name.clone(),
            what: "write",
            path: self.path.clone(),
            cause,
        })
    }

    fn system(&self, what: &'static str) -> impl FnOnce(io::Error) -> ProcessError {
        let name = self.name.clone();
        move |cause| ProcessError::System { name, what, cause }
    }
}

/// Kills what is left, and `known` processes of earlier, until nothing is.
async fn sweep(name: &str, confinement: &Confinement, mut known: Vec<(u32, u64)>) -> Result<(), ProcessError> {
    let system = |what| move |cause| ProcessError::System { name: name.into(), what, cause };
    let deadline = tokio::time::Instant::now() + KILL_PATIENCE;
    let mut pause = std::time::Duration::from_millis(1);
    loop {
        let left = match confinement {
            Confinement::Cgroup { path } => {
                let populated = cgroup::populated(path).map_err(system("read the cgroup"))?;
                if !populated {
                    // A group that was just emptied can be busy for a moment; then the next round removes it.
                    match fs::remove_dir(path) {
                        Ok(()) => return Ok(()),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                        Err(_) => {}
                    }
                } else {
                    cgroup::kill(path).map_err(system("kill the cgroup"))?;
                }
                Vec::new()
            }
            Confinement::Session { leader, start_time } => {
                let mut table = ProcTable::new().map_err(system("read /proc"))?;
                table.scan().map_err(system("read /proc"))?;
                table.mark(*leader, *start_time);
                table.mark_also(&known);
                let mut left = Vec::new();
                for process in table.members().filter(|process| process.is_alive()) {
                    left.push(process.pid);
                    if !known.contains(&(process.pid, process.start_time)) {
                        known.push((process.pid, process.start_time));
                    }
                    if let Some(pid) = Pid::from_raw(process.pid as i32) {
                        // One that just ended is what we want.
                        let _ = kill_process(pid, Signal::KILL);
                    }
                }
                if left.is_empty() {
                    return Ok(());
                }
                left
            }
        };
        if tokio::time::Instant::now() >= deadline {
            return Err(ProcessError::Unkillable { name: name.into(), pids: left });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(std::time::Duration::from_millis(50));
    }
}
