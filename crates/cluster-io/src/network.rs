//! openraft's messages over the links.

use std::{future::Future, io, sync::Arc, time::Duration};

use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
};

use crate::{
    link::CallError,
    links::Links,
    raft::{Peer, Snapshot, Types, Vote},
    wire::{Request, Response},
};

/// How long a snapshot may take from its first byte to its being installed.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(120);

/// Makes the ways to the other members.
#[derive(Clone)]
pub(crate) struct Network(pub(crate) Arc<Links>);

/// The way to one member.
pub(crate) struct Way {
    links: Arc<Links>,
    to: u64,
    peer: Peer,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Way;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Way {
        self.0.ensure(target, node);
        Way { links: Arc::clone(&self.0), to: target, peer: node.clone() }
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
    async fn call(&self, request: Request, option: &RPCOption) -> Result<Response, RPCError<Types>> {
        self.links.call(self.to, &request, option.soft_ttl()).await.map_err(failed)
    }
}

impl RaftNetworkV2<Types> for Way {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        match self.call(Request::Append(rpc), &option).await? {
            Response::Append(response) => Ok(response),
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
            answer = self.links.call_bulk(self.to, &self.peer, &request, SNAPSHOT_WITHIN) => match answer.map_err(failed)? {
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
