//! The synchronous write path over NBD: a Tandem volume with two replicas beside nbdkit's file plugin.
//!
//! Both serve a unix socket from the same disk, to the same fio, in turn. Tandem runs in the lab on two nodes without
//! added latency, so that what is compared is the work done, not a wire; nbdkit writes one copy and crosses no link.

use super::{Row, fio, median};
use crate::packages;
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
    /// Seconds for each run of each job.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Runs of each job on each side, in turn; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// The plan that is measured: two replicas, no added latency, attached as an NBD socket.
const PLAN: &str = "xtask/bench/volume.toml";

/// Runs the benchmark and prints its table.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    packages::ensure(packages::BENCH)?;
    let built = Command::new("cargo").args(["build", "--quiet", "--release", "--package", "tandem"]).status();
    if !built.is_ok_and(|status| status.success()) {
        return Err("the release build failed".into());
    }
    let tandem = std::env::current_dir().map_err(|e| e.to_string())?.join("target/release/tandem");
    let lab = Lab::up(&tandem)?;
    let nbdkit = Nbdkit::start()?;
    let mut rows = Vec::new();
    for job in fio::JOBS {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..options.rounds {
            eprintln!("{} round {} of {}", job.name, round + 1, options.rounds);
            theirs.push(fio::run(&[], job, &nbdkit.uri(), options.seconds)?);
            ours.push(fio::run(&lab.prefix(), job, &lab.uri, options.seconds)?);
        }
        let (tandem, other) = (median(ours), median(theirs));
        rows.push(Row {
            job: job.name.into(),
            peer: "nbdkit-file",
            metric: job.metric,
            tandem,
            other,
            ratio: tandem / other,
        });
    }
    if options.json {
        println!("{}", serde_json::json!({ "rows": rows }));
    } else {
        println!("{:<18} {:<12} {:>6} {:>12} {:>12} {:>7}", "job", "peer", "", "tandem", "other", "ratio");
        for row in &rows {
            println!(
                "{:<18} {:<12} {:>6} {:>12.0} {:>12.0} {:>7.2}",
                row.job, row.peer, row.metric, row.tandem, row.other, row.ratio
            );
        }
    }
    Ok(())
}

/// A lab that goes down with this value.
struct Lab<'a> {
    tandem: &'a Path,
    node: String,
    uri: String,
}

impl<'a> Lab<'a> {
    fn up(tandem: &'a Path) -> Result<Self, String> {
        let up = Command::new(tandem).args(["lab", "up", PLAN, "--name", "bench"]).stdout(Stdio::null()).status();
        // From here on it is taken down whatever happens.
        let mut lab = Self { tandem, node: String::new(), uri: String::new() };
        if !up.is_ok_and(|status| status.success()) {
            return Err("`tandem lab up` failed".into());
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while lab.node.is_empty() {
            if Instant::now() > deadline {
                return Err("the benchmark's volume was not served by two replicas within 60 s".into());
            }
            std::thread::sleep(Duration::from_millis(500));
            lab.look();
        }
        Ok(lab)
    }

    /// Reads from the cluster's status who serves the volume, once both replicas are in sync and its service runs.
    fn look(&mut self) {
        let status = Command::new(self.tandem)
            .args(["lab", "exec", "--name", "bench", "n1", "--", "tandem", "status", "--json"])
            .stderr(Stdio::null())
            .output();
        let Ok(output) = status else { return };
        let Ok(status) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else { return };
        let group = &status["groups"][0];
        let running = status["services"][0]["phase"] == "running";
        if let (2, true, Some(node), Some(name)) = (
            group["in_sync"].as_array().map_or(0, Vec::len),
            running,
            group["primary"].as_str(),
            group["name"].as_str(),
        ) {
            self.node = node.into();
            self.uri = format!("nbd+unix:///{name}?socket=/run/tandem/volumes/{name}/nbd.sock");
        }
    }

    fn prefix(&self) -> Vec<String> {
        let tandem = self.tandem.display().to_string();
        [&tandem, "lab", "exec", "--name", "bench", &self.node, "--"].map(String::from).to_vec()
    }
}

impl Drop for Lab<'_> {
    fn drop(&mut self) {
        let _ = Command::new(self.tandem).args(["lab", "down", "--name", "bench"]).stdout(Stdio::null()).status();
    }
}

/// nbdkit's file plugin on a file of the same size on the same disk.
struct Nbdkit {
    child: Child,
    dir: tempfile::TempDir,
}

impl Nbdkit {
    fn start() -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let disk = dir.path().join("disk");
        let file = std::fs::File::create(&disk).map_err(|e| e.to_string())?;
        file.set_len(1 << 30).map_err(|e| e.to_string())?;
        let socket = dir.path().join("nbd.sock");
        let child = Command::new("nbdkit")
            .args(["--foreground", "--unix"])
            .arg(&socket)
            .arg("file")
            .arg(&disk)
            .spawn()
            .map_err(|e| format!("cannot start nbdkit: {e}"))?;
        let this = Self { child, dir };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !socket.exists() {
            if Instant::now() > deadline {
                return Err("nbdkit did not open its socket within 10 s".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(this)
    }

    fn uri(&self) -> String {
        let socket: PathBuf = self.dir.path().join("nbd.sock");
        format!("nbd+unix:///?socket={}", socket.display())
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
