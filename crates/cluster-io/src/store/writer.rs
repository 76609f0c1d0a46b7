//! The one thread that writes the file. What waits together is written together, in the order it was asked.

use std::{io, sync::mpsc, thread};

use openraft::storage::IOFlushed;
use redb::{Database, Durability};
use tokio::sync::oneshot;

use super::file::{FACTS, LOG};
use crate::raft::Types;

/// Jobs written in one transaction at most.
const BATCH_MAX: usize = 256;

/// Something to write.
pub(super) enum Change {
    /// A fact that must be durable before anybody acts on it.
    Fact(&'static str, Vec<u8>),
    /// A fact that may be lost in a crash: it becomes durable with the next thing that must.
    LazyFact(&'static str, Vec<u8>),
    /// Entries, with their indexes.
    Append(Vec<(u64, Vec<u8>)>),
    /// Removes the entries from this index on.
    Truncate(u64),
    /// Removes the entries up to this index; the fact `purged` becomes these bytes.
    Purge(u64, Vec<u8>),
}

/// Whom to tell.
pub(super) enum Done {
    Nobody,
    Flushed(IOFlushed<Types>),
    Waiter(oneshot::Sender<io::Result<()>>),
}

enum Job {
    Write(Change, Done),
    Close(oneshot::Sender<()>),
}

/// The way to the writing thread.
#[derive(Clone)]
pub(super) struct Writer(mpsc::Sender<Job>);

impl Writer {
    /// Starts the thread.
    pub(super) fn start(database: Database) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new().name("cluster-store".into()).spawn(move || run(database, &receiver))?;
        Ok(Self(sender))
    }

    /// Queues a change behind all queued before.
    pub(super) fn queue(&self, change: Change, done: Done) -> io::Result<()> {
        self.0.send(Job::Write(change, done)).map_err(|_| closed())
    }

    /// Queues a change and waits until it is written.
    pub(super) async fn write(&self, change: Change) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.queue(change, Done::Waiter(sender))?;
        receiver.await.map_err(|_| closed())?
    }

    /// Writes what is queued and closes the file.
    pub(super) async fn close(&self) {
        let (sender, receiver) = oneshot::channel();
        if self.0.send(Job::Close(sender)).is_ok() {
            // An error means that the thread ended by itself, with the file closed.
            let _ = receiver.await;
        }
    }
}

fn closed() -> io::Error {
    io::Error::other("the store is closed")
}

fn run(database: Database, jobs: &mpsc::Receiver<Job>) {
    // After a failed write nobody knows what the disk holds: nothing is written or promised any more.
    let mut broken: Option<String> = None;
    let mut closer = None;
    while closer.is_none() {
        let Ok(first) = jobs.recv() else { break };
        let mut changes = Vec::new();
        let mut told = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Write(change, done) => {
                    changes.push(change);
                    told.push(done);
                }
                Job::Close(done) => {
                    closer = Some(done);
                    break;
                }
            }
            next = if changes.len() < BATCH_MAX { jobs.try_recv().ok() } else { None };
        }
        if broken.is_none()
            && !changes.is_empty()
            && let Err(error) = write(&database, &changes)
        {
            tracing::error!(%error, "the cluster's store cannot be written any more");
            broken = Some(error.to_string());
        }
        for done in told {
            let result = broken.as_ref().map_or(Ok(()), |why| Err(io::Error::other(why.clone())));
            match done {
                Done::Nobody => {}
                Done::Flushed(callback) => callback.io_completed(result),
                Done::Waiter(waiter) => {
                    // Whoever waited may have been cancelled.
                    let _ = waiter.send(result);
                }
            }
        }
    }
    if let Err(error) = database.close() {
        tracing::warn!(%error, "the cluster's store was not closed cleanly");
    }
    if let Some(closer) = closer {
        // Whoever waited may have been cancelled.
        let _ = closer.send(());
    }
}

fn write(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let lazy = changes.iter().all(|change| matches!(change, Change::LazyFact(..)));
    let mut transaction = database.begin_write()?;
    transaction.set_durability(if lazy { Durability::None } else { Durability::Immediate })?;
    {
        let mut log = transaction.open_table(LOG)?;
        let mut facts = transaction.open_table(FACTS)?;
        for change in changes {
            match change {
                Change::Fact(name, bytes) | Change::LazyFact(name, bytes) => {
                    facts.insert(*name, bytes.as_slice())?;
                }
                Change::Append(entries) => {
                    for (index, bytes) in entries {
                        log.insert(index, bytes.as_slice())?;
                    }
                }
                Change::Truncate(from) => log.retain_in(*from.., |_, _| false)?,
                Change::Purge(to, purged) => {
                    log.retain_in(..=*to, |_, _| false)?;
                    facts.insert("purged", purged.as_slice())?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}
