//! The engine's words in the agent's.

use tandem_base::{ByteSize, Configuration, Instant, OpenId};
use tandem_volume::{Event, ReplicaStatus};

use super::{ServerConfig, initiators::Initiators, peers::Peers};
use crate::control::{FromServer, NoteKind, PeerStatus, Resync, Role, Status};

/// An event of the engine as a note.
pub(super) fn note(event: Event) -> FromServer {
    let (kind, node, text) = match event {
        Event::Frozen { why } => (NoteKind::Frozen, None, why),
        Event::Thawed => (NoteKind::Thawed, None, "replies leave again".into()),
        Event::MemberLeft { node, why } => (NoteKind::MemberLeft, Some(node), why),
        Event::MemberJoined { node } => {
            let text = format!("`{node}` is in sync again");
            (NoteKind::MemberJoined, Some(node), text)
        }
        Event::ResyncStarted { node, why } => (NoteKind::ResyncStarted, Some(node), why),
        Event::ResyncDone { node, compared, sent } => {
            let size = |bytes| ByteSize::new(bytes).rounded();
            (NoteKind::ResyncDone, Some(node), format!("{} compared, {} sent", size(compared), size(sent)))
        }
        Event::DiskFailed { why } => (NoteKind::DiskFailed, None, why),
        Event::PeerRefused { node, why } => (NoteKind::PeerRefused, Some(node), why),
        other => (NoteKind::Other, None, format!("{other:?}")),
    };
    FromServer::Note { kind, node, text }
}

/// What is said to the agent goes to the journal too.
pub(super) fn log(message: &FromServer) {
    match message {
        FromServer::Note { kind, node, text } => match kind {
            NoteKind::DiskFailed
            | NoteKind::Repaired
            | NoteKind::MemberLeft
            | NoteKind::Frozen
            | NoteKind::PeerRefused => {
                tracing::warn!(?kind, node = node.as_ref().map(tracing::field::debug), "{text}");
            }
            _ => tracing::info!(?kind, node = node.as_ref().map(tracing::field::debug), "{text}"),
        },
        FromServer::Opened { open, previous, .. } => tracing::info!(%open, ?previous, "opened"),
        FromServer::Serving { promotion, .. } => tracing::info!(%promotion, "serving"),
        FromServer::Ended { promotion, why } => tracing::warn!(%promotion, "the promotion is over: {why}"),
        _ => {}
    }
}

/// The whole state.
pub(super) fn status(
    config: &ServerConfig,
    open: OpenId,
    replica: &ReplicaStatus,
    configuration: Option<&Configuration>,
    lease_until: Option<Instant>,
    initiators: &Initiators,
    peers: &Peers,
) -> Status {
    use tandem_volume::Role as Engine;
    let role = match (replica.role, configuration) {
        _ if replica.disk_failed.is_some() => Role::Failed,
        (Engine::Starting, _) | (_, None) => Role::Starting,
        (Engine::Promoting | Engine::TakingOver, _) => Role::Promoting,
        (Engine::Primary, _) => Role::Primary,
        (Engine::Releasing, _) => Role::Releasing,
        (Engine::Secondary, _) if replica.member => Role::InSync,
        (Engine::Secondary, _) => Role::OutOfSync,
    };
    let peer_status = |peer: &tandem_volume::PeerStatus| {
        let (connected, problem) = peers.state(&peer.node);
        PeerStatus {
            node: peer.node.clone(),
            connected,
            resync: peer.resync.map(|resync| Resync { done: resync.compared, total: resync.total, sent: resync.sent }),
            problem: peer.failed.clone().or(problem),
        }
    };
    Status {
        group: config.group.clone(),
        node: config.node.clone(),
        open,
        role,
        configuration: configuration.cloned().unwrap_or_default(),
        serving: initiators.serving(),
        frozen: replica.frozen.clone(),
        lease_until,
        volumes: config.volumes.clone(),
        peers: replica.peers.iter().map(peer_status).collect(),
        attachments: initiators.attachments(),
        proposed: replica.proposed.clone(),
        disk_error: replica.disk_failed.clone(),
    }
}
