//! One machine: the real binary with directories of its own. Everything it started ends with it.

#![allow(dead_code, reason = "every test file uses its part of it")]

pub(crate) mod cluster;
pub(crate) mod lab;
pub(crate) mod nbd;
pub(crate) mod tls;

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// The binary under test.
pub(crate) fn tandem() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tandem"))
}

/// Puts this thread, and what it starts from here on, into a network namespace with `addresses` on its loopback. Needs
/// root; the namespace ends with the last process in it.
pub(crate) fn own_network(addresses: &[&str]) {
    // SAFETY: no other thread relies on this thread's network namespace.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.expect("the tests run as root");
    let ip = |arguments: &[&str]| {
        let status = Command::new("ip").args(arguments).status().expect("iproute2 is installed");
        assert!(status.success(), "ip {arguments:?}");
    };
    ip(&["link", "set", "lo", "up"]);
    for address in addresses {
        ip(&["address", "add", address, "dev", "lo"]);
    }
}

/// Gives this thread, and what it starts from here on, mounts of its own: they end with the last process that sees them.
pub(crate) fn own_mounts() {
    // SAFETY: no other thread relies on this thread's mounts.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.expect("the tests run as root");
    run_tool("mount", &["--make-rprivate", "/"]);
}

/// Runs a tool that must work.
#[track_caller]
pub(crate) fn run_tool(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("it is installed");
    assert!(output.status.success(), "{program} {arguments:?}: {}", said(&output));
}

/// What a command printed, both streams.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn read_back(mut file: File) -> String {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).expect("it was written");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Looks until `done`, for at most a minute.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub(crate) struct Machine {
    pub(crate) name: String,
    folder: PathBuf,
    agent: Option<Child>,
}

impl Machine {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        Self { name: name.into(), folder: folder.join(name), agent: None }
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tandem();
        command
            .args(arguments)
            .env("TANDEM_DATA_DIR", self.data_dir())
            .env("TANDEM_RUN_DIR", self.folder.join("run"))
            .env("TANDEM_CONFIG_DIR", self.folder.join("etc"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command that ends by itself; one that does not within a minute fails the test instead of holding it.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let file = || tempfile::tempfile().expect("a temporary file");
        let (stdout, stderr) = (file(), file());
        // Files: what the command starts may hold a pipe open after its end.
        let both = |file: &File| file.try_clone().expect("it is open");
        let mut child =
            self.command(arguments).stdout(both(&stdout)).stderr(both(&stderr)).spawn().expect("the binary runs");
        let deadline = Instant::now() + Duration::from_secs(60);
        let status = loop {
            if let Some(status) = child.try_wait().expect("it is our child") {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{arguments:?} did not end within a minute: {}", read_back(stderr));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Output { status, stdout: read_back(stdout).into_bytes(), stderr: read_back(stderr).into_bytes() }
    }

    pub(crate) fn start_agent(&mut self) {
        self.start_agent_with(&["agent"]);
    }

    /// An agent whose disks may be made to fail.
    pub(crate) fn start_lab_agent(&mut self) {
        self.start_agent_with(&["agent", "--lab"]);
    }

    fn start_agent_with(&mut self, arguments: &[&str]) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log"));
        let log = log.expect("the folder is ours");
        self.agent = Some(self.command(arguments).stderr(log).spawn().expect("the binary runs"));
    }

    pub(crate) fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().expect("it is our child");
            agent.wait().expect("it is our child");
        }
    }

    pub(crate) fn status(&self) -> Option<serde_json::Value> {
        let output = self.run(&["status", "--json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("status prints JSON"))
    }

    /// What `tandem` prints for these arguments, which must work.
    #[track_caller]
    pub(crate) fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        said(&output)
    }

    /// What this machine's agent wrote into its journal.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(crate) fn is_well(&self) -> bool {
        self.status().is_some_and(|status| status["degraded"].as_array().is_some_and(Vec::is_empty))
    }
}

impl Machine {
    /// The process of its volume server.
    pub(crate) fn volume_server(&self) -> rustix::process::Pid {
        let ours = format!("volume-server\0{}/", self.folder.display());
        let found = std::fs::read_dir("/proc").into_iter().flatten().flatten().find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let command = std::fs::read(entry.path().join("cmdline")).ok()?;
            String::from_utf8_lossy(&command).contains(&ours).then_some(pid)
        });
        found.and_then(rustix::process::Pid::from_raw).expect("it runs")
    }

    /// Ends everything that runs here, at once.
    pub(crate) fn power_off(&mut self) {
        self.kill_agent();
        // Volume servers and the guard outlive an agent by design; theirs are the processes that name our folder.
        let ours = format!("{}/", self.folder.display());
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let Some(pid) = rustix::process::Pid::from_raw(pid) else { continue };
            if pid != rustix::process::getpid() && String::from_utf8_lossy(&command).contains(&ours) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                while rustix::process::test_kill_process(pid).is_ok() && !is_zombie(pid) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }
}

/// Whether only the process's number is left, for its parent to read.
fn is_zombie(pid: rustix::process::Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_off();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("the last lines of {}:\n{}", self.name, lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}
