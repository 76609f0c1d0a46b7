use std::{fs, path::Path};

use openraft::{
    StorageError,
    storage::RaftLogStorage,
    testing::log::{StoreBuilder, Suite},
    type_config::TypeConfigExt,
};

use super::*;
use crate::raft::{LogEntry, LogId, Types, Vote};

const CLUSTER: ClusterId = ClusterId(7);

fn node() -> NodeName {
    NodeName::new("r1").expect("a name")
}

fn open(path: &Path) -> Result<(Log, Machine), StoreError> {
    let (log, snapshot) = Log::new(StoreFile::open(path, CLUSTER, &node())?).expect("starts a thread");
    let machine = Machine::new(log.clone(), snapshot).expect("a readable snapshot");
    Ok((log, machine))
}

struct Fresh;

impl StoreBuilder<Types, Log, Machine, tempfile::TempDir> for Fresh {
    async fn build(&self) -> Result<(tempfile::TempDir, Log, Machine), StorageError<Types>> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("cluster.redb");
        create(&path, CLUSTER, &node(), 1).expect("creates");
        let (log, machine) = open(&path).expect("opens");
        Ok((directory, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_own_suite_passes() {
    Suite::<Types, Log, Machine, Fresh, tempfile::TempDir>::test_all(Fresh).await.expect("the suite");
}

fn entry(index: u64) -> LogEntry {
    let leader = openraft::impls::leader_id_adv::LeaderId { term: 1, node_id: 1 };
    LogEntry { log_id: LogId::new(leader, index), payload: openraft::EntryPayload::Blank }
}

async fn append(log: &mut Log, entries: std::ops::Range<u64>) {
    let (sender, receiver) = Types::oneshot();
    let callback = openraft::storage::IOFlushed::signal(sender);
    log.append(entries.map(entry), callback).await.expect("queues");
    receiver.await.expect("answers").expect("writes");
}

#[tokio::test]
async fn what_was_promised_is_there_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cluster.redb");
    create(&path, CLUSTER, &node(), 0xfeed).expect("creates");
    let vote = Vote::new(3, 1);
    {
        let (mut log, _) = open(&path).expect("opens");
        log.save_vote(&vote).await.expect("saves");
        append(&mut log, 0..10).await;
        log.truncate_after(Some(entry(7).log_id)).await.expect("truncates");
        log.close().await;
    }
    let file = StoreFile::open(&path, CLUSTER, &node()).expect("opens again");
    assert_eq!(file.about.raft_id, 0xfeed);
    assert_eq!(file.vote, Some(vote));
    assert_eq!(file.entries, (0..8).map(entry).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_foreign_damaged_or_missing_store_is_refused_and_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cluster.redb");
    assert!(matches!(open(&path), Err(StoreError::Missing { .. })));
    assert!(!path.exists(), "looking does not create");

    create(&path, CLUSTER, &node(), 1).expect("creates");
    assert!(matches!(create(&path, CLUSTER, &node(), 1), Err(StoreError::Exists { .. })));
    let other = NodeName::new("h1").expect("a name");
    assert!(matches!(StoreFile::open(&path, CLUSTER, &other), Err(StoreError::Foreign { .. })));
    assert!(matches!(StoreFile::open(&path, ClusterId(8), &node()), Err(StoreError::Foreign { .. })));

    let (mut log, _) = open(&path).expect("opens");
    assert!(matches!(open(&path), Err(StoreError::InUse { .. })));
    append(&mut log, 0..200).await;
    log.close().await;

    let whole = fs::read(&path).expect("readable");
    for (name, damage) in [
        ("empty", Vec::new()),
        ("text", b"this is not a store".repeat(1000)),
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("zeroed head", [vec![0; 4096], whole[4096..].to_vec()].concat()),
    ] {
        fs::write(&path, &damage).expect("ours");
        let error = open(&path).map(|_| ()).expect_err(name);
        assert!(matches!(error, StoreError::Damaged { .. }), "{name}: {error:?}");
        assert!(fs::read(&path).expect("readable") == damage, "{name}: it was overwritten");
    }
    // One flipped bit in each page that the log's entries lie in: found by a sum, wherever it is.
    let mut seen = 0;
    for page in (0..whole.len()).step_by(4096) {
        let mut damage = whole.clone();
        damage[page + 100] ^= 1;
        fs::write(&path, &damage).expect("ours");
        match StoreFile::open(&path, CLUSTER, &node()) {
            Err(StoreError::Damaged { .. }) => {
                seen += 1;
                assert!(fs::read(&path).expect("readable") == damage, "page at {page}: it was overwritten");
            }
            Err(error) => panic!("page at {page}: {error:?}"),
            Ok(file) => assert_eq!(file.entries.len(), 200, "a page that holds nothing of ours: {page}"),
        }
    }
    assert!(seen > 0);
}
