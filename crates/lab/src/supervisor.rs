//! The process that is a lab: it starts the hosts, carries their frames, and ends them with itself.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde::{Deserialize, Serialize};

use crate::{
    HostState, HostStatus, LabError, Status, Topology, boot, cgroup, cleanup,
    control::{Answer, Request},
    directory::{Directory, Spec},
    error::Doing,
    freeze, hidden, namespace, network,
    node::{Order, READY},
    plan_files, root,
    shaper::Switch,
};

/// Said to whoever builds the lab, one JSON value per line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Progress {
    Step(String),
    Ready,
    Failed(String),
}

impl Progress {
    fn say(&self) {
        let line = serde_json::to_string(self).expect("the type has only text keys");
        // Whoever built the lab may be gone; the lab then goes on, or is ended by its tie.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
        let _ = std::io::stdout().flush();
    }
}

/// How long a host may take to build its root.
const HOST_READY_WITHIN: Duration = Duration::from_secs(15);

/// What the main thread is told by the others.
#[derive(Debug)]
enum Event {
    Asked(Request, Sender<Answer>),
    /// The first process of host `.0` ended.
    Ended(usize, Pid),
    /// Keep the agent of host `.0` running.
    StartAgent(usize, Sender<()>),
    Booted(Result<(), String>),
    /// The process to which this lab is tied ended.
    Untied,
}

#[derive(Debug)]
struct Running {
    state: HostState,
    first: Option<(Pid, UnixStream)>,
    /// Whether it has founded or joined the cluster, so that its agent starts with it.
    member: bool,
}

struct Supervisor {
    directory: Directory,
    spec: Spec,
    switch: Switch,
    hosts: Vec<Running>,
    events: Sender<Event>,
}

/// Runs the lab in `path` until it is told to end.
///
/// The process must have one thread: without root's rights it enters a user namespace of its own. Only the main thread
/// starts hosts, as they die with the thread that started them.
pub(crate) fn run(path: &Path) -> Result<(), LabError> {
    let result = build_and_serve(path);
    if let Err(error) = &result {
        Progress::Failed(hidden::with_causes(error)).say();
    }
    result
}

fn build_and_serve(path: &Path) -> Result<(), LabError> {
    let directory = Directory::at(path);
    let spec = directory.read_spec()?;
    // Held until this process ends, however it ends.
    let _lock = directory.lock()?.ok_or_else(|| LabError::Exists(spec.name.clone()))?;
    if !rustix::process::geteuid().is_root() {
        namespace::become_root_of_own()?;
    }
    cgroup::create(&directory, &spec.name);
    let (events, inbox) = channel();
    listen(&directory, events.clone())?;
    if spec.tied {
        let untied = events.clone();
        thread("tie", move || {
            // Nothing is ever written to it: this returns when the other end is closed.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            let _ = untied.send(Event::Untied);
        })?;
    }
    let seed = spec.topology.plan.bytes().fold(1u64, |seed, byte| seed.wrapping_mul(31) ^ u64::from(byte));
    let switch = Switch::start(&spec.topology, seed)?;
    let hosts = spec.topology.hosts.iter().map(|_| Running { state: HostState::Down, first: None, member: false });
    let hosts = hosts.collect();
    let mut supervisor = Supervisor { directory, spec, switch, hosts, events };
    for host in 0..supervisor.hosts.len() {
        Progress::Step(format!("{} starts", supervisor.spec.topology.hosts[host].name)).say();
        supervisor.start(host)?;
    }
    supervisor.boot()?;
    supervisor.serve(&inbox)
}

impl Supervisor {
    fn start(&mut self, index: usize) -> Result<(), LabError> {
        let host = &self.spec.topology.hosts[index];
        let own = self.directory.host(&host.name);
        for part in ["var", "etc", "root"] {
            std::fs::create_dir_all(own.join(part)).doing(format!("make {}", own.join(part).display()))?;
        }
        plan_files::copy(&self.directory.plan(), &own.join("etc"))?;
        let log_path = own.join("log");
        let log = OpenOptions::new().create(true).append(true).open(&log_path);
        let log: File = log.doing(format!("open {}", log_path.display()))?;
        let (control, theirs) = UnixStream::pair().doing("make a socket pair")?;
        let arguments = [OsStr::new("lab-node"), self.directory.path().as_os_str(), OsStr::new(&host.name)];
        let pid = namespace::spawn(&self.spec.binary, &arguments, theirs.as_fd(), log.as_fd())?;
        drop(theirs);
        let ended = self.events.clone();
        thread("wait", move || {
            // Nobody else waits for this child, so that this returns exactly once: at its end.
            let _ = waitpid(Some(pid), WaitOptions::empty());
            let _ = ended.send(Event::Ended(index, pid));
        })?;
        let tap = network::connect(pid, Topology::mac(index), &host.addresses)?;
        control.set_read_timeout(Some(HOST_READY_WITHIN)).doing("set a timeout")?;
        let mut line = String::new();
        let heard = BufReader::new(&control).read_line(&mut line);
        if heard.is_err() || line.trim_end() != READY {
            let _ = kill_process(pid, Signal::KILL);
            return Err(LabError::Refused(format!(
                "host `{}` did not come up: {}",
                host.name,
                Directory::log_end(&log_path)
            )));
        }
        self.switch.plug(index, tap);
        self.hosts[index].first = Some((pid, control));
        self.hosts[index].state = HostState::Up;
        if self.hosts[index].member {
            self.keep_agent(index)?;
        }
        Ok(())
    }

    /// Has the host keep its agent, or what runs instead of it, running.
    fn keep_agent(&mut self, index: usize) -> Result<(), LabError> {
        let agent = || [root::BINARY, "agent", "--lab"].map(str::to_owned).to_vec();
        let command = self.spec.instead_of_agent.clone().unwrap_or_else(agent);
        let Some((_, control)) = &mut self.hosts[index].first else {
            return Err(LabError::Refused(format!("host `{}` is down", self.spec.topology.hosts[index].name)));
        };
        let mut line = serde_json::to_vec(&Order::Keep(command)).expect("the type has only text keys");
        line.push(b'\n');
        control.write_all(&line).doing("tell a host to start its agent")?;
        self.hosts[index].member = true;
        Ok(())
    }

    /// Makes the cluster, in a thread: its commands ask this process about the hosts.
    fn boot(&mut self) -> Result<(), LabError> {
        let agents = self.spec.topology.hosts.iter().enumerate().filter(|(_, host)| host.agent);
        let mut agents: Vec<(usize, String)> = agents.map(|(index, host)| (index, host.name.clone())).collect();
        if self.spec.instead_of_agent.is_some() {
            for (index, _) in agents {
                self.keep_agent(index)?;
            }
            let _ = self.events.send(Event::Booted(Ok(())));
            return Ok(());
        }
        agents.sort_by_key(|(_, name)| Some(name) != self.spec.topology.founder.as_ref());
        let (directory, binary, events) = (self.directory.clone(), self.spec.binary.clone(), self.events.clone());
        thread("boot", move || {
            let result = make_cluster(&directory, &binary, &agents, &events);
            let _ = events.send(Event::Booted(result.map_err(|error| hidden::with_causes(&error))));
        })
    }

    fn serve(&mut self, inbox: &Receiver<Event>) -> Result<(), LabError> {
        while let Ok(event) = inbox.recv() {
            match event {
                Event::Asked(Request::Down, answer) => {
                    self.end();
                    let _ = answer.send(Answer::Done);
                    // Lets the answer out before the process ends.
                    std::thread::sleep(Duration::from_millis(20));
                    return Ok(());
                }
                Event::Asked(request, answer) => {
                    let _ = answer.send(self.answer(request));
                }
                Event::Ended(host, pid) => self.ended(host, pid),
                Event::StartAgent(host, done) => {
                    self.keep_agent(host)?;
                    let _ = done.send(());
                }
                Event::Booted(Ok(())) => Progress::Ready.say(),
                Event::Booted(Err(why)) => {
                    self.end();
                    return Err(LabError::Refused(why));
                }
                Event::Untied => {
                    self.end();
                    // Nobody is left to do it, and a rehearsal's lab has a name that never comes again.
                    return cleanup::remove(&self.directory);
                }
            }
        }
        Ok(())
    }

    fn ended(&mut self, host: usize, pid: Pid) {
        // The end of an earlier run, told after the host was started again, changes nothing.
        if self.hosts[host].first.as_ref().is_some_and(|(first, _)| *first == pid) {
            self.switch.unplug(host);
            self.hosts[host].first = None;
            self.hosts[host].state = HostState::Down;
        }
    }

    /// Ends every host at once.
    fn end(&mut self) {
        for host in 0..self.hosts.len() {
            if let Err(error) = self.kill(host) {
                tracing::warn!(%error, "a host did not end");
            }
        }
        cgroup::remove(&self.directory);
    }

    fn kill(&mut self, host: usize) -> Result<(), LabError> {
        // The cable first: the kernel of a host whose processes die says goodbye on their connections, a machine that
        // loses its power does not.
        self.switch.unplug(host);
        self.hosts[host].state = HostState::Down;
        let Some((pid, control)) = self.hosts[host].first.take() else { return Ok(()) };
        match kill_process(pid, Signal::KILL) {
            Err(rustix::io::Errno::SRCH) => {}
            sent => sent.doing("kill a host")?,
        }
        // The other end is closed when the whole process id namespace is gone.
        control.set_read_timeout(Some(Duration::from_secs(10))).doing("set a timeout")?;
        let _ = (&control).read_to_end(&mut Vec::new());
        Ok(())
    }

    fn answer(&mut self, request: Request) -> Answer {
        let result = match request {
            Request::Status => return Answer::Status(self.status()),
            Request::Down => Ok(()),
            Request::Kill { node } => self.host(&node).and_then(|host| self.kill(host)),
            Request::Start { node } => self.host(&node).and_then(|host| match self.hosts[host].first {
                None => self.start(host),
                Some(_) => Err(LabError::Refused(format!("`{node}` is up already"))),
            }),
            Request::Freeze { node } => self.signal(&node, HostState::Frozen, freeze::stop),
            Request::Resume { node } => self.signal(&node, HostState::Up, freeze::go_on),
            Request::Cut { from, to, both } => self.sides(&from, to.as_deref()).map(|(a, b)| {
                self.switch.cut(&a, &b);
                if both {
                    self.switch.cut(&b, &a);
                }
            }),
            Request::Heal { from: None, .. } => {
                self.switch.heal(|_, _| true);
                Ok(())
            }
            Request::Heal { from: Some(from), to } => self.sides(&from, to.as_deref()).map(|(a, b)| {
                self.switch.heal(|x, y| (a.contains(&x) && b.contains(&y)) || (a.contains(&y) && b.contains(&x)));
            }),
            Request::Slow { from, to, change } => self.place(&from).and_then(|a| {
                let b = self.place(&to)?;
                self.switch.change(&a, &b, &change);
                Ok(())
            }),
        };
        result.map_or_else(|error| Answer::Refused(hidden::with_causes(&error)), |()| Answer::Done)
    }

    fn status(&self) -> Status {
        let name = |host: usize| self.spec.topology.hosts[host].name.clone();
        let (cuts, frames) = self.switch.report();
        let hosts = self.hosts.iter().zip(&self.spec.topology.hosts).map(|(running, host)| HostStatus {
            name: host.name.clone(),
            place: host.place.clone(),
            state: running.state,
            pid: running.first.as_ref().map(|(pid, _)| pid.as_raw_nonzero().get()),
        });
        Status {
            name: self.spec.name.clone(),
            topology: self.spec.topology.clone(),
            hosts: hosts.collect(),
            cuts: cuts.into_iter().map(|(a, b)| (name(a), name(b))).collect(),
            frames,
        }
    }

    fn signal(&mut self, node: &str, state: HostState, act: fn(Pid) -> Result<(), LabError>) -> Result<(), LabError> {
        let host = self.host(node)?;
        let (pid, _) = self.hosts[host].first.as_ref().ok_or_else(|| LabError::Refused(format!("`{node}` is down")))?;
        act(*pid)?;
        self.hosts[host].state = state;
        Ok(())
    }

    fn host(&self, name: &str) -> Result<usize, LabError> {
        self.spec.topology.host(name).ok_or_else(|| self.unknown(name))
    }

    fn place(&self, name: &str) -> Result<String, LabError> {
        let host = self.spec.topology.expand(name).into_iter().next().ok_or_else(|| self.unknown(name))?;
        Ok(self.spec.topology.hosts[host].place.clone())
    }

    /// The hosts on the two sides of a cut.
    fn sides(&self, from: &str, to: Option<&str>) -> Result<(Vec<usize>, Vec<usize>), LabError> {
        let topology = &self.spec.topology;
        let expand = |name: &str| {
            let hosts = topology.expand(name);
            if hosts.is_empty() { Err(self.unknown(name)) } else { Ok(hosts) }
        };
        match (to, topology.links.get(from)) {
            (Some(to), _) => Ok((expand(from)?, expand(to)?)),
            (None, Some([a, b])) => Ok((expand(a)?, expand(b)?)),
            (None, None) => {
                let side = expand(from)?;
                let others = (0..topology.hosts.len()).filter(|host| !side.contains(host)).collect();
                Ok((side, others))
            }
        }
    }

    fn unknown(&self, name: &str) -> LabError {
        let topology = &self.spec.topology;
        let mut known: Vec<&str> = topology.hosts.iter().map(|host| host.name.as_str()).collect();
        known.extend(topology.places());
        known.extend(topology.links.keys().map(String::as_str));
        known.sort_unstable();
        known.dedup();
        LabError::Refused(format!("this lab has no `{name}`; it has {}", known.join(", ")))
    }
}

fn make_cluster(
    directory: &Directory,
    binary: &Path,
    agents: &[(usize, String)],
    events: &Sender<Event>,
) -> Result<(), LabError> {
    let Some(((founder, name), others)) = agents.split_first() else { return Ok(()) };
    let start_agent = |host: usize| {
        let (done, wait) = channel();
        // Fails only when the main thread has ended, and this thread with it.
        let _ = events.send(Event::StartAgent(host, done));
        let _ = wait.recv();
    };
    Progress::Step(format!("{name} founds the cluster")).say();
    let token = boot::found(directory, binary, name)?;
    start_agent(*founder);
    for (host, name) in others {
        Progress::Step(format!("{name} joins")).say();
        boot::join(directory, binary, name, &token)?;
        start_agent(*host);
    }
    Ok(())
}

/// Takes requests, each connection in a thread of its own: one line, one answer, until it is closed.
fn listen(directory: &Directory, events: Sender<Event>) -> Result<(), LabError> {
    let socket = directory.socket();
    let listener = UnixListener::bind(&socket).doing(format!("listen on {}", socket.display()))?;
    thread("listen", move || {
        for stream in listener.incoming().flatten() {
            let events = events.clone();
            let spawned = thread("asked", move || {
                let mut answers = match stream.try_clone() {
                    Ok(copy) => copy,
                    Err(cause) => return tracing::warn!(%cause, "a control connection is lost"),
                };
                for line in BufReader::new(stream).lines() {
                    let Ok(line) = line else { return };
                    let answer = match serde_json::from_str(&line) {
                        Err(wrong) => Answer::Refused(format!("this is no request: {wrong}")),
                        Ok(request) => {
                            let (answer, wait) = channel();
                            let _ = events.send(Event::Asked(request, answer));
                            let Ok(answer) = wait.recv() else { return };
                            answer
                        }
                    };
                    let mut line = serde_json::to_vec(&answer).expect("the type has only text keys");
                    line.push(b'\n');
                    if answers.write_all(&line).is_err() {
                        return;
                    }
                }
            });
            if let Err(error) = spawned {
                tracing::warn!(%error, "a control connection is refused");
            }
        }
    })
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), LabError> {
    std::thread::Builder::new().name(name.into()).spawn(body).map(drop).doing(format!("start the thread `{name}`"))
}
