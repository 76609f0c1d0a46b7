//! Sessions: what a lease is granted to.

use alloc::{collections::VecDeque, format, string::String};
use serde::{Deserialize, Serialize};
use tandem_base::{NodeName, RunId, SessionId};

use crate::{
    Refusal, State, Subject,
    mutations::{self, Mutation},
};

/// Past session ids of a node that are remembered. A late copy of an older `OpenSession` would have to lie in a relay
/// while its node opened this many others.
const PAST_MAX: usize = 256;

/// The newest session of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub session: SessionId,
    /// The boot that opened it.
    pub run: RunId,
    /// Until its expiry is in the log.
    pub live: bool,
    /// Earlier sessions of this node, oldest first: none of them comes back.
    past: VecDeque<SessionId>,
}

/// A session that has not expired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveSession {
    /// Whose.
    pub node: NodeName,
    /// Its id.
    pub session: SessionId,
    /// The boot that opened it.
    pub run: RunId,
}

impl State {
    /// The newest session of `node`, live or not.
    #[must_use]
    pub fn session(&self, node: &NodeName) -> Option<&Session> {
        self.sessions.get(node)
    }

    /// The run of `node` that may act, if one may.
    #[must_use]
    pub fn live_run(&self, node: &NodeName) -> Option<RunId> {
        self.sessions.get(node).filter(|session| session.live).map(|session| session.run)
    }

    /// Every session that has not expired, in the order of nodes.
    pub fn live_sessions(&self) -> impl Iterator<Item = LiveSession> {
        self.sessions.iter().filter(|(_, session)| session.live).map(|(node, session)| LiveSession {
            node: node.clone(),
            session: session.session,
            run: session.run,
        })
    }

    pub(crate) fn open_session(&mut self, node: &NodeName, run: RunId, session: SessionId) -> Result<(), Refusal> {
        self.known_node(node)?;
        if !self.members.contains_key(node) {
            return Err(Refusal::NotAdmitted(node.clone()));
        }
        let mut past = VecDeque::new();
        let mut why = String::from("the node came up");
        if let Some(newest) = self.sessions.get_mut(node) {
            if newest.session == session && newest.live {
                let same = newest.run == run;
                return if same {
                    Ok(())
                } else {
                    Err(Refusal::SecondRun { node: node.clone(), live: newest.run, run })
                };
            }
            let used = newest.session == session || newest.past.contains(&session);
            if used && !mutations::active(Mutation::ReviveExpiredSession) {
                return Err(Refusal::SessionOver { node: node.clone(), session });
            }
            if newest.live && newest.run != run {
                let live = newest.run;
                let why = format!("run {run} asks for a session while run {live} holds one");
                self.event_once(Subject::Node(node.clone()), "a second live run was refused", &why);
                return Err(Refusal::SecondRun { node: node.clone(), live, run });
            }
            why = String::from(match (newest.live, newest.run == run) {
                (true, _) => "the agent restarted",
                (false, true) => "the node is heard again",
                (false, false) => "the node rebooted",
            });
            past = core::mem::take(&mut newest.past);
            past.push_back(newest.session);
            if past.len() > PAST_MAX {
                past.pop_front();
            }
        }
        self.sessions.insert(node.clone(), Session { session, run, live: true, past });
        self.event(Subject::Node(node.clone()), "session opened", why);
        Ok(())
    }

    pub(crate) fn expire_session(&mut self, node: &NodeName, session: SessionId, why: &str) -> Result<(), Refusal> {
        let over = || Refusal::SessionOver { node: node.clone(), session };
        let newest = self.sessions.get_mut(node).ok_or_else(|| Refusal::NoSession(node.clone()))?;
        if newest.session != session {
            return Err(over());
        }
        if newest.live {
            newest.live = false;
            self.event(Subject::Node(node.clone()), "session expired", why);
        }
        Ok(())
    }
}
