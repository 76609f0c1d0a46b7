//! The file itself: what is in it, and whether it is to be believed.

use std::{
    io,
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tandem_base::{ClusterId, NodeName};

use super::{StoreError, scratch::Scratch};
use crate::{
    identity::sync_parent,
    raft::{LogEntry, LogId, SnapshotMeta, Vote},
};

/// Raised when an older version could misread the file.
const FORMAT: u32 = 1;
/// Page cache: the log is in memory anyway.
const CACHE_BYTES: usize = 8 << 20;

/// index -> checksum and entry.
pub(super) const LOG: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("log");
/// name -> checksum and value: `about`, `vote`, `committed`, `purged`, `snapshot`.
pub(super) const FACTS: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("facts");

/// Whose store this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) format: u32,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeName,
    /// Names this incarnation of the store, and the node in the consensus.
    pub(crate) raft_id: u64,
}

/// The newest snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredSnapshot {
    pub(crate) meta: SnapshotMeta,
    pub(crate) bytes: Vec<u8>,
}

/// All that was in the file when it was opened, and the open file.
pub(crate) struct StoreFile {
    pub(crate) about: About,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) entries: Vec<LogEntry>,
    pub(crate) snapshot: Option<StoredSnapshot>,
    pub(super) database: Database,
}

/// A value as it is stored: CRC-32C, little endian, then postcard.
pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, io::Error> {
    let body = postcard::to_stdvec(value).map_err(io::Error::other)?;
    let mut bytes = crc32c::crc32c(&body).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, String> {
    let (sum, body) = bytes.split_first_chunk::<4>().ok_or_else(|| format!("{what} is cut short"))?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return Err(format!("the checksum of {what} is wrong"));
    }
    postcard::from_bytes(body).map_err(|error| format!("{what} cannot be read: {error}"))
}

/// Makes an empty store for `node`; the file appears whole or not at all.
pub(crate) fn create(path: &Path, cluster: ClusterId, node: &NodeName, raft_id: u64) -> Result<(), StoreError> {
    if path.exists() {
        return Err(StoreError::Exists { path: path.into() });
    }
    let about = About { format: FORMAT, cluster, node: node.clone(), raft_id };
    let fresh = path.with_extension("redb.new");
    write_new(&fresh, &about)
        .and_then(|()| std::fs::rename(&fresh, path).map_err(|error| error.to_string()))
        .and_then(|()| sync_parent(path).map_err(|error| error.to_string()))
        .map_err(|why| StoreError::Disk { path: path.into(), why })
}

fn write_new(path: &Path, about: &About) -> Result<(), String> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.to_string()),
        _ => {}
    }
    let about = encode(about).map_err(|error| error.to_string())?;
    let write = || -> Result<(), redb::Error> {
        // It holds the key of the cluster's authority.
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let database = Builder::new().set_cache_size(CACHE_BYTES).create(path)?;
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.open_table(LOG)?;
        transaction.open_table(FACTS)?.insert("about", about.as_slice())?;
        transaction.commit()?;
        database.close()?;
        Ok(())
    };
    write().map_err(|error| error.to_string())
}

impl StoreFile {
    /// Opens the store of `node` and reads all of it, checking every sum.
    pub(crate) fn open(path: &Path, cluster: ClusterId, node: &NodeName) -> Result<Self, StoreError> {
        if !path.exists() {
            return Err(StoreError::Missing { path: path.into() });
        }
        let in_use = || StoreError::InUse { path: path.into() };
        let scratch =
            Scratch::copy(path).map_err(|error| StoreError::Disk { path: path.into(), why: error.to_string() })?;
        let scratch = scratch.ok_or_else(in_use)?;
        // Nothing of it is opened for writing before all of it was read and believed.
        Self::examine(path, cluster, node, |builder| builder.create_with_backend(scratch))?;
        Self::examine(path, cluster, node, |builder| builder.open(path))
    }

    fn examine(
        path: &Path,
        cluster: ClusterId,
        node: &NodeName,
        open: impl FnOnce(&mut Builder) -> Result<Database, DatabaseError>,
    ) -> Result<Self, StoreError> {
        let damaged = |why: String| StoreError::Damaged { path: path.into(), why };
        // redb repairs what a crash left, and may panic on a file that something else wrote into.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            open(Builder::new().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true))
        }));
        let database = match opened {
            Ok(Ok(database)) => database,
            Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => return Err(StoreError::InUse { path: path.into() }),
            Ok(Err(DatabaseError::Storage(StorageError::Io(error))))
                if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                return Err(StoreError::Disk { path: path.into(), why: error.to_string() });
            }
            Ok(Err(error)) => return Err(damaged(error.to_string())),
            Err(_panic) => return Err(damaged("its pages contradict each other".into())),
        };
        let store = Self::read(database).map_err(damaged)?;
        let about = &store.about;
        if about.format != FORMAT {
            return Err(StoreError::Format { path: path.into(), found: about.format, expected: FORMAT });
        }
        if about.cluster != cluster || about.node != *node {
            return Err(StoreError::Foreign {
                path: path.into(),
                node: about.node.clone(),
                cluster: about.cluster,
                own_node: node.clone(),
                own_cluster: cluster,
            });
        }
        Ok(store)
    }

    fn read(database: Database) -> Result<Self, String> {
        let transaction = database.begin_read().map_err(|error| error.to_string())?;
        let facts = transaction.open_table(FACTS).map_err(|_| "it is not a store of Tandem's".to_owned())?;
        let bytes = |name: &str| -> Result<Option<Vec<u8>>, String> {
            Ok(facts.get(name).map_err(|error| error.to_string())?.map(|value| value.value().to_vec()))
        };
        fn fact<T: DeserializeOwned>(bytes: Option<Vec<u8>>, what: &str) -> Result<Option<T>, String> {
            bytes.map(|bytes| decode(&bytes, what)).transpose()
        }
        let about: About = fact(bytes("about")?, "the owner's name")?.ok_or("it does not say whose it is")?;
        if about.format != FORMAT {
            drop((facts, transaction));
            return Ok(Self {
                about,
                vote: None,
                committed: None,
                purged: None,
                entries: vec![],
                snapshot: None,
                database,
            });
        }
        let vote = fact(bytes("vote")?, "the vote")?;
        let committed = fact(bytes("committed")?, "the commit index")?;
        let purged: Option<LogId> = fact(bytes("purged")?, "the first index")?;
        let snapshot: Option<StoredSnapshot> = fact(bytes("snapshot")?, "the snapshot")?;
        let log = transaction.open_table(LOG).map_err(|error| error.to_string())?;
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut expected = purged.as_ref().map(|purged| purged.index() + 1);
        for pair in log.iter().map_err(|error| error.to_string())? {
            let (index, value) = pair.map_err(|error| error.to_string())?;
            let index = index.value();
            if expected.is_some_and(|expected| expected != index) {
                return Err(format!("its log has a hole before entry {index}"));
            }
            let entry: LogEntry = decode(value.value(), &format!("entry {index}"))?;
            if entry.log_id.index() != index {
                return Err(format!("entry {index} says that it is {}", entry.log_id.index()));
            }
            entries.push(entry);
            expected = Some(index + 1);
        }
        if let (Some(purged), covered) =
            (&purged, snapshot.as_ref().and_then(|snapshot| snapshot.meta.last_log_id.as_ref()))
            && covered.is_none_or(|covered| covered.index() < purged.index())
        {
            return Err(format!("entries up to {} are gone and no snapshot holds them", purged.index()));
        }
        drop((log, facts, transaction));
        Ok(Self { about, vote, committed, purged, entries, snapshot, database })
    }
}
