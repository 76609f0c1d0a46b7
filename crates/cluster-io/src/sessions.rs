//! The leader's table of sessions, run against the consensus.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use openraft::{ReadPolicy, ServerState, async_runtime::watch::WatchReceiver};
use tandem_base::{NodeName, RunId, SessionId};
use tandem_cluster::{
    Command, LiveSession, Timings,
    leader::{Answer, Input, Output, SessionTable},
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    clock,
    control::{Applied, entry},
    raft::{Raft, Record},
};

/// A renewal that arrived at this node.
#[derive(Debug)]
pub(crate) struct Renewal {
    pub(crate) node: NodeName,
    pub(crate) session: SessionId,
    pub(crate) run: RunId,
    pub(crate) renewal: u64,
    pub(crate) reply: oneshot::Sender<Answer>,
}

/// Names a term of office, and who holds it.
type Office = openraft::impls::leader_id_adv::LeaderId<u64, u64>;

/// What a task that was sent out comes back with.
enum News {
    /// The log is applied up to the first entry of this term of office.
    Began(Office),
    /// A round ended.
    Round { round: u64, result: Result<Office, String> },
}

/// How long a round may take before the renewals in it are sent back.
const ROUND_WITHIN: Duration = Duration::from_secs(1);
/// Between two tries to learn whether this node really leads.
const ASK_AGAIN: Duration = Duration::from_millis(20);

struct Driver {
    raft: Raft,
    own: NodeName,
    applied: watch::Receiver<Arc<Applied>>,
    table: SessionTable,
    timings: Timings,
    /// The office the table runs in.
    office: Option<Office>,
    /// The term whose beginning is waited for.
    beginning: Option<u64>,
    waiting: BTreeMap<(NodeName, SessionId, u64), oneshot::Sender<Answer>>,
    news: mpsc::UnboundedSender<News>,
}

/// Runs until it is dropped.
pub(crate) async fn run(
    raft: Raft,
    own: NodeName,
    timings: Timings,
    mut applied: watch::Receiver<Arc<Applied>>,
    mut renewals: mpsc::Receiver<Renewal>,
) {
    let (news, mut incoming) = mpsc::unbounded_channel();
    let mut metrics = raft.metrics();
    let table = SessionTable::new(timings);
    let mut driver = Driver {
        raft,
        own,
        applied: applied.clone(),
        table,
        timings,
        office: None,
        beginning: None,
        waiting: BTreeMap::new(),
        news,
    };
    loop {
        let deadline = driver.table.poll_timeout();
        let timed_out = async {
            match deadline {
                Some(deadline) => clock::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(renewal) = renewals.recv() => driver.renewal(renewal),
            Some(news) = incoming.recv() => driver.news(news),
            changed = metrics.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            changed = applied.changed() => {
                if changed.is_err() {
                    return;
                }
                applied.borrow_and_update();
                driver.state_changed();
            }
            () = timed_out => driver.handle(Input::TimedOut),
        }
        let (leads, term) = {
            let metrics = metrics.borrow_watched();
            (metrics.state == ServerState::Leader, metrics.current_term)
        };
        driver.standing(leads, term);
        driver.carry_out();
    }
}

impl Driver {
    fn handle(&mut self, input: Input) {
        self.table.handle(clock::now(), input);
    }

    /// The newest state's index and its live sessions.
    fn live(&self) -> (u64, Vec<LiveSession>) {
        let applied = self.applied.borrow();
        (applied.index, applied.state.live_sessions().collect())
    }

    fn renewal(&mut self, Renewal { node, session, run, renewal, reply }: Renewal) {
        // The table answers only the newest of a node's renewals; whoever waits for an older one is told at once.
        self.waiting.retain(|(waiting, _, _), reply| *waiting != node && !reply.is_closed());
        self.waiting.insert((node.clone(), session, renewal), reply);
        self.handle(Input::RenewalReceived { node, session, run, renewal });
    }

    fn state_changed(&mut self) {
        let timings = {
            let applied = self.applied.borrow();
            applied.state.cluster().map(|_| applied.state.topology().timings)
        };
        if let Some(timings) = timings.filter(|timings| *timings != self.timings) {
            self.timings = timings;
            self.table.set_timings(timings);
        }
        let (index, sessions) = self.live();
        self.handle(Input::Applied { index, sessions });
    }

    fn standing(&mut self, leads: bool, term: u64) {
        if let Some(office) = &self.office
            && (!leads || office.term != term)
        {
            tracing::info!(term = office.term, "this node does not lead any more");
            self.office = None;
            self.handle(Input::LeadershipLost);
        }
        if !leads {
            self.beginning = None;
        } else if self.office.is_none() && self.beginning != Some(term) {
            self.beginning = Some(term);
            let (raft, news) = (self.raft.clone(), self.news.clone());
            tokio::spawn(async move {
                loop {
                    match raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
                        // The driver may have ended.
                        Ok(read) => return drop(news.send(News::Began(*read.committed_leader_id()))),
                        Err(_) if raft.is_leader() => tokio::time::sleep(ASK_AGAIN).await,
                        Err(_) => return,
                    }
                }
            });
        }
    }

    fn news(&mut self, news: News) {
        match news {
            News::Began(office) => {
                if self.beginning == Some(office.term) {
                    self.beginning = None;
                    tracing::info!(term = office.term, "this node leads");
                    self.office = Some(office);
                    let (index, sessions) = self.live();
                    self.handle(Input::BecameLeader { index, sessions });
                } else if self.office.is_none() {
                    // Asked in one term and answered in the next, whose own question may have been left out.
                    self.beginning = None;
                }
            }
            News::Round { round, result } => {
                let office = self.office;
                let input = match result {
                    Ok(confirmed) if Some(confirmed) == office => {
                        let (index, sessions) = self.live();
                        Input::LeadershipConfirmed { round, index, sessions }
                    }
                    Ok(_) => Input::LeadershipNotConfirmed { round, why: "another term began".into() },
                    Err(why) => Input::LeadershipNotConfirmed { round, why },
                };
                self.handle(input);
            }
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.table.poll_output() {
            match output {
                Output::ConfirmLeadership { round } => {
                    let (raft, news) = (self.raft.clone(), self.news.clone());
                    tokio::spawn(async move {
                        let asked = tokio::time::timeout(ROUND_WITHIN, raft.ensure_linearizable(ReadPolicy::ReadIndex));
                        let result = match asked.await {
                            Ok(Ok(read)) => Ok(*read.committed_leader_id()),
                            Ok(Err(error)) => Err(error.to_string()),
                            Err(_) => Err(format!("no majority answered within {ROUND_WITHIN:?}")),
                        };
                        // The driver may have ended.
                        let _ = news.send(News::Round { round, result });
                    });
                }
                Output::Answer { node, session, renewal, answer } => {
                    if let Some(reply) = self.waiting.remove(&(node, session, renewal)) {
                        // Whoever asked may have gone.
                        let _ = reply.send(answer);
                    }
                }
                Output::AppendExpiry { node, session, why } => {
                    let Some(office) = self.office else { continue };
                    tracing::info!(%node, %session, %why, "a session expires");
                    let raft = self.raft.clone();
                    let entry = entry(&self.own, Command::ExpireSession { node, session, why });
                    tokio::spawn(async move {
                        // Bound to this term: a leader in between may have granted what this table does not know. The
                        // table asks again while the state shows the session live, so a failure needs no care.
                        if let Err(error) = raft.write(Record(entry)).with_leader(office).await {
                            tracing::warn!(%error, "an expiry was not appended");
                        }
                    });
                }
            }
        }
    }
}
