//! Two machines with a volume and a witness, up and well, in a network and with mounts of their own.

use super::{Machine, nbd::Nbd, own_mounts, own_network, said, wait_for};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The volume `disk` has this many bytes.
pub(crate) const SIZE: u64 = 8 << 20;

pub(crate) const PLAN: &str = r#"
plan = { name = "pair" }

[site]
left = {}
right = {}

[node]
a1 = { site = "left", address = "10.77.1.1" }
b1 = { site = "right", address = "10.77.1.2" }
w1 = { witness = true, address = "10.77.1.3" }

[link]
wire = { between = ["left", "right"], latency = "1 ms" }

[volume.disk]
size = "8 MiB"
replicas = ["a1", "b1"]
attach = "nbd"

[service.disk]
volume = "disk"
prefer = "left"
"#;

pub(crate) struct Cluster {
    pub(crate) a1: Machine,
    pub(crate) b1: Machine,
    pub(crate) w1: Machine,
    pub(crate) token: String,
    pub(crate) folder: TempDir,
}

impl Cluster {
    /// Forms the cluster; `before` may prepare the machines' directories. a1 serves.
    pub(crate) fn up(before: impl FnOnce(&Path)) -> Self {
        own_mounts();
        own_network(&["10.77.1.1/24", "10.77.1.2/24", "10.77.1.3/24"]);
        let folder = tempfile::Builder::new().prefix("bad").tempdir().expect("a temporary directory");
        before(folder.path());
        let plan = folder.path().join("plan.toml");
        std::fs::write(&plan, PLAN).expect("the folder is ours");
        let machine = |name| Machine::new(folder.path(), name);
        let (mut a1, mut b1, mut w1) = (machine("a1"), machine("b1"), machine("w1"));
        let init = a1.run(&["init", "--node", "a1", "--plan", plan.to_str().expect("the path is text")]);
        assert!(init.status.success(), "{}", said(&init));
        let token = String::from_utf8(init.stdout).expect("a token is text").trim().to_owned();
        a1.start_lab_agent();
        for (machine, address) in [(&mut b1, "10.77.1.2"), (&mut w1, "10.77.1.3")] {
            let name = machine.name.clone();
            wait_for("the founder lets it join", || {
                machine.run(&["join", "--node", &name, "--token", &token, "--address", address]).status.success()
            });
            machine.start_lab_agent();
        }
        let cluster = Self { a1, b1, w1, token, folder };
        cluster.wait_well();
        cluster
    }

    /// Waits until everybody says so, and both replicas are in sync as they run now: right after a machine came back the
    /// register may still name the run before.
    pub(crate) fn wait_well(&self) {
        wait_for("all is well everywhere", || {
            [&self.a1, &self.b1].iter().all(|machine| machine.replica_in_sync())
                && [&self.a1, &self.b1, &self.w1].iter().all(|machine| machine.is_well())
        });
    }

    /// Waits until `words` are in what `machine` says of the cluster.
    #[track_caller]
    pub(crate) fn wait_status(&self, machine: &Machine, words: &str) {
        wait_for(words, || said(&machine.run(&["status"])).contains(words));
    }

    /// Waits until the service runs on `node`, in sync everywhere or not.
    #[track_caller]
    pub(crate) fn wait_served_on(&self, node: &str) {
        let asked = if node == "a1" { &self.a1 } else { &self.b1 };
        wait_for("the service runs there", || {
            asked.status().is_some_and(|status| {
                status["services"][0]["node"] == node && status["services"][0]["phase"] == "running"
            })
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What a test mounted there keeps the folder from being removed.
        for machine in [&self.a1, &self.b1, &self.w1] {
            let _ = rustix::mount::unmount(machine.data_dir().join("volumes"), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

impl Machine {
    /// Where this machine's replica lies.
    pub(crate) fn replica(&self) -> PathBuf {
        self.data_dir().join("volumes/disk")
    }

    fn replica_in_sync(&self) -> bool {
        let output = self.run(&["volume", "status", "--json"]);
        let Ok(volumes) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else { return false };
        let replica = &volumes[0]["replica"];
        replica["open"].is_u64() && replica["open"] == replica["configuration"]["in_sync"][self.name.as_str()]
    }

    pub(crate) fn nbd_socket(&self) -> PathBuf {
        self.run_dir().join("volumes/disk/nbd.sock")
    }

    /// An initiator of the volume, once this machine serves it.
    pub(crate) fn initiator(&self) -> Nbd {
        Nbd::connect_when_served(&self.nbd_socket(), "disk")
    }
}
