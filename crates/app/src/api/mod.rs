//! What the command line asks of the agent: one JSON line each way over `/run/tandem/agent.sock`.
//!
//! The objects of [`Status`], [`EventLine`] and [`VolumeLine`] are what `--json` prints: `docs/json.md` documents them.

mod client;

pub(crate) use client::{AgentError, ask};
use serde::{Deserialize, Serialize};

/// A question or an order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(crate) enum Ask {
    Status,
    Events { service: Option<String>, since_ms: Option<u64> },
    Explain { service: String },
    Move { service: String, to: String },
    Volumes,
    InjectDiskFault { group: String, errno: i32 },
}

/// The agent's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(crate) enum Answer {
    Status(Box<Status>),
    Events { events: Vec<EventLine> },
    Explain { lines: Vec<String> },
    Volumes { volumes: Vec<VolumeLine> },
    Done { what: String },
    Refused { why: String, hint: Option<String> },
}

/// The cluster as this node sees it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The cluster's id, 32 hexadecimal digits.
    pub(crate) cluster: String,
    /// The plan's name.
    pub(crate) plan: String,
    /// The node that answers.
    pub(crate) node: String,
    /// The node that leads the log, if this node knows one.
    pub(crate) leader: Option<String>,
    /// Milliseconds that this node's lease still holds; absent without a lease.
    pub(crate) lease_ms: Option<u64>,
    /// Every node of the plan.
    pub(crate) nodes: Vec<NodeLine>,
    /// Every group of volumes.
    pub(crate) groups: Vec<GroupLine>,
    /// Every service.
    pub(crate) services: Vec<ServiceLine>,
    /// What is degraded and why, a sentence each; empty when all is well.
    pub(crate) degraded: Vec<String>,
}

/// A node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeLine {
    pub(crate) name: String,
    pub(crate) site: Option<String>,
    pub(crate) address: String,
    pub(crate) witness: bool,
    /// Whether it has joined the cluster.
    pub(crate) admitted: bool,
    /// Whether its session is live.
    pub(crate) live: bool,
    /// Why the answering node does not reach it; absent while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<String>,
}

/// A group of volumes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GroupLine {
    pub(crate) name: String,
    /// The epoch's number.
    pub(crate) epoch: u64,
    pub(crate) primary: Option<String>,
    pub(crate) in_sync: Vec<String>,
    pub(crate) replicas: Vec<String>,
}

/// A service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ServiceLine {
    pub(crate) name: String,
    /// Where it runs or is about to.
    pub(crate) node: Option<String>,
    /// `waiting`, `starting`, `running`, `stopping` or `failed`.
    pub(crate) phase: String,
    /// One line with the cause.
    pub(crate) why: String,
    pub(crate) address: Option<String>,
}

/// A line of the cluster's journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EventLine {
    /// UTC, milliseconds since 1970, on the clock of the node that reported it.
    pub(crate) at_ms: u64,
    /// The node that reported it.
    pub(crate) node: String,
    pub(crate) what: String,
    pub(crate) why: String,
    pub(crate) service: Option<String>,
    pub(crate) group: Option<String>,
}

/// This node's replica of a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VolumeLine {
    pub(crate) group: String,
    /// What the volume server says of itself; absent while it does not answer.
    pub(crate) replica: Option<serde_json::Value>,
    /// The NBD socket.
    pub(crate) nbd: String,
    /// Why the volume server refuses to run, if it does.
    pub(crate) refused: Option<String>,
}
