//! Whole nodes in this process, on loopback ports.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use openraft::async_runtime::watch::WatchReceiver;
use tandem_base::{Duration as Span, NodeName, RunId};
use tandem_cluster::{Command, NodeSpec, Timings, Topology};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    ALPN_CONTROL, ALPN_JOIN, Config, ControlPlane, Founding, JoinToken, alpn, clock,
    control::random,
    found,
    join::{self, Joining},
};

mod refusals;

/// Far more than anything here takes on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a name")
}

fn timings() -> Timings {
    Timings {
        heartbeat: Span::from_millis(200),
        lease: Span::from_millis(2_000),
        grace: Span::from_millis(300),
        raft_heartbeat: Span::from_millis(100),
        election_timeout_min: Span::from_millis(600),
        election_timeout_max: Span::from_millis(1_000),
        ..Timings::default()
    }
}

/// r1 and h1 hold data, w1 is the witness; all vote.
fn topology() -> Topology {
    let node = |witness| NodeSpec { site: None, witness, voter: true };
    Topology {
        nodes: [("r1", false), ("h1", false), ("w1", true)].map(|(text, witness)| (name(text), node(witness))).into(),
        timings: timings(),
        ..Topology::default()
    }
}

async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

struct Node {
    name: &'static str,
    data: PathBuf,
    address: String,
    run: RunId,
    control: ControlPlane,
    accepting: JoinHandle<()>,
}

impl Node {
    async fn start(name: &'static str, data: &Path, address: &str, run: RunId) -> Self {
        let config = Config { snapshot_every: 60, keep: 10, ..Config::new(data, run, timings()) };
        let control = ControlPlane::open(config).await.expect("opens");
        let listener = TcpListener::bind(address).await.expect("the port is free again");
        let to = control.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let to = to.clone();
                tokio::spawn(async move {
                    match alpn::peek(&stream).await {
                        Ok(offered) if offered == [ALPN_CONTROL.to_vec()] => to.accept(stream, ()),
                        Ok(offered) if offered == [ALPN_JOIN.to_vec()] => to.accept_join(stream, ()),
                        _ => {}
                    }
                });
            }
        });
        Self { name, data: data.into(), address: address.into(), run, control, accepting }
    }

    async fn stop(self) -> (&'static str, PathBuf, String, RunId) {
        self.accepting.abort();
        self.control.shutdown().await;
        (self.name, self.data, self.address, self.run)
    }

    async fn restart(stopped: (&'static str, PathBuf, String, RunId)) -> Self {
        let (name, data, address, run) = stopped;
        Self::start(name, &data, &address, run).await
    }

    fn voters(&self) -> Vec<String> {
        let metrics = self.control.core.raft.metrics();
        let members = metrics.borrow_watched().committed_membership_config.clone();
        let mut names: Vec<String> =
            members.voter_ids().filter_map(|id| Some(members.get_node(&id)?.node.to_string())).collect();
        names.sort();
        names
    }

    fn leader(&self) -> Option<String> {
        self.control.leader().borrow().as_ref().map(ToString::to_string)
    }

    fn notes(&self) -> Vec<String> {
        let applied = self.control.watch().borrow().clone();
        let mut notes: Vec<String> = applied
            .state
            .events()
            .iter()
            .filter(|event| event.why == "a test")
            .map(|event| event.what.clone())
            .collect();
        notes.sort();
        notes
    }

    async fn note(&self, what: &str) -> u64 {
        let command = Command::Note { node: name(self.name), what: what.into(), why: "a test".into() };
        let entry = crate::control::entry(&name(self.name), command);
        let committed = self.control.propose_entry(entry, PATIENCE).await.expect("is committed");
        assert!(committed.outcome.is_done());
        committed.index
    }
}

async fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("bound").to_string()
}

async fn founded(directory: &Path) -> (Node, JoinToken) {
    let (data, address) = (directory.join("r1"), free_address().await);
    let founding = Founding {
        data: data.clone(),
        node: name("r1"),
        address: address.clone(),
        plan: "the plan".into(),
        topology: topology(),
        addresses: vec![],
    };
    let founded = found(founding.clone()).await.expect("is founded");
    assert!(matches!(found(founding).await, Err(crate::FoundError::Exists { .. })));
    let token = founded.token.to_string().parse().expect("a token reads what it printed");
    (Node::start("r1", &data, &address, RunId(random())).await, token)
}

async fn joined(directory: &Path, node: &'static str, token: &JoinToken) -> Node {
    let (data, address) = (directory.join(node), free_address().await);
    let joining = Joining { data: data.clone(), node: name(node), address: address.clone(), token: token.clone() };
    let joined = join::join(joining).await.expect("joins");
    assert_eq!((joined.cluster, joined.plan.as_str()), (token.cluster, "the plan"));
    Node::start(node, &data, &address, RunId(random())).await
}

/// r1, h1 and w1, all of them voters, led by the witness.
async fn duo(directory: &Path) -> (Vec<Node>, JoinToken) {
    let (r1, token) = founded(directory).await;
    let h1 = joined(directory, "h1", &token).await;
    let w1 = joined(directory, "w1", &token).await;
    let nodes = vec![r1, h1, w1];
    for node in &nodes {
        eventually("three voters", || (node.voters() == ["h1", "r1", "w1"]).then_some(())).await;
        eventually("the witness leads", || (node.leader().as_deref() == Some("w1")).then_some(())).await;
    }
    (nodes, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_go_on_without_any_one_of_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut nodes, _) = duo(directory.path()).await;
    let mut expected: Vec<String> = Vec::new();
    for node in &nodes {
        node.note(&format!("from {}", node.name)).await;
        expected.push(format!("from {}", node.name));
    }
    expected.sort();
    for node in &nodes {
        eventually("all have all", || (node.notes() == expected).then_some(())).await;
        let read = node.control.read().await.expect("reads");
        assert!(read.state.events().iter().any(|event| event.what == "from w1"));
    }
    assert!(nodes[2].control.confirm_leadership().await.is_ok());
    assert_eq!(nodes[0].control.confirm_leadership().await.err(), Some(crate::ConfirmError::NotLeader));

    let stopped = nodes.remove(2).stop().await;
    expected.push(format!("without {}", stopped.0));
    nodes[0].note(&expected[expected.len() - 1]).await;
    let leader = eventually("another leads", || nodes[0].leader().filter(|leader| leader != "w1")).await;
    assert!(leader == "r1" || leader == "h1");

    // The leader's disk has what it promised, and the office goes back to the witness.
    nodes.push(Node::restart(stopped).await);
    expected.sort();
    for node in &nodes {
        eventually("all have all again", || (node.notes() == expected).then_some(())).await;
        eventually("the witness leads again", || (node.leader().as_deref() == Some("w1")).then_some(())).await;
    }

    // All at once, as after a power cut.
    let mut stopped = Vec::new();
    for node in nodes {
        stopped.push(node.stop().await);
    }
    let mut nodes = Vec::new();
    for node in stopped {
        nodes.push(Node::restart(node).await);
    }
    nodes[1].note("after the power cut").await;
    expected.push("after the power cut".into());
    expected.sort();
    for node in &nodes {
        eventually("all came back", || (node.notes() == expected).then_some(())).await;
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lives_while_its_node_does() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut nodes, _) = duo(directory.path()).await;
    let leases: BTreeMap<_, _> = nodes.iter().map(|node| (node.name, node.control.hold_lease())).collect();
    for node in &nodes {
        let lease = eventually("a lease", || {
            let lease = *leases[node.name].borrow();
            lease.until.map(|_| lease)
        })
        .await;
        assert!(node.control.watch().borrow().index >= lease.index, "the state comes before the lease");
        assert!(lease.until.is_some_and(|until| until > clock::now()));
    }
    let session = leases["r1"].borrow().session;
    // Renewed, not only granted.
    let first = leases["r1"].borrow().until;
    eventually("a later end", || (leases["r1"].borrow().until > first).then_some(())).await;

    let (_, data, address, run) = nodes.remove(1).stop().await;
    let h1 = name("h1");
    let stopped = clock::now();
    let watch = nodes[0].control.watch();
    eventually("h1's session expires", || watch.borrow().state.live_run(&h1).is_none().then_some(())).await;
    assert!(clock::now().since(stopped) + Span::from_millis(400) > timings().lease, "not before its lease was over");
    assert_eq!(leases["r1"].borrow().session, session, "r1 goes on in its session");

    // A second machine with r1's identity gets no session.
    let second = nodes[0].control.clone();
    let command = Command::OpenSession { node: name("r1"), run: RunId(1), session: tandem_base::SessionId(1) };
    let refused = second.propose(command).await.expect("is in the log").outcome;
    assert!(!refused.is_done(), "{refused:?}");

    // The leader goes, and with it its table; the other two nodes' leases do not lapse for good.
    let h1 = Node::start("h1", &data, &address, run).await;
    let lease = h1.control.hold_lease();
    eventually("h1 has a lease again", || lease.borrow().until.map(|_| ())).await;
    nodes.push(h1);
    nodes.remove(1).stop().await;
    let before = clock::now();
    for node in &nodes {
        let lease = node.control.hold_lease();
        let after = before + timings().lease;
        eventually("renewed by the new leader", || lease.borrow().until.filter(|until| *until > after)).await;
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_node_gets_a_snapshot() {
    let directory = tempfile::tempdir().expect("a directory");
    let (r1, token) = founded(directory.path()).await;
    for number in 0..150 {
        r1.note(&format!("note {number}")).await;
    }
    let metrics = r1.control.core.raft.metrics();
    eventually("the log was purged", || {
        metrics.borrow_watched().purged.as_ref().is_some_and(|purged| purged.index() > 50).then_some(())
    })
    .await;
    let h1 = joined(directory.path(), "h1", &token).await;
    let last = r1.note("the last").await;
    let (there, here) = (h1.control.applied_to(last).await, r1.control.applied_to(last).await);
    assert!(there.index >= last && here.state.events().iter().count() > 0);
    eventually("the states agree", || {
        let (there, here) = (h1.control.watch().borrow().clone(), r1.control.watch().borrow().clone());
        (there.index == here.index && there.state == here.state).then_some(())
    })
    .await;
    // Both come back from their disks, h1 from the snapshot that it was sent.
    let (r1, h1) = (r1.stop().await, h1.stop().await);
    let (r1, h1) = (Node::restart(r1).await, Node::restart(h1).await);
    let last = h1.note("after all").await;
    h1.control.applied_to(last).await;
    assert!(h1.notes().contains(&"the last".to_owned()));
    r1.stop().await;
    h1.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_go_directly_goes_round() {
    let directory = tempfile::tempdir().expect("a directory");
    let (nodes, _) = duo(directory.path()).await;
    let [r1, h1, w1] = nodes.as_slice() else { unreachable!("three were started") };
    let lease = r1.control.hold_lease();
    eventually("a lease", || lease.borrow().until.map(|_| ())).await;
    r1.control.cut(&["w1"]);
    w1.control.cut(&["r1"]);
    eventually("r1 does not reach w1", || (!r1.control.is_reachable(&name("w1"))).then_some(())).await;
    let cut = clock::now();
    let index = r1.note("round").await;
    r1.control.applied_to(index).await;
    let after = cut + timings().lease + timings().lease;
    eventually("r1 renews for longer than a lease", || lease.borrow().until.filter(|until| *until > after)).await;
    assert!(!r1.control.is_reachable(&name("w1")), "still cut");
    assert!(h1.notes().contains(&"round".to_owned()) || h1.control.applied_to(index).await.index >= index);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_loses_its_lease_and_comes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let (nodes, _) = duo(directory.path()).await;
    let r1 = &nodes[0];
    let lease = r1.control.hold_lease();
    eventually("a lease", || lease.borrow().until.map(|_| ())).await;
    let session = lease.borrow().session;
    r1.control.cut(&["h1", "w1"]);
    nodes[1].control.cut(&["r1"]);
    nodes[2].control.cut(&["r1"]);
    eventually("the lease lapses", || lease.borrow().until.is_none().then_some(())).await;
    let alone = r1.control.propose(Command::SetPaused { on: true }).await;
    assert!(alone.is_err(), "{alone:?}");
    let watch = nodes[2].control.watch();
    eventually("its session expires", || watch.borrow().state.live_run(&name("r1")).is_none().then_some(())).await;
    for node in &nodes {
        node.control.cut(&[]);
    }
    eventually("a lease again", || lease.borrow().until.map(|_| ())).await;
    assert_ne!(lease.borrow().session, session, "an expired session never comes back");
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_store_comes_back_as_a_new_member() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut nodes, token) = duo(directory.path()).await;
    let before = nodes[1].control.core.about.raft_id;
    let (_, data, address, _) = nodes.remove(1).stop().await;
    std::fs::remove_file(data.join("cluster.redb")).expect("ours");
    let config = Config::new(&data, RunId(1), timings());
    let lost = ControlPlane::open(config).await.err().expect("no store");
    assert!(lost.hint().is_some_and(|hint| hint.contains("join")), "{lost}");
    let joining = Joining { data: data.clone(), node: name("h1"), address: address.clone(), token };
    join::join(joining).await.expect("joins again");
    nodes.push(Node::start("h1", &data, &address, RunId(random())).await);
    let after = nodes[2].control.core.about.raft_id;
    assert_ne!(before, after);
    for node in &nodes {
        eventually("the new store votes, the old one is gone", || {
            let metrics = node.control.core.raft.metrics();
            let members = metrics.borrow_watched().committed_membership_config.clone();
            let voters: Vec<u64> = members.voter_ids().collect();
            (voters.len() == 3 && voters.contains(&after) && members.get_node(&before).is_none()).then_some(())
        })
        .await;
    }
    nodes[2].note("back").await;
    for node in nodes {
        node.stop().await;
    }
}
