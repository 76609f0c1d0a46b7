//! The guard as a process of its own, with an agent that is stopped, killed and replaced. Needs root for the cgroup.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tandem_base::{Duration, Instant};
use tandem_node_io::{
    Cgroups, Confinement, GuardError, GuardHandle, GuardSpec, ProcessSpec, ServiceProcess, ServiceProcesses,
    guard::{self, Refusal},
    now,
};

const DIRECTORY: &str = "TANDEM_TEST_DIRECTORY";

/// The command that runs one of the two processes below: this test binary, restricted to it.
fn this_binary(entry: &str) -> Vec<OsString> {
    let exe = std::env::current_exe().expect("a process knows its program");
    let mut argv = vec![exe.into_os_string()];
    argv.extend(["--exact", entry, "--ignored", "--nocapture", "--test-threads=1"].map(OsString::from));
    argv
}

fn spec(directory: &Path) -> GuardSpec {
    let mut argv = vec!["env".into(), {
        let mut variable = OsString::from(format!("{DIRECTORY}="));
        variable.push(directory);
        variable
    }];
    argv.extend(this_binary("guard_process"));
    GuardSpec { argv, socket: directory.join("guard.sock"), log: directory.join("guard.log") }
}

fn directory() -> PathBuf {
    PathBuf::from(std::env::var_os(DIRECTORY).expect("only the tests here start this"))
}

#[test]
#[ignore = "not a test: the guard that the tests start"]
fn guard_process() {
    guard::run(&directory().join("guard.sock")).expect("the directory is writable");
}

#[test]
#[ignore = "not a test: the agent that a test stops"]
fn agent_process() {
    let directory = directory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let guard = GuardHandle::start(spec(&directory)).await.expect("the guard starts");
        guard.extend(now() + Duration::from_secs(2)).await.expect("the lease is new");
        let service = start(&directory, None).await;
        guard.register("svc", service.confinement()).await.expect("there is room");
        println!("\nREADY {}", service.pid());
        std::io::stdout().flush().expect("the test reads");
        loop {
            // Late after a stop: then the lease is over and renewed, and the service must stay frozen.
            let _ = guard.extend(now() + Duration::from_secs(2)).await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
}

/// A directory; whatever runs for it ends with it, also when an assertion failed.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mark = [DIRECTORY.as_bytes(), b"=", self.path().as_os_str().as_encoded_bytes(), b"\0"].concat();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let environment = fs::read(process.path().join("environ")).unwrap_or_default();
            let pid = process.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?));
            if let Some(pid) = pid.filter(|_| environment.windows(mark.len()).any(|window| window == mark)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// A service with a child in a session of its own. Both only sleep: the parent of a vfork never shows as stopped.
async fn start(directory: &Path, cgroups: Option<Cgroups>) -> ServiceProcess {
    let processes = ServiceProcesses::new(directory.join("services"), cgroups).expect("it is writable");
    let child = directory.join("child");
    let script = format!("setsid sh -c 'echo $$ > {0}; exec sleep 1000' & exec sleep 1000", child.display());
    let argv = ["sh", "-c", &script].map(OsString::from).into();
    let mut spec = ProcessSpec::new("svc", argv, directory.join("svc.log"));
    spec.env.push((DIRECTORY.into(), directory.into()));
    let service = processes.start(&spec).await.expect("a shell");
    poll("the child starts", || fs::read_to_string(&child).is_ok_and(|text| text.ends_with('\n'))).await;
    service
}

async fn poll(what: &str, mut until: impl FnMut() -> bool) {
    let deadline = now() + Duration::from_secs(60);
    while !until() {
        assert!(now() < deadline, "{what}: it does not happen");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Whether every process of the service is stopped.
fn frozen(directory: &Path, service: &Confinement, pid: u32) -> bool {
    match service {
        Confinement::Cgroup { path } => {
            fs::read_to_string(path.join("cgroup.events")).is_ok_and(|events| events.contains("frozen 1"))
        }
        Confinement::Session { .. } => {
            let child = fs::read_to_string(directory.join("child")).expect("the service wrote it");
            let child = child.trim().parse().expect("it is a number");
            state(pid) == Some('T') && state(child) == Some('T')
        }
    }
}

async fn life_of_a_service(cgroups: Option<Cgroups>) {
    let scratch = Scratch::new();
    let directory = scratch.path();
    let handle = GuardHandle::start(spec(directory)).await.expect("the guard starts");
    let service = start(directory, cgroups).await;
    let is_frozen = || frozen(directory, service.confinement(), service.pid());

    // Without a lease a service is frozen as soon as it is known.
    handle.register("svc", service.confinement()).await.expect("there is room");
    poll("frozen without a lease", is_frozen).await;
    let refused = handle.thaw("svc").await;
    assert!(matches!(refused, Err(GuardError::Refused { cause: Refusal::LeaseOver, .. })), "{refused:?}");

    // A lease alone thaws nothing; a thaw does. On a machine so busy that the lease ends in between, once more.
    let until = loop {
        let until = now() + Duration::from_millis(1_500);
        let extended = handle.extend(until).await;
        assert!(is_frozen());
        if extended.is_ok() && handle.thaw("svc").await.is_ok() {
            break until;
        }
    };
    poll("thawed", || !is_frozen() || now() >= until).await;

    // An earlier time changes nothing.
    let _ = handle.extend(Instant::ZERO).await;
    poll("frozen at the end", || {
        let frozen = is_frozen();
        assert!(!frozen || now() >= until, "frozen before the lease was over at {until:?}");
        frozen
    })
    .await;

    // Whoever continues it by hand is overruled.
    if let Confinement::Session { leader, .. } = service.confinement() {
        kill_process(Pid::from_raw(*leader as i32).expect("it is not zero"), Signal::CONT).expect("it lives");
        poll("frozen again", is_frozen).await;
    }

    // The guard is killed; the next call starts another, which knows what this handle knows.
    let old = handle.status().await.expect("it answers").pid;
    kill_process(Pid::from_raw(old as i32).expect("it is not zero"), Signal::KILL).expect("it lives");
    handle.extend(now() + Duration::from_secs(60)).await.expect("another guard starts");
    let status = handle.status().await.expect("it answers");
    assert_ne!(status.pid, old);
    assert_eq!(status.services.len(), 1);
    handle.thaw("svc").await.expect("the lease holds");
    poll("thawed by the second guard", || !is_frozen()).await;

    // A guard that hangs could freeze nothing: it is killed, and another takes its place.
    let hung = Pid::from_raw(status.pid as i32).expect("it is not zero");
    kill_process(hung, Signal::STOP).expect("it lives");
    handle.extend(now() + Duration::from_secs(60)).await.expect("another guard starts");
    assert_ne!(handle.status().await.expect("it answers").pid, status.pid);
    assert!(!is_frozen(), "the lease held all the time");

    // A frozen service can still be killed.
    service.stop(Duration::ZERO).await.expect("SIGKILL works");
    let busy = handle.clone().end().await;
    assert!(matches!(busy, Err(GuardError::Refused { cause: Refusal::Busy, .. })));
    handle.forget("svc").await.expect("it answers");
    assert!(matches!(handle.thaw("svc").await, Err(GuardError::Refused { cause: Refusal::Unknown, .. })));
    handle.end().await.expect("nothing is registered");
}

#[tokio::test]
async fn a_session_is_frozen_at_the_end_of_the_lease_and_thawed_on_order() {
    life_of_a_service(None).await;
}

#[tokio::test]
async fn a_cgroup_is_frozen_at_the_end_of_the_lease_and_thawed_on_order() {
    let cgroups =
        Cgroups::detect(&format!("tandem-guard-test-{}", std::process::id())).expect("cgroup v2 is writable for root");
    life_of_a_service(Some(cgroups.clone())).await;
    cgroups.remove();
}

/// The guard knows a service with a cgroup before it runs, so there is no moment in which nobody would freeze it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_starts_after_the_lease_waits_until_it_is_thawed() {
    let name = format!("tandem-guard-test-early-{}", std::process::id());
    let cgroups = Cgroups::detect(&name).expect("cgroup v2 is writable for root");
    let scratch = Scratch::new();
    let directory = scratch.path().to_owned();
    let handle = GuardHandle::start(spec(&directory)).await.expect("the guard starts");
    let processes = ServiceProcesses::new(directory.join("services"), Some(cgroups.clone())).expect("it is writable");
    let confinement = processes.confine("svc").expect("it is writable").expect("there are cgroups");
    let Confinement::Cgroup { path: group } = confinement.clone() else { panic!("{confinement:?}") };
    handle.register("svc", &confinement).await.expect("there is room");
    let starts = tokio::spawn(async move { start(&directory, Some(cgroups)).await });
    poll("it enters its group", || {
        fs::read_to_string(group.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
    })
    .await;
    poll("it is frozen there", || {
        fs::read_to_string(group.join("cgroup.events")).is_ok_and(|events| events.contains("frozen 1"))
    })
    .await;
    assert!(!starts.is_finished() && !scratch.path().join("child").exists(), "it ran without a lease");
    handle.extend(now() + Duration::from_secs(60)).await.expect("the guard answers while the start waits");
    handle.thaw("svc").await.expect("the lease holds");
    let service = starts.await.expect("it starts");
    assert_eq!(service.confinement(), &confinement);
    service.stop(Duration::ZERO).await.expect("SIGKILL works");
    handle.forget("svc").await.expect("it answers");
    handle.end().await.expect("nothing is registered");
    Cgroups::detect(&name).expect("it is still there").remove();
}

/// Ends the agent also when an assertion fails.
struct Agent(Child);

impl Agent {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.id() as i32).expect("it is not zero"), signal).expect("it lives");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_guard_needs_no_agent() {
    let scratch = Scratch::new();
    let directory = scratch.path();
    let argv = this_binary("agent_process");
    let mut agent = Command::new(&argv[0]);
    agent.args(&argv[1..]).env(DIRECTORY, directory).stdout(Stdio::piped()).stdin(Stdio::null());
    let mut agent = Agent(agent.spawn().expect("this binary runs"));
    let lines = BufReader::new(agent.0.stdout.take().expect("it is piped")).lines();
    let pid = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("READY ")?.parse::<u32>().ok())
        .expect("the agent says so");
    let processes = ServiceProcesses::new(directory.join("services"), None).expect("it is writable");
    let service = processes.adopt("svc").await.expect("the record is whole").expect("it runs");
    assert_eq!(service.pid(), pid);
    let is_frozen = || frozen(directory, service.confinement(), pid);
    let handle = GuardHandle::start(spec(directory)).await.expect("the guard runs");

    // Longer than the lease under a live agent: nothing is frozen.
    let later = now() + Duration::from_millis(2_500);
    poll("the lease is renewed", || {
        assert!(!is_frozen(), "the lease is renewed");
        now() > later
    })
    .await;

    agent.signal(Signal::STOP);
    poll("the agent is stopped", || state(agent.0.id()) == Some('T')).await;
    let deadline = handle.status().await.expect("it answers").deadline;
    poll("frozen without an agent", || {
        let frozen = is_frozen();
        assert!(!frozen || now() >= deadline, "frozen before the lease was over");
        frozen
    })
    .await;

    // The agent comes back and renews; that alone thaws nothing. Then it dies, and the next one adopts the guard.
    agent.signal(Signal::CONT);
    loop {
        if handle.status().await.expect("it answers").deadline > deadline {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(is_frozen());
    drop(agent);
    let status = handle.status().await.expect("the guard outlives the agent");
    assert_eq!(
        status.services.iter().map(|one| (one.service.as_str(), one.frozen)).collect::<Vec<_>>(),
        [("svc", true)]
    );
    handle.extend(now() + Duration::from_secs(60)).await.expect("it is ahead");
    handle.thaw("svc").await.expect("the lease holds");
    poll("thawed by the next agent", || !is_frozen()).await;
    service.stop(Duration::ZERO).await.expect("SIGKILL works");
    handle.forget("svc").await.expect("it answers");
    handle.end().await.expect("nothing is registered");
}

#[tokio::test]
async fn garbage_and_strangers_do_no_harm() {
    let scratch = Scratch::new();
    let directory = scratch.path();
    let handle = GuardHandle::start(spec(directory)).await.expect("the guard starts");
    let socket = directory.join("guard.sock");
    for garbage in [&[0xff; 600][..], &[3, 0, 0xff, 0xff, 0xff], &[0, 0], &[200, 0, 1], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stranger = std::os::unix::net::UnixStream::connect(&socket).expect("it listens");
        stranger.write_all(garbage).expect("it reads");
        drop(stranger);
        handle.status().await.expect("it goes on");
    }
    let gone = Confinement::Cgroup { path: "/no/such/cgroup".into() };
    assert!(matches!(handle.register("svc", &gone).await, Err(GuardError::Refused { cause: Refusal::Cgroup, .. })));
    let long = "x".repeat(65);
    let session = Confinement::Session { leader: u32::MAX / 2, start_time: 0 };
    assert!(matches!(
        handle.register(&long, &session).await,
        Err(GuardError::Refused { cause: Refusal::Malformed, .. })
    ));
    assert!(handle.status().await.expect("it answers").services.is_empty());
    // A second guard on the same socket leaves the first in charge.
    let argv = spec(directory).argv;
    let second = Command::new(&argv[0]).args(&argv[1..]).stdout(Stdio::null()).status().expect("this binary runs");
    assert!(second.success());
    handle.status().await.expect("the first one answers");
    handle.end().await.expect("nothing is registered");
}
