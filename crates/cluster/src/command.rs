//! What the log's entries ask.

use alloc::{boxed::Box, string::String, vec::Vec};
use core::fmt;
use serde::{Deserialize, Serialize};
use tandem_base::{ClusterId, GroupName, NodeName, OpenId, Proposal, RunId, ServiceName, SessionId};

use crate::Topology;

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// UTC of the proposer in milliseconds since 1970, for display only: no rule may depend on it.
    pub at_ms: u64,
    /// Who proposed it.
    pub by: NodeName,
    /// Drawn at random by the proposer, once for each wish, and kept when the wish is sent again: the state remembers the
    /// last [`State::REMEMBERED_IDS`](crate::State::REMEMBERED_IDS) and answers a repetition with the first outcome,
    /// changing nothing. 0 gives up this protection.
    pub id: u64,
    /// What is asked.
    pub command: Command,
}

/// The cluster's own certificate authority, as PEM text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateAuthority {
    /// The certificate that every node verifies its peers against.
    pub cert_pem: String,
    /// The private key: any node that applies the log can admit another one.
    pub key_pem: String,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// A node that becomes part of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Its name in the plan.
    pub node: NodeName,
    /// Where peers reach it: `host:port`.
    pub address: String,
    /// Its name in the consensus, drawn at random for each incarnation of its store: an empty or copied store comes with
    /// a new one, and one that was replaced never comes back.
    pub raft_id: u64,
}

/// What is asked. Each is idempotent, or refused when it comes again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Command {
    /// The cluster begins. The first entry of every log.
    Found {
        /// Drawn at random.
        cluster: ClusterId,
        /// The plan's text.
        plan: String,
        /// What the plan means.
        topology: Box<Topology>,
        /// Made for this cluster.
        ca: CertificateAuthority,
        /// The node on which `tandem init` ran.
        first: Admission,
        /// Digest of the join token; the state only compares it.
        token_digest: String,
    },
    /// Another plan holds from here on.
    AdoptPlan {
        /// [`State::plan_revision`](crate::State::plan_revision) that the proposer saw; refused when it moved on.
        revision: u64,
        /// The plan's text.
        plan: String,
        /// What the plan means.
        topology: Box<Topology>,
    },
    /// The join token changes; `None`: nobody can join.
    SetToken {
        /// Digest of the new one.
        digest: Option<String>,
    },
    /// A node becomes part of the cluster, or comes back with an empty store, or at another address.
    Admit(Admission),
    /// A node wants to act.
    OpenSession {
        /// The node.
        node: NodeName,
        /// This boot of it. An agent that restarts beside its surviving volume servers keeps the run; another run means
        /// that no volume server or service of the run before is left, or can come back.
        run: RunId,
        /// Drawn at random; an id that was used before is refused.
        session: SessionId,
    },
    /// The leader has not heard the node for the full expiry time: its lease is over.
    ExpireSession {
        /// The node.
        node: NodeName,
        /// Refused if the node has opened another since.
        session: SessionId,
        /// In words.
        why: String,
    },
    /// A volume server runs; its superblock holds `open` durably.
    OpenReplica {
        /// The group.
        group: GroupName,
        /// Where it runs.
        node: NodeName,
        /// The node's live session.
        session: SessionId,
        /// This run of the volume server.
        open: OpenId,
        /// The runs before, as the superblock held them, newest first, back to the newest that was a member; none on a
        /// fresh disk. Several, because a run may end before its opening is in the log: the register must name one.
        previous: Vec<OpenId>,
    },
    /// A volume server is known to run no more: its supervisor saw it end. What it was, a member or the primary, it is no
    /// more, so that nobody has to wait for it. Optional: without it the next `OpenReplica` says the same, later.
    CloseReplica {
        /// The group.
        group: GroupName,
        /// Where it ran.
        node: NodeName,
        /// The node's live session.
        session: SessionId,
        /// The run that ended.
        open: OpenId,
        /// In words.
        why: String,
    },
    /// A compare-and-set on a group's register, as the engine asks it.
    Propose {
        /// The group.
        group: GroupName,
        /// The change.
        proposal: Proposal,
    },
    /// Every step of the service is up.
    ServiceStarted {
        /// The service.
        service: ServiceName,
        /// Where.
        node: NodeName,
        /// The placement that was carried out.
        placement: u64,
    },
    /// The service ran well for its whole window: earlier failures are forgotten.
    ServiceSteady {
        /// The service.
        service: ServiceName,
        /// Where.
        node: NodeName,
        /// The placement that was carried out.
        placement: u64,
    },
    /// Every step of the service is down, as was asked.
    ServiceStopped {
        /// The service.
        service: ServiceName,
        /// Where.
        node: NodeName,
        /// The placement that ended.
        placement: u64,
    },
    /// The service could not start, or did not stay up; every step of it is down.
    ServiceFailed {
        /// The service.
        service: ServiceName,
        /// Where.
        node: NodeName,
        /// The placement that failed.
        placement: u64,
        /// In words.
        why: String,
    },
    /// A person wants the service elsewhere.
    Move {
        /// The service.
        service: ServiceName,
        /// Where it shall run.
        to: NodeName,
        /// Who asked.
        by: String,
    },
    /// A person takes a node out of service, or gives it back.
    SetMaintenance {
        /// The node.
        node: NodeName,
        /// Whether services leave it.
        on: bool,
    },
    /// A person stops the placement of the whole cluster, or lets it go on.
    SetPaused {
        /// Whether nothing new is decided.
        on: bool,
    },
    /// Something worth a line among the events.
    Note {
        /// The node it is about.
        node: NodeName,
        /// What happened.
        what: String,
        /// Why.
        why: String,
    },
}
