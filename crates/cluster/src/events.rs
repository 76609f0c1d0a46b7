//! The journal of the cluster: what happened and why, the newest last.

use alloc::{collections::VecDeque, string::String};
use serde::{Deserialize, Serialize};
use tandem_base::{GroupName, NodeName, ServiceName};

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// The cluster as a whole.
    Cluster,
    /// A node.
    Node(NodeName),
    /// A group of volumes, and the replica that changed.
    Group(GroupName, Option<NodeName>),
    /// A service, and the node it runs on, comes to or leaves.
    Service(ServiceName, Option<NodeName>),
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The entry of the log that made it happen; several events may share one.
    pub index: u64,
    /// That entry's time, UTC in milliseconds since 1970.
    pub at_ms: u64,
    /// What it is about.
    pub subject: Subject,
    /// What happened, as `failover to h1`.
    pub what: String,
    /// The cause, as `session of r1 expired`.
    pub why: String,
}

/// The newest [`Events::MAX`] events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Events(VecDeque<Event>);

impl Events {
    /// How many are kept.
    pub const MAX: usize = 2_000;

    pub(crate) fn push(&mut self, event: Event) {
        if self.0.len() == Self::MAX {
            self.0.pop_front();
        }
        self.0.push_back(event);
    }

    /// From the oldest kept to the newest.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Event> + ExactSizeIterator {
        self.0.iter()
    }

    /// Those of entries after `index`, oldest first.
    pub fn after(&self, index: u64) -> impl Iterator<Item = &Event> {
        self.0.range(self.0.partition_point(|event| event.index <= index)..)
    }
}
