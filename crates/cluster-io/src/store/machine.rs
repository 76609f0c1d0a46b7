//! The state, as openraft wants it.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use futures_util::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use tandem_cluster::Outcome;
use tokio::sync::watch;

use super::{Log, file::StoredSnapshot};
use crate::{
    control::Applied,
    raft::{LogId, Membership, Snapshot, SnapshotMeta, Types},
};

/// Entries applied before the state is shown to others, when many come at once (after a start).
const BATCH_MAX: usize = 64;

struct Inner {
    last: Option<LogId>,
    membership: Membership,
    state: Arc<Applied>,
    snapshot: Option<StoredSnapshot>,
}

/// The state, and whoever watches it. Clones share it; openraft has one, snapshots are built with another.
#[derive(Clone)]
pub(crate) struct Machine {
    inner: Arc<Mutex<Inner>>,
    shown: Arc<watch::Sender<Arc<Applied>>>,
    /// Held while a snapshot is written: one that was built must not replace a newer one that was received.
    keeping: Arc<tokio::sync::Mutex<()>>,
    log: Log,
}

impl Machine {
    /// The state of `snapshot`, or the empty one. Snapshots are kept in the file of `log`.
    pub(crate) fn new(log: Log, snapshot: Option<StoredSnapshot>) -> Result<Self, String> {
        let mut inner = Inner {
            last: None,
            membership: Membership::default(),
            state: Arc::new(Applied::default()),
            snapshot: None,
        };
        if let Some(snapshot) = snapshot {
            inner.take(&snapshot.meta, &snapshot.bytes).map_err(|error| error.to_string())?;
            inner.snapshot = Some(snapshot);
        }
        let shown = Arc::new(watch::Sender::new(Arc::clone(&inner.state)));
        Ok(Self { inner: Arc::new(Mutex::new(inner)), shown, keeping: Arc::default(), log })
    }

    /// The state, each time it was changed.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Applied>> {
        self.shown.subscribe()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("a state machine that panicked has stopped the consensus with it")
    }

    /// Makes a snapshot the current one, durably, unless there is a newer one.
    async fn keep(&self, snapshot: StoredSnapshot) -> io::Result<()> {
        let _one_at_a_time = self.keeping.lock().await;
        let newer =
            self.inner().snapshot.as_ref().is_some_and(|kept| kept.meta.last_log_id > snapshot.meta.last_log_id);
        if !newer {
            self.log.save_snapshot(&snapshot).await?;
            self.inner().snapshot = Some(snapshot);
        }
        Ok(())
    }

    fn show(&self) {
        let state = Arc::clone(&self.inner().state);
        self.shown.send_replace(state);
    }
}

impl Inner {
    fn take(&mut self, meta: &SnapshotMeta, bytes: &[u8]) -> io::Result<()> {
        let state = postcard::from_bytes(bytes).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot cannot be read: {error}"))
        })?;
        let index = meta.last_log_id.as_ref().map_or(0, LogId::index);
        self.state = Arc::new(Applied { index, state });
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    fn apply(&mut self, entry: crate::raft::LogEntry) -> Outcome {
        let log_id = entry.log_id;
        let applied = Arc::make_mut(&mut self.state);
        applied.index = log_id.index();
        let outcome = match entry.payload {
            EntryPayload::Blank => Outcome::Done,
            EntryPayload::Normal(record) => applied.state.apply(log_id.index(), &record.0),
            EntryPayload::Membership(membership) => {
                self.membership = Membership::new(Some(log_id), membership);
                Outcome::Done
            }
        };
        self.last = Some(log_id);
        outcome
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), io::Error> {
        let inner = self.inner();
        Ok((inner.last, inner.membership.clone()))
    }

    /// Whoever is told of an outcome finds it in the state that is shown.
    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut outcomes = Vec::new();
        let mut more = true;
        while more {
            match entries.next().await {
                Some(next) => {
                    let (entry, responder) = next?;
                    outcomes.push((self.inner().apply(entry), responder));
                }
                None => more = false,
            }
            if !more || outcomes.len() == BATCH_MAX {
                self.show();
                for (outcome, responder) in outcomes.drain(..) {
                    if let Some(responder) = responder {
                        responder.send(outcome);
                    }
                }
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let inner = self.inner();
        let meta = SnapshotMeta { last_log_id: inner.last, last_membership: inner.membership.clone() };
        Builder { meta, state: Arc::clone(&inner.state), machine: self.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Vec<u8>) -> Result<(), io::Error> {
        self.inner().take(meta, &snapshot)?;
        self.keep(StoredSnapshot { meta: meta.clone(), bytes: snapshot }).await?;
        self.show();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let kept = self.inner().snapshot.clone();
        Ok(kept.map(|kept| Snapshot { meta: kept.meta, snapshot: kept.bytes }))
    }
}

/// A frozen view of the state: whatever is applied later is not in it.
pub(crate) struct Builder {
    meta: SnapshotMeta,
    state: Arc<Applied>,
    machine: Machine,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let bytes = postcard::to_stdvec(&self.state.state).map_err(io::Error::other)?;
        let snapshot = Snapshot { meta: self.meta.clone(), snapshot: bytes.clone() };
        self.machine.keep(StoredSnapshot { meta: self.meta.clone(), bytes }).await?;
        Ok(snapshot)
    }
}
