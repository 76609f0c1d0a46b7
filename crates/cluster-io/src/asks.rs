//! Asking the leader, wherever it is.

use std::{collections::BTreeSet, time::Duration};

use openraft::{
    ReadPolicy,
    errors::{ClientWriteError, LinearizableReadError, RaftError},
};
use tandem_cluster::leader::Answer;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use crate::{
    control::Core,
    link::CallError,
    raft::Record,
    sessions::Renewal,
    wire::{Ask, Request, Response, Told},
};

/// Between two rounds of asking who leads.
const ASK_AGAIN: Duration = Duration::from_millis(40);
/// How long one node may take to answer before another way is tried.
const ONE_WITHIN: Duration = Duration::from_millis(1_500);

/// Why the leader gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum AskError {
    /// No leader got the question.
    #[error("no leader could be reached: {0}")]
    NotSent(String),
    /// A leader may have got it.
    #[error("the leader's answer did not come: {0}")]
    Unknown(String),
}

impl Core {
    /// Asks the leader, directly or through another node, for at most `within`; again and again where that cannot do
    /// harm: what is asked takes effect once, however often it arrives.
    pub(crate) async fn ask(&self, ask: Ask, within: Duration) -> Result<Told, AskError> {
        let end = Instant::now() + within;
        let mut perhaps = None;
        let mut why = "nobody is known who could be asked".to_owned();
        loop {
            let mut next: Vec<u64> = self.raft.current_leader().await.into_iter().collect();
            let guesses = next.len();
            next.extend(self.links.peers());
            let mut asked = BTreeSet::new();
            let mut at = 0;
            while let Some(&to) = next.get(at) {
                at += 1;
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                if !asked.insert(to) {
                    continue;
                }
                let told = self.ask_one(to, &ask, left.min(ONE_WITHIN)).await;
                match told {
                    Ok(Told::NotLeader { leader: Some(leader) }) if !asked.contains(&leader) => next.insert(at, leader),
                    Ok(Told::NotLeader { .. }) => why = "no node that answers leads".into(),
                    Ok(Told::Unknown(reason)) => perhaps = Some(reason),
                    Ok(Told::NoQuorum(reason)) => why = reason,
                    Ok(told) => return Ok(told),
                    Err(CallError::NotSent(reason)) => {
                        if at <= guesses || why.is_empty() {
                            why = reason;
                        }
                    }
                    Err(CallError::Lost(reason)) => perhaps = Some(reason),
                }
            }
            if Instant::now() + ASK_AGAIN >= end {
                return Err(perhaps.map_or_else(|| AskError::NotSent(why), AskError::Unknown));
            }
            sleep(ASK_AGAIN).await;
        }
    }

    async fn ask_one(&self, to: u64, ask: &Ask, within: Duration) -> Result<Told, CallError> {
        if to == self.about.raft_id {
            return Ok(self.answer(ask.clone(), within).await);
        }
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        match self.links.call(to, &Request::Ask { ask: ask.clone(), within_ms }, within).await? {
            Response::Told(told) => Ok(told),
            Response::NoWay(why) => Err(CallError::NotSent(why)),
            Response::Failed(why) => Err(CallError::Lost(why)),
            _ => Err(CallError::Lost("the answer fits another question".into())),
        }
    }

    /// What this node itself answers: only the leader knows anything.
    pub(crate) async fn answer(&self, ask: Ask, within: Duration) -> Told {
        if !self.raft.is_leader() {
            let own = self.about.raft_id;
            return Told::NotLeader { leader: self.raft.current_leader().await.filter(|leader| *leader != own) };
        }
        match ask {
            Ask::Propose(entry) => match timeout(within, self.raft.client_write(Record(*entry))).await {
                Ok(Ok(response)) => Told::Committed { index: response.log_id.index(), outcome: response.data },
                Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                    Told::NotLeader { leader: forward.leader_id }
                }
                Ok(Err(error)) => Told::Unknown(error.to_string()),
                Err(_) => Told::Unknown(format!("no majority took it within {within:?}")),
            },
            Ask::Renew { node, session, run, renewal } => {
                let (reply, answer) = oneshot::channel();
                let renewal = Renewal { node, session, run, renewal, reply };
                if self.renewals.send(renewal).await.is_err() {
                    return Told::NotLeader { leader: None };
                }
                match timeout(within, answer).await {
                    Ok(Ok(answer)) => Told::Answer(answer),
                    // Asked again, this one would overtake the newer one in turn.
                    Ok(Err(_)) => Told::Answer(Answer::TryAgain { why: "a newer renewal overtook this one".into() }),
                    Err(_) => Told::NoQuorum(format!("no majority answered within {within:?}")),
                }
            }
            Ask::Index => match timeout(within, self.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
                Ok(Ok(read)) => Told::Index(read.index()),
                Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                    Told::NotLeader { leader: forward.leader_id }
                }
                Ok(Err(error)) => Told::NoQuorum(error.to_string()),
                Err(_) => Told::NoQuorum(format!("no majority answered within {within:?}")),
            },
        }
    }
}
