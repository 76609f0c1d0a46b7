//! One machine: its clock, its disk, its agent, its volume server.

use std::collections::BTreeMap;

use tandem_base::{Epoch, Instant, OpenId, RunId};
use tandem_volume::{DiskOp, Replica};

use crate::{agent::Agent, clock::Clock, disk::Disk, queue::Time, world::Event};

/// The volume server of a node while it runs.
pub(crate) struct Server {
    /// Which run of the process; events for an earlier one are void.
    pub run: u64,
    pub replica: Replica,
    pub open: OpenId,
    /// The runs before, once it says that it is opened.
    pub opened: Option<Vec<OpenId>>,
    /// The promotion whose attachments may be made.
    pub serving: Option<Epoch>,
    /// Until when it may answer, on the node's clock.
    pub lease: Instant,
    /// Operations under way.
    pub disk_ops: BTreeMap<u64, DiskOp>,
    /// The earliest timer that is set.
    pub timer: Time,
    /// The disk refused something in this run.
    pub failed: bool,
    /// Arrival of the newest message on the socket to the agent, and from it.
    pub to_agent: Time,
    pub from_agent: Time,
}

/// One machine.
pub(crate) struct Node {
    pub name: tandem_base::NodeName,
    pub clock: Clock,
    /// Powered.
    pub up: bool,
    /// Stopped (SIGSTOP of everything, or a paused guest).
    pub paused: bool,
    /// What happened to it while it was stopped.
    pub deferred: Vec<Event>,
    /// This boot.
    pub boot: RunId,
    pub agent: Agent,
    pub server: Option<Server>,
    pub disk: Option<Disk>,
    /// Raised at every start of any process here.
    pub runs: u64,
    pub disk_fault: DiskFault,
    /// Its disk refused something, or was exchanged, since its replica was last in sync: what it held is gone.
    pub spoiled: bool,
    /// The last lease that the node was granted, on its own clock, for the guard.
    pub lease: Instant,
    /// The service's processes exist here.
    pub service: bool,
    /// They are not frozen.
    pub thawed: bool,
    /// The placement that the service was last started for, as the agent wrote it down for its successor.
    pub placed: Option<u64>,
    /// Steps of the service that are being started or stopped, each with the attempt that counts.
    pub steps: BTreeMap<tandem_cluster::service::Step, u64>,
    /// The attachment and its workload.
    pub attachment: Option<u64>,
}

/// How the disk behaves at present: of 1,000 operations each.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DiskFault {
    pub write_errors: u64,
    pub sync_errors: u64,
    pub read_errors: u64,
    pub no_space: u64,
    /// Longest extra time of an operation.
    pub slow: Time,
}
