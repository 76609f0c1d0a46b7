//! One scenario's lab with its clients: what a scenario's script can do and wait for.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};
use tandem_base::NodeName;
use tandem_plan::Plan;

use crate::{
    Lab, LabError, Options, Topology,
    rehearsal::{
        Event,
        client::{Client, Target},
        load::Load,
        measure::Ack,
        observer,
        progress::Progress,
        view,
    },
};

/// How long a cluster may take until every service runs and every replica is in sync, beside comparing all their bytes.
const WHOLE_WITHIN: Duration = Duration::from_secs(120);
/// Bytes that a machine that is busy with a whole lab compares in a second at least.
const COMPARED_PER_SECOND: u64 = 10 << 20;
/// How long a service may take to come back before the scenario is given up.
const STEADY_WITHIN: Duration = Duration::from_secs(45);
/// For this long writes must be acknowledged again without a gap before a service counts as back.
const STEADY_FOR: Duration = Duration::from_millis(1_500);
/// The longest gap in a steady stream of acknowledgements.
const STEADY_GAP: Duration = Duration::from_millis(700);

/// A lab in which a scenario is played.
pub(crate) struct Stage<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) lab: Lab,
    binary: String,
    directory: PathBuf,
    progress: &'a Progress,
    clients: Vec<Client>,
    loads: Vec<Load>,
    /// When the clients started, on the wall clock and since boot.
    began: (u64, u64),
    /// When the first fault was played.
    fault_ns: Option<u64>,
    events: Vec<Event>,
    pub(crate) failures: Vec<String>,
}

/// What the clients of a scenario have seen.
pub(crate) struct Seen {
    pub(crate) acks: Vec<(Target, Vec<Ack>)>,
    pub(crate) fault_ns: u64,
    pub(crate) end_ns: u64,
}

impl<'a> Stage<'a> {
    /// Builds the lab; the cluster is not whole yet.
    pub(crate) fn build(
        plan: &'a Plan,
        plan_path: &Path,
        binary: &Path,
        progress: &'a Progress,
    ) -> Result<Self, LabError> {
        let mut topology = Topology::of_plan(plan);
        observer::add_host(&mut topology);
        let mut options = Options::new(&format!("rehearse-{}", std::process::id()), binary.into());
        options.tied = true;
        let lab = Lab::up(&topology, plan_path, &options, &mut |step| progress.step(step))?;
        let directory = lab.log("rehearsal").parent().map(Path::to_path_buf).unwrap_or_default();
        std::fs::create_dir_all(&directory)
            .map_err(|cause| LabError::System { doing: format!("make {}", directory.display()), cause })?;
        Ok(Self {
            plan,
            lab,
            binary: crate::root::BINARY.into(),
            directory,
            progress,
            clients: Vec::new(),
            loads: Vec::new(),
            began: (wall_ms(), boot_ns()),
            fault_ns: None,
            events: Vec::new(),
            failures: Vec::new(),
        })
    }

    pub(crate) fn step(&self, step: &str) {
        self.progress.step(step);
    }

    /// Waits until every node is live, every service runs and every replica is in sync.
    pub(crate) fn wait_whole(&mut self) -> Result<(), LabError> {
        self.step("waits until every service runs and every replica is in sync");
        let bytes: u64 = self.plan.volumes.values().map(|volume| volume.size.as_u64()).sum();
        let within = WHOLE_WITHIN + Duration::from_secs(bytes / COMPARED_PER_SECOND);
        let deadline = Instant::now() + within;
        loop {
            let why = match view::status(&self.lab) {
                Ok(status) => {
                    let missing = status.missing(self.plan);
                    if missing.is_empty() {
                        return Ok(());
                    }
                    missing.into_iter().chain(status.degraded).collect::<Vec<_>>().join("; ")
                }
                Err(error) => error.to_string(),
            };
            if Instant::now() > deadline {
                return Err(LabError::Refused(format!("the cluster is not whole after {} s: {why}", within.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Starts a client for each target, and waits until all of them are acknowledged steadily.
    pub(crate) fn start_clients(&mut self, targets: &[Target]) -> Result<(), LabError> {
        for target in targets {
            self.step("fills tables and starts the load");
            let serving = self.serving(target)?;
            if let Some(load) = Load::start(&self.lab, target, serving.as_str(), &self.directory.join("pgbench.log"))? {
                self.loads.push(load);
            }
        }
        self.step("the clients start");
        self.began = (wall_ms(), boot_ns());
        for target in targets {
            let log = self.directory.join(format!("{}.log", target.service));
            self.clients.push(Client::start(&self.lab, &self.binary, target, &log)?);
        }
        self.wait_steady(Duration::ZERO).map_err(|why| LabError::Refused(format!("before any fault: {why}")))
    }

    /// Where the service of `target` runs.
    pub(crate) fn serving(&self, target: &Target) -> Result<NodeName, LabError> {
        let status = view::status(&self.lab)?;
        let service = &target.service;
        let seen = status.services.iter().find(|seen| seen.name == service.as_str());
        let node = seen.and_then(|seen| seen.node.as_deref()).and_then(|name| NodeName::new(name).ok());
        node.ok_or_else(|| LabError::Refused(format!("nobody says where service {service} runs")))
    }

    /// Notes that the rehearsal itself does something now; the first time also marks the beginning of the fault.
    pub(crate) fn act(&mut self, what: &str, why: &str) {
        self.fault_ns.get_or_insert_with(boot_ns);
        self.step(what);
        self.note(what, why);
    }

    /// Notes something of the rehearsal itself in the timeline.
    pub(crate) fn note(&mut self, what: &str, why: &str) {
        let at_ms = i64::try_from(wall_ms()).unwrap_or(i64::MAX) - i64::try_from(self.began.0).unwrap_or(0);
        self.events.push(Event { at_ms, node: "lab".into(), what: what.into(), why: why.into() });
    }

    /// Waits `settle`, then until every client is acknowledged steadily again.
    pub(crate) fn wait_steady(&self, settle: Duration) -> Result<(), String> {
        let begun = Instant::now();
        std::thread::sleep(settle);
        loop {
            let now = boot_ns();
            let since = now.saturating_sub(u64::try_from(STEADY_FOR.as_nanos()).unwrap_or(0));
            let waiting: Vec<&Client> =
                self.clients.iter().filter(|client| !client.steady(since, now, 3, STEADY_GAP)).collect();
            if waiting.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > settle + STEADY_WITHIN {
                let why = |client: &&Client| {
                    let error = client.error().unwrap_or_else(|| "too slow".into());
                    format!("service {} acknowledges no steady writes: {error}", client.target().service)
                };
                return Err(waiting.iter().map(why).collect::<Vec<_>>().join("; "));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for recovery; a service that does not come back is a failure of the scenario.
    pub(crate) fn wait_recovery(&mut self, settle: Duration) -> bool {
        self.step("waits until the clients' writes are acknowledged again");
        match self.wait_steady(settle) {
            Ok(()) => {
                self.note("the clients' writes are acknowledged again", "steadily, for 1.5 s");
                true
            }
            Err(why) => {
                let degraded = view::status(&self.lab).map(|status| status.degraded).unwrap_or_default();
                self.failures.push([vec![why], degraded].concat().join("; "));
                false
            }
        }
    }

    /// Stops the clients.
    pub(crate) fn stop_clients(&mut self) -> Result<Seen, LabError> {
        self.step("the clients stop");
        let end_ns = boot_ns();
        self.loads.clear();
        let mut acks = Vec::new();
        for client in self.clients.drain(..) {
            let target = client.target().clone();
            let (seen, lost) = client.stop()?;
            if let Some(lost) = lost {
                self.failures.push(format!("service {}: {lost}", target.service));
            }
            acks.push((target, seen));
        }
        Ok(Seen { acks, fault_ns: self.fault_ns.unwrap_or(end_ns), end_ns })
    }

    /// The binary, as hosts see it.
    pub(crate) fn binary(&self) -> &str {
        &self.binary
    }

    /// The rehearsal's own actions and the cluster's journal since the clients started, by time.
    pub(crate) fn timeline(&mut self) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.events);
        let began = i64::try_from(self.began.0).unwrap_or(i64::MAX);
        match view::events(&self.lab) {
            Ok(lines) => events.extend(lines.into_iter().map(|line| Event {
                at_ms: i64::try_from(line.at_ms).unwrap_or(i64::MAX) - began,
                node: line.node,
                what: line.what,
                why: line.why,
            })),
            Err(error) => self.failures.push(format!("the journal could not be read: {error}")),
        }
        events.retain(|event| event.at_ms >= 0);
        events.sort_by_key(|event| event.at_ms);
        events
    }

    /// Ends the lab; with failures, its directory's logs are copied to `keep`.
    pub(crate) fn end(self, keep: Option<&Path>) -> Result<(), LabError> {
        drop(self.clients);
        drop(self.loads);
        if let Some(keep) = keep {
            for host in self.lab.status()?.hosts {
                let _ = std::fs::create_dir_all(keep);
                let _ = std::fs::copy(self.lab.log(&host.name), keep.join(format!("{}.log", host.name)));
            }
        }
        self.lab.down()
    }
}

fn boot_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
