//! openraft's messages over the links.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
};

use tandem_base::NodeName;
use tokio::sync::mpsc;

use crate::{
    link::CallError,
    links::Links,
    raft::{LogId, Peer, Snapshot, Types, Vote},
    wire::{Request, Response},
};

/// How long a snapshot may take from its first byte to its being installed.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(120);

/// What a member has acknowledged in a term of office.
struct Acknowledged {
    /// Of the office.
    vote: Vote,
    /// The highest index.
    index: u64,
    /// Whether it was found to have lost some of it.
    lost: bool,
}

/// What the ways of one node share.
#[derive(Clone)]
struct Shared {
    links: Arc<Links>,
    acknowledged: Arc<Mutex<BTreeMap<u64, Acknowledged>>>,
    alarms: mpsc::UnboundedSender<Alarm>,
}

/// A member that must not be listened to.
#[derive(Debug)]
pub(crate) struct Alarm {
    pub(crate) node: NodeName,
    pub(crate) why: String,
}

/// Makes the ways to the other members.
#[derive(Clone)]
pub(crate) struct Network(Shared);

impl Network {
    pub(crate) fn new(links: Arc<Links>, alarms: mpsc::UnboundedSender<Alarm>) -> Self {
        Self(Shared { links, acknowledged: Arc::default(), alarms })
    }
}

/// The way to one member.
pub(crate) struct Way {
    shared: Shared,
    to: u64,
    peer: Peer,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Way;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Way {
        self.0.links.ensure(target, node);
        Way { shared: self.0.clone(), to: target, peer: node.clone() }
    }
}

fn failed(error: CallError) -> RPCError<Types> {
    let cause = io::Error::other(error.to_string());
    match error {
        CallError::NotSent(_) => Unreachable::new(&cause).into(),
        CallError::Lost(_) => NetworkError::new(&cause).into(),
    }
}

/// What to make of an answer that is not the one to the question.
fn unexpected(response: Response) -> RPCError<Types> {
    let why = match response {
        Response::Failed(why) | Response::NoWay(why) => why,
        _ => "the answer fits another question".into(),
    };
    Unreachable::new(&io::Error::other(why)).into()
}

impl Way {
    /// Refuses to listen to a member that lost what it has acknowledged in this very office: its store is an older copy
    /// of itself, and its word counted for entries that it does not have. (openraft would stop this node, not that one.)
    ///
    /// `before` is the index that had to match, `last` the last one sent.
    fn judge(
        &self,
        vote: Vote,
        before: Option<u64>,
        last: Option<u64>,
        response: &AppendEntriesResponse<Types>,
    ) -> Result<(), RPCError<Types>> {
        let mut acknowledged = self.shared.acknowledged.lock().expect("no holder of this lock panics");
        let known = acknowledged.get_mut(&self.to).filter(|known| known.vote == vote);
        match (response, known) {
            (AppendEntriesResponse::Success, Some(known)) => known.index = known.index.max(last.unwrap_or(0)),
            (AppendEntriesResponse::Success, None) => {
                if let Some(index) = last {
                    acknowledged.insert(self.to, Acknowledged { vote, index, lost: false });
                }
            }
            (AppendEntriesResponse::Conflict, Some(known)) if before.is_some_and(|before| before <= known.index) => {
                let Peer { node, .. } = &self.peer;
                let why = format!("it has lost entries up to {} that it had acknowledged", known.index);
                if !std::mem::replace(&mut known.lost, true) {
                    tracing::error!(%node, %why, "its store is an older copy; it is not listened to");
                    // The receiver may have ended with the node.
                    let _ = self.shared.alarms.send(Alarm { node: node.clone(), why: why.clone() });
                }
                return Err(Unreachable::from_string(format!("{node}: {why}")).into());
            }
            _ => {}
        }
        Ok(())
    }

    async fn call(&self, request: Request, option: &RPCOption) -> Result<Response, RPCError<Types>> {
        self.shared.links.call(self.to, &request, option.soft_ttl()).await.map_err(failed)
    }
}

impl RaftNetworkV2<Types> for Way {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let (vote, before) = (rpc.vote, rpc.prev_log_id.as_ref().map(LogId::index));
        let last = rpc.entries.last().map(|entry| entry.log_id.index()).or(before);
        match self.call(Request::Append(rpc), &option).await? {
            Response::Append(response) => {
                self.judge(vote, before, last, &response)?;
                Ok(response)
            }
            other => Err(unexpected(other)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(Request::Vote(rpc), &option).await? {
            Response::Vote(response) => Ok(response),
            other => Err(unexpected(other)),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(Request::PreVote(rpc), &option).await? {
            Response::Vote(response) => Ok(response),
            other => Err(unexpected(other)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let request = Request::Snapshot { vote, meta: snapshot.meta, bytes: snapshot.snapshot };
        tokio::select! {
            closed = cancel => Err(closed.into()),
            answer = self.shared.links.call_bulk(self.to, &self.peer, &request, SNAPSHOT_WITHIN) => match answer.map_err(failed)? {
                Response::Snapshot(response) => Ok(response),
                other => Err(unexpected(other).into()),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        match self.call(Request::TransferLeader(req), &option).await? {
            Response::TransferLeader(response) => Ok(response),
            other => Err(unexpected(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way() -> Way {
        let directory = tempfile::tempdir().expect("a directory");
        let cluster = tandem_base::ClusterId(1);
        let identity = crate::identity::tests::identity(&directory.path().join("identity"), cluster, "r1");
        let dialer = crate::link::Dialer {
            tls: identity.client_config(crate::ALPN_CONTROL).expect("a configuration"),
            identity,
            raft_id: 1,
            run: tandem_base::RunId(1),
            silent_after: Duration::from_millis(300),
            cut: Mutex::default(),
        };
        let links = Arc::new(Links::new(dialer));
        let (alarms, _) = mpsc::unbounded_channel();
        let network = Network::new(links, alarms);
        Way { shared: network.0.clone(), to: 2, peer: Peer::default() }
    }

    #[test]
    fn a_member_that_forgot_what_it_acknowledged_is_not_listened_to() {
        let way = way();
        let (office, later) = (Vote::new_committed(1, 1), Vote::new_committed(2, 1));
        let judge = |vote: &Vote, before, last, response| way.judge(*vote, before, last, &response).is_ok();
        let conflict = AppendEntriesResponse::Conflict;
        assert!(judge(&office, Some(9), Some(9), conflict.clone()), "where the logs part is looked for");
        assert!(judge(&office, Some(4), Some(7), AppendEntriesResponse::Success));
        assert!(judge(&office, None, None, AppendEntriesResponse::Success), "a heartbeat takes nothing back");
        assert!(judge(&office, Some(8), Some(9), conflict.clone()), "beyond what it acknowledged");
        assert!(!judge(&office, Some(7), Some(9), conflict.clone()));
        assert!(!judge(&office, Some(2), Some(2), conflict.clone()));
        assert!(judge(&later, Some(7), Some(7), conflict), "another leader may have cut off what was not committed");
    }
}
