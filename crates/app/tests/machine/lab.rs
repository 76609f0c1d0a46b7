//! A lab by the command line, in a directory of its own; it ends with the test, however that ends.

use super::{run_tool, said, tandem, wait_for};
use std::{
    io::{BufRead, BufReader, Lines, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
};
use tempfile::TempDir;

pub(crate) struct Lab {
    name: &'static str,
    base: TempDir,
}

impl Lab {
    /// Nothing yet; unix sockets want a short path.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, base: tempfile::Builder::new().prefix("lab").tempdir_in("/tmp").expect("a directory") }
    }

    /// `tandem lab VERB --name NAME ...` in this directory.
    pub(crate) fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = tandem();
        command.args(["lab", verb, "--name", self.name]).args(arguments).env("TANDEM_LAB_DIR", self.base.path());
        command
    }

    pub(crate) fn run(&self, verb: &str, arguments: &[&str]) -> Output {
        self.command(verb, arguments).output().expect("the binary runs")
    }

    pub(crate) fn up(&self, plan: &Path) -> Output {
        self.run("up", &[plan.to_str().expect("the path is text")])
    }

    #[track_caller]
    pub(crate) fn says(&self, node: &str, arguments: &[&str]) -> String {
        let output = self.run("exec", &[&[node, "tandem"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        said(&output)
    }

    #[track_caller]
    pub(crate) fn wait_well(&self, node: &str) {
        wait_for("all is well in the lab", || {
            said(&self.run("exec", &[node, "tandem", "status"])).contains("all well")
        });
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.base.path().to_path_buf()
    }
}

/// A client outside the sites that appends records to the ledger of [`duo`], and remembers what was acknowledged.
pub(crate) struct Writer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    pub(crate) acknowledged: Vec<u64>,
}

impl Writer {
    /// Waits until so many more were acknowledged.
    pub(crate) fn more(&mut self, count: usize) {
        let enough = self.acknowledged.len() + count;
        while self.acknowledged.len() < enough {
            let line = self.lines.next().expect("the client goes on").expect("it prints text");
            let line: serde_json::Value = serde_json::from_str(&line).expect("it prints JSON");
            if line["event"] == "acked" {
                self.acknowledged.push(line["number"].as_u64().expect("a number"));
            }
        }
    }

    /// Ends it in order; returns what was acknowledged and seen.
    pub(crate) fn stop(mut self) -> Vec<u64> {
        self.child.stdin.take().expect("it is piped").write_all(b"stop\n").expect("it listens");
        assert!(self.child.wait().expect("it is our child").success());
        self.acknowledged
    }
}

impl Lab {
    /// `tandem rehearse-client ...`, outside the sites, for the ledger.
    pub(crate) fn client(&self, more: &[&str]) -> Command {
        let target = ["outside", "tandem", "rehearse-client", "--kind", "ledger", "--target", "10.9.0.10:7000"];
        let mut command = self.command("exec", &[&target, more].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    pub(crate) fn writer(&self) -> Writer {
        let mut child = self.client(&[]).spawn().expect("the binary runs");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Writer { child, lines, acknowledged: Vec::new() }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let down = self.run("down", &[]);
        if !down.status.success() && !said(&down).contains("no lab named") {
            eprintln!("{}", said(&down));
        }
    }
}

/// The example with a service that writes records.
pub(crate) fn duo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/duo")
}

/// A mount that ends with its value, so that the folder below it can be removed.
pub(crate) struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Lets every user open what a lab needs, in this thread's own mounts.
pub(crate) fn open_devices(folder: &Path) -> Mounted {
    let mounted = Mounted(folder.into());
    let folder = folder.to_str().expect("the path is text");
    run_tool("mount", &["-t", "tmpfs", "tandem-test", folder]);
    for (name, numbers, device) in [("tun", ["10", "200"], "/dev/net/tun"), ("fuse", ["10", "229"], "/dev/fuse")] {
        let node = format!("{folder}/{name}");
        run_tool("mknod", &["-m", "666", &node, "c", numbers[0], numbers[1]]);
        run_tool("mount", &["--bind", &node, device]);
    }
    mounted
}
