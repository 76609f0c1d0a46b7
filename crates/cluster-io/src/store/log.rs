//! The log and the vote, as openraft wants them.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::RangeBounds,
    sync::{Arc, Mutex, MutexGuard},
};

use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};

use super::{
    file::{StoreFile, StoredSnapshot, encode},
    writer::{Change, Done, Writer},
};
use crate::raft::{LogEntry, LogId, Types, Vote};

#[derive(Default)]
struct Memory {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, LogEntry>,
}

/// The log and the vote: all of it in memory, and on disk before it counts. Clones share it.
#[derive(Clone)]
pub(crate) struct Log {
    memory: Arc<Mutex<Memory>>,
    writer: Writer,
}

impl Log {
    /// Takes an opened file; the snapshot in it is for the state machine.
    pub(crate) fn new(file: StoreFile) -> io::Result<(Self, Option<StoredSnapshot>)> {
        let StoreFile { about: _, vote, committed, purged, entries, snapshot, database } = file;
        let entries = entries.into_iter().map(|entry| (entry.log_id.index(), entry)).collect();
        let memory = Memory { vote, committed, purged, entries };
        let log = Self { memory: Arc::new(Mutex::new(memory)), writer: Writer::start(database)? };
        Ok((log, snapshot))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("no holder of this lock panics")
    }

    /// Makes a snapshot durable, in the place of the one before.
    pub(super) async fn save_snapshot(&self, snapshot: &StoredSnapshot) -> io::Result<()> {
        self.writer.write(Change::Fact("snapshot", encode(snapshot)?)).await
    }

    /// Writes what is queued and closes the file.
    pub(crate) async fn close(&self) {
        self.writer.close().await;
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        Ok(self.memory().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.memory().vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let memory = self.memory();
        let last = memory.entries.values().next_back().map(|entry| entry.log_id);
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: last.or(memory.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.writer.write(Change::Fact("vote", encode(vote)?)).await?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = &committed {
            self.writer.queue(Change::LazyFact("committed", encode(committed)?), Done::Nobody)?;
        }
        self.memory().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.memory().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut written = Vec::new();
        let mut memory = self.memory();
        for entry in entries {
            let index = entry.log_id.index();
            written.push((index, encode(&entry)?));
            memory.entries.insert(index, entry);
        }
        drop(memory);
        self.writer.queue(Change::Append(written), Done::Flushed(callback))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index() + 1);
        self.memory().entries.split_off(&from);
        self.writer.write(Change::Truncate(from)).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let index = upto.index();
        let purged = encode(&upto)?;
        {
            let mut memory = self.memory();
            memory.entries = memory.entries.split_off(&(index + 1));
            memory.purged = Some(upto);
        }
        self.writer.write(Change::Purge(index, purged)).await
    }
}
