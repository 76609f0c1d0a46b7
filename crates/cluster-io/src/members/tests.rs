use tandem_cluster::{Admission, CertificateAuthority, Command, Entry, NodeSpec, Topology};

use super::*;

fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a name")
}

fn peer(node: &str) -> Peer {
    Peer { node: name(node), address: format!("{node}:7400") }
}

/// A state whose plan has the voters r1, h1 and the witness w1, of which these were admitted.
fn applied(admitted: &[(&str, u64)]) -> Applied {
    let mut applied = Applied::default();
    let node = |witness| NodeSpec { site: None, witness, voter: true };
    let topology = Topology {
        nodes: [("r1", false), ("h1", false), ("w1", true)].map(|(text, witness)| (name(text), node(witness))).into(),
        ..Topology::default()
    };
    let admission =
        |(node, raft_id): &(&str, u64)| Admission { node: name(node), address: peer(node).address, raft_id: *raft_id };
    let found = Command::Found {
        cluster: tandem_base::ClusterId(1),
        plan: String::new(),
        topology: Box::new(topology),
        ca: CertificateAuthority { cert_pem: String::new(), key_pem: String::new() },
        first: admission(&admitted[0]),
        token_digest: String::new(),
    };
    let commands = std::iter::once(found).chain(admitted[1..].iter().map(|node| Command::Admit(admission(node))));
    for (index, command) in (1..).zip(commands) {
        let entry = Entry { at_ms: 0, by: name("r1"), id: 0, command };
        assert!(applied.state.apply(index, &entry).is_done());
    }
    applied
}

fn view(nodes: &[(&str, u64)], voters: &[u64], caught_up: &[u64]) -> View {
    View {
        own: nodes[0].1,
        nodes: nodes.iter().map(|(node, id)| (*id, peer(node))).collect(),
        voters: voters.iter().copied().collect(),
        joint: false,
        caught_up: caught_up.iter().copied().collect(),
    }
}

#[test]
fn voters_change_from_one_to_three_at_once() {
    let state = applied(&[("r1", 1)]);
    assert_eq!(next_step(&view(&[("r1", 1)], &[1], &[1]), &state), None, "alone until others join");
    let state = applied(&[("r1", 1), ("h1", 2)]);
    assert_eq!(next_step(&view(&[("r1", 1)], &[1], &[1]), &state), Some(Step::AddLearner(2, peer("h1"))));
    let two = view(&[("r1", 1), ("h1", 2)], &[1], &[1, 2]);
    assert_eq!(next_step(&two, &state), None, "two voters would both be needed");
    let state = applied(&[("r1", 1), ("h1", 2), ("w1", 3)]);
    let nodes = [("r1", 1), ("h1", 2), ("w1", 3)];
    assert_eq!(next_step(&view(&nodes, &[1], &[1, 2]), &state), None, "w1 has to catch up first");
    let all = [1, 2, 3].into();
    assert_eq!(next_step(&view(&nodes, &[1], &[1, 2, 3]), &state), Some(Step::SetVoters(all)));
    assert_eq!(next_step(&view(&nodes, &[1, 2, 3], &[1, 2, 3]), &state), None);
    assert_eq!(next_step(&view(&nodes, &[1, 2, 3], &[1, 3]), &state), None, "a voter that is away stays one");
}

#[test]
fn a_store_that_came_back_empty_votes_only_as_a_new_member() {
    let state = applied(&[("r1", 1), ("h1", 2), ("w1", 3), ("h1", 22)]);
    let before = [("r1", 1), ("h1", 2), ("w1", 3)];
    assert_eq!(next_step(&view(&before, &[1, 2, 3], &[1, 3]), &state), Some(Step::AddLearner(22, peer("h1"))));
    let both = [("r1", 1), ("h1", 2), ("w1", 3), ("h1", 22)];
    assert_eq!(next_step(&view(&both, &[1, 2, 3], &[1, 3]), &state), None, "it catches up first");
    let step = next_step(&view(&both, &[1, 2, 3], &[1, 3, 22]), &state);
    assert_eq!(step, Some(Step::SetVoters([1, 3, 22].into())));
    assert_eq!(next_step(&view(&both, &[1, 3, 22], &[1, 3, 22]), &state), Some(Step::Remove(2)));
}

#[test]
fn the_witness_leads_when_it_can() {
    let state = applied(&[("r1", 1), ("h1", 2), ("w1", 3)]);
    let nodes = [("r1", 1), ("h1", 2), ("w1", 3)];
    let whole = view(&nodes, &[1, 2, 3], &[1, 2, 3]);
    assert_eq!(successor(&whole, &state, |_| true), Some(3));
    assert_eq!(successor(&whole, &state, |id| id != 3), None, "h1 is no better than r1");
    assert_eq!(successor(&view(&nodes, &[1, 2, 3], &[1, 2]), &state, |_| true), None, "w1 lacks entries");
    assert_eq!(successor(&view(&nodes, &[1, 2], &[1, 2, 3]), &state, |_| true), None, "w1 does not vote");
    let from_witness = view(&[("w1", 3), ("r1", 1), ("h1", 2)], &[1, 2, 3], &[1, 2, 3]);
    assert_eq!(successor(&from_witness, &state, |_| true), None);
}
