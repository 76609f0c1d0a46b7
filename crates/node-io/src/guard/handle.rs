//! The agent's side of the guard.

use std::{collections::BTreeMap, ffi::OsString, fs, io, path::PathBuf, process::Stdio, sync::Arc, time::Duration};
use tandem_base::Instant;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Command,
    sync::Mutex,
};

use super::protocol::{MESSAGE_MAX, Refusal, Reply, Request, encode};
use crate::Confinement;

/// How long a guard may take to answer, twice in a row: after a stop of the whole node the first of them is over when the
/// guard wakes, and it must freeze before anything else happens to it. It freezes in between, which takes milliseconds.
/// One that takes longer hangs, and could not freeze anything either: it is killed.
const PATIENCE: Duration = Duration::from_millis(700);
/// How long it may take until a new guard answers; on a busy machine its start takes a while.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// How to find or start the guard.
#[derive(Debug, Clone)]
pub struct GuardSpec {
    /// The whole command that runs [`super::run`] on `socket`.
    pub argv: Vec<OsString>,
    /// Its socket, `<run>/guard.sock`. At most 107 bytes (unix(7)).
    pub socket: PathBuf,
    /// Where its standard error goes.
    pub log: PathBuf,
}

/// Why the guard did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// It could not be started.
    #[error("cannot start the guard {program:?}")]
    Start {
        /// Its program.
        program: OsString,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// It does not answer.
    #[error("the guard at {socket} does not answer")]
    Silent {
        /// Its socket.
        socket: PathBuf,
        /// What happened last.
        #[source]
        cause: io::Error,
    },
    /// It refused.
    #[error("the guard refused to {what}")]
    Refused {
        /// The request.
        what: String,
        /// Its reason.
        #[source]
        cause: Refusal,
    },
}

/// A service as the guard sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardedService {
    /// Its name.
    pub service: String,
    /// Whether it is frozen.
    pub frozen: bool,
}

/// What the guard says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardStatus {
    /// Its process.
    pub pid: u32,
    /// When it freezes everything.
    pub deadline: Instant,
    /// Whether it runs at real-time priority.
    pub realtime: bool,
    /// Whether its memory is locked.
    pub locked: bool,
    /// What it watches.
    pub services: Vec<GuardedService>,
}

/// A connection to the node's guard. Cheap to clone. If the guard dies or hangs, the next call starts another and tells it
/// all that this handle knows.
#[derive(Debug, Clone)]
pub struct GuardHandle {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    spec: GuardSpec,
    stream: Option<UnixStream>,
    services: BTreeMap<String, Confinement>,
    deadline: Instant,
}

impl GuardHandle {
    /// Takes over the guard that runs, or starts one.
    ///
    /// # Errors
    ///
    /// [`GuardError::Start`], [`GuardError::Silent`].
    pub async fn start(spec: GuardSpec) -> Result<Self, GuardError> {
        let mut shared = Shared { spec, stream: None, services: BTreeMap::new(), deadline: Instant::ZERO };
        shared.connect(tokio::time::Instant::now() + START_PATIENCE).await?;
        Ok(Self { shared: Arc::new(Mutex::new(shared)) })
    }

    /// Has a service frozen when the lease ends. If it has ended, the service is frozen when this returns. Call it before
    /// the start of a service that has a cgroup, right after that of one that has not, and for each one adopted.
    ///
    /// # Errors
    ///
    /// [`GuardError`]; nobody guards the service then, so stop it.
    pub async fn register(&self, service: &str, confinement: &Confinement) -> Result<(), GuardError> {
        let mut shared = self.shared.lock().await;
        shared.services.insert(service.into(), confinement.clone());
        let done = shared.ask(&registration(service, confinement)).await;
        if done.is_err() {
            shared.services.remove(service);
        }
        done
    }

    /// The lease was renewed until `until`. Thaws nothing.
    ///
    /// # Errors
    ///
    /// [`GuardError::Refused`] with [`Refusal::LeaseOver`] if that has passed already; otherwise [`GuardError`].
    pub async fn extend(&self, until: Instant) -> Result<(), GuardError> {
        let mut shared = self.shared.lock().await;
        shared.deadline = shared.deadline.max(until);
        shared.ask(&Request::Extend { until: until.as_nanos() }).await
    }

    /// Lets a service run again, whose promotion was confirmed to be current together with the lease. Nothing happens to
    /// one that was not frozen.
    ///
    /// # Errors
    ///
    /// [`GuardError::Refused`] if the lease is over again, or the service is not registered.
    pub async fn thaw(&self, service: &str) -> Result<(), GuardError> {
        self.shared.lock().await.ask(&Request::Thaw { service }).await
    }

    /// The service is stopped. It is not thawed by this.
    ///
    /// # Errors
    ///
    /// [`GuardError`].
    pub async fn forget(&self, service: &str) -> Result<(), GuardError> {
        let mut shared = self.shared.lock().await;
        shared.services.remove(service);
        shared.ask(&Request::Forget { service }).await
    }

    /// What the guard knows and watches.
    ///
    /// # Errors
    ///
    /// [`GuardError`].
    pub async fn status(&self) -> Result<GuardStatus, GuardError> {
        let mut shared = self.shared.lock().await;
        let mut buffer = [0; MESSAGE_MAX];
        let Reply::Hello { pid, deadline, slots, realtime, locked } =
            shared.exchange(&Request::Hello, &mut buffer).await?
        else {
            return Err(shared.confused());
        };
        let mut services = Vec::new();
        for index in 0..slots {
            match shared.exchange(&Request::Slot { index }, &mut buffer).await? {
                Reply::Slot { service, frozen } => services.push(GuardedService { service: service.into(), frozen }),
                Reply::EmptySlot => break,
                _ => return Err(shared.confused()),
            }
        }
        Ok(GuardStatus { pid, deadline: Instant::from_nanos(deadline), realtime, locked, services })
    }

    /// Ends the guard, once every service is forgotten.
    ///
    /// # Errors
    ///
    /// [`GuardError::Refused`] while services are registered.
    pub async fn end(self) -> Result<(), GuardError> {
        self.shared.lock().await.ask(&Request::End).await
    }
}

fn registration<'a>(service: &'a str, confinement: &'a Confinement) -> Request<'a> {
    match confinement {
        // The path is made of the kernel's and of our own names; another would be refused as unusable.
        Confinement::Cgroup { path } => Request::RegisterCgroup { service, path: path.to_str().unwrap_or("") },
        Confinement::Session { leader, start_time } => {
            Request::RegisterSession { service, leader: *leader, start_time: *start_time }
        }
    }
}

impl Shared {
    async fn ask(&mut self, request: &Request<'_>) -> Result<(), GuardError> {
        let mut buffer = [0; MESSAGE_MAX];
        match self.exchange(request, &mut buffer).await? {
            Reply::Done => Ok(()),
            Reply::Refused(cause) => Err(GuardError::Refused { what: describe(request), cause }),
            _ => Err(self.confused()),
        }
    }

    /// Asks; if this guard does not answer, looks for another, which may still be the dying one, until one does.
    async fn exchange<'b>(
        &mut self,
        request: &Request<'_>,
        buffer: &'b mut [u8; MESSAGE_MAX],
    ) -> Result<Reply<'b>, GuardError> {
        let deadline = tokio::time::Instant::now() + START_PATIENCE;
        let length = loop {
            if self.stream.is_none() {
                self.connect(deadline).await?;
            }
            let stream = self.stream.as_mut().expect("connect has just set it");
            match transact(stream, request, buffer).await {
                Ok(length) => break length,
                Err(cause) => {
                    self.stream = None;
                    if tokio::time::Instant::now() >= deadline {
                        return Err(self.silent(cause));
                    }
                    tracing::warn!(error = %cause, "the guard does not answer; looking for it or starting another");
                }
            }
        };
        postcard::from_bytes(&buffer[..length]).map_err(|_| self.confused())
    }

    /// Connects, starts a guard if none listens, and tells it all that is known.
    async fn connect(&mut self, deadline: tokio::time::Instant) -> Result<(), GuardError> {
        let mut started = false;
        loop {
            match UnixStream::connect(&self.spec.socket).await {
                Ok(stream) => match self.tell(stream).await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        return Ok(());
                    }
                    Err(cause) if tokio::time::Instant::now() >= deadline => return Err(self.silent(cause)),
                    Err(_) => {}
                },
                Err(_) if !started => {
                    self.spawn()?;
                    started = true;
                }
                Err(cause) if tokio::time::Instant::now() >= deadline => return Err(self.silent(cause)),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn tell(&self, mut stream: UnixStream) -> io::Result<UnixStream> {
        let mut buffer = [0; MESSAGE_MAX];
        if self.deadline > Instant::ZERO {
            // First, so that what is registered next is not frozen for nothing.
            transact(&mut stream, &Request::Extend { until: self.deadline.as_nanos() }, &mut buffer).await?;
        }
        for (service, confinement) in &self.services {
            transact(&mut stream, &registration(service, confinement), &mut buffer).await?;
        }
        Ok(stream)
    }

    fn spawn(&self) -> Result<(), GuardError> {
        let program = self.spec.argv.first().cloned().unwrap_or_default();
        let failed = |cause| GuardError::Start { program: program.clone(), cause };
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.spec.log).map_err(failed)?;
        let mut command = Command::new(&program);
        command.args(self.spec.argv.iter().skip(1)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // SAFETY: one system call between fork and exec. The session of its own comes before the guard's first
        // instruction: a signal to the agent's process group never reaches it.
        unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into)) };
        let mut child = command.spawn().map_err(failed)?;
        tokio::spawn(async move {
            match child.wait().await {
                Ok(status) if status.success() => {}
                ended => tracing::warn!(?ended, "the guard ended"),
            }
        });
        Ok(())
    }

    fn silent(&self, cause: io::Error) -> GuardError {
        GuardError::Silent { socket: self.spec.socket.clone(), cause }
    }

    fn confused(&self) -> GuardError {
        self.silent(io::Error::new(io::ErrorKind::InvalidData, "its answer does not fit the question"))
    }
}

/// Sends a request and receives its answer; kills a guard that hangs.
async fn transact(stream: &mut UnixStream, request: &Request<'_>, buffer: &mut [u8; MESSAGE_MAX]) -> io::Result<usize> {
    let answered = {
        let mut exchange = std::pin::pin!(async {
            let bytes = encode(request, buffer).ok_or(io::ErrorKind::InvalidInput)?;
            stream.write_all(bytes).await?;
            let length = usize::from(stream.read_u16_le().await?);
            let reply = buffer.get_mut(..length).ok_or(io::ErrorKind::InvalidData)?;
            stream.read_exact(reply).await?;
            Ok(length)
        });
        match tokio::time::timeout(PATIENCE, &mut exchange).await {
            Err(_) => tokio::time::timeout(PATIENCE, exchange).await,
            answered => answered,
        }
    };
    if let Ok(answered) = answered {
        return answered;
    }
    // The process that listens (unix(7), SO_PEERCRED). The connection stands, so it lives, and the number is its own.
    if let Ok(guard) = rustix::net::sockopt::socket_peercred(&*stream) {
        tracing::error!(pid = guard.pid.as_raw_nonzero(), "the guard hangs: it is killed, another one takes its place");
        // One that ended just now is gone, which is what was wanted.
        let _ = rustix::process::kill_process(guard.pid, rustix::process::Signal::KILL);
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn describe(request: &Request<'_>) -> String {
    match request {
        Request::RegisterCgroup { service, .. } | Request::RegisterSession { service, .. } => {
            format!("guard `{service}`")
        }
        Request::Extend { .. } => "extend the lease".into(),
        Request::Thaw { service } => format!("thaw `{service}`"),
        Request::Forget { service } => format!("forget `{service}`"),
        Request::Hello | Request::Slot { .. } => "tell its state".into(),
        Request::End => "end".into(),
    }
}
