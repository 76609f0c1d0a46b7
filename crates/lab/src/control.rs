//! What is said on a lab's control socket: one JSON object per line, an answer to each.

use serde::{Deserialize, Serialize};

use crate::{Topology, shaper::QualityChange};

/// Asked of the supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// How are the hosts?
    Status,
    /// End everything.
    Down,
    /// Cut a node's power: its network first, as a dead machine says no goodbye, then every process.
    Kill { node: String },
    /// Bring a killed node back, with its disk.
    Start { node: String },
    /// Stop every process of a node.
    Freeze { node: String },
    /// Let them go on.
    Resume { node: String },
    /// Let nothing pass from `from` to `to`; with `both`, nor back. Without `to`: to and from everything else.
    Cut { from: String, to: Option<String>, both: bool },
    /// Undo cuts: all of them, those of `from`, or those between the two.
    Heal { from: Option<String>, to: Option<String> },
    /// Change how the way between two places carries, in both directions.
    Slow { from: String, to: String, change: QualityChange },
}

/// Answered by the supervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// Done.
    Done,
    /// To [`Request::Status`].
    Status(Status),
    /// Not done, and why.
    Refused(String),
}

/// A lab as it is now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub topology: Topology,
    /// Its hosts, in the topology's order.
    pub hosts: Vec<HostStatus>,
    /// Directed pairs of hosts between which nothing passes, by a cut.
    pub cuts: Vec<(String, String)>,
    /// Frames that the switch carried, lost by a link's loss, dropped from full queues, and refused by cuts.
    pub frames: Frames,
}

/// What the switch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// Handed to their receiver.
    pub delivered: u64,
    /// Lost by a link's loss.
    pub lost: u64,
    /// Dropped because a link's queue was full.
    pub overflowed: u64,
    /// Refused because of a cut.
    pub cut: u64,
}

/// One host as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// The host's name.
    pub name: String,
    /// Its place.
    pub place: String,
    /// What it does.
    pub state: HostState,
    /// Process id of its first process, seen from this machine.
    pub pid: Option<i32>,
}

/// What a host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostState {
    /// It runs.
    Up,
    /// Every process is stopped.
    Frozen,
    /// It was killed, or died.
    Down,
}
