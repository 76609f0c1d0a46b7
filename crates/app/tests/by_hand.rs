//! A cluster without the lab: three agents started by hand, as an administrator would on three machines. Their addresses
//! are on the loopback of a network namespace that this test makes for itself.

mod machine;

use machine::{Machine, cluster::PLAN, said, tandem, wait_for};

#[test]
fn three_agents_form_a_cluster_and_a_service_moves() {
    machine::own_network(&["10.77.1.1/24", "10.77.1.2/24", "10.77.1.3/24"]);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let plan = folder.path().join("plan.toml");
    std::fs::write(&plan, PLAN).expect("the folder is ours");
    let mut a1 = Machine::new(folder.path(), "a1");
    let mut b1 = Machine::new(folder.path(), "b1");
    let mut w1 = Machine::new(folder.path(), "w1");

    // Before anything: what an agent without an identity says.
    let early = a1.run(&["agent"]);
    assert!(!early.status.success() && said(&early).contains("tandem init"), "{}", said(&early));

    let init = a1.run(&["init", "--node", "a1", "--plan", plan.to_str().expect("the path is text")]);
    assert!(init.status.success(), "{}", said(&init));
    let token = String::from_utf8(init.stdout).expect("a token is text").trim().to_owned();
    let again = a1.run(&["init", "--node", "a1", "--plan", plan.to_str().expect("the path is text")]);
    assert!(!again.status.success() && said(&again).contains("belongs to a cluster already"), "{}", said(&again));
    a1.start_agent();

    // A wrong token, and a name that the plan does not have, are refused; then the real thing.
    let mut wrong = token.clone();
    let secret = wrong.match_indices('.').nth(2).expect("a token has five parts").0 + 1;
    let other = if &wrong[secret..=secret] == "0" { "1" } else { "0" };
    wrong.replace_range(secret..=secret, other);
    wait_for("a1 answers a join", || {
        let join = b1.run(&["join", "--node", "b1", "--token", &wrong, "--address", "10.77.1.2"]);
        assert!(!join.status.success());
        said(&join).contains("token")
    });
    let stranger = b1.run(&["join", "--node", "stranger", "--token", &token, "--address", "10.77.1.2"]);
    assert!(!stranger.status.success() && said(&stranger).contains("stranger"), "{}", said(&stranger));
    for (machine, address) in [(&mut b1, "10.77.1.2"), (&mut w1, "10.77.1.3")] {
        let name = machine.name.clone();
        let join = machine.run(&["join", "--node", &name, "--token", &token, "--address", address]);
        assert!(join.status.success(), "{}", said(&join));
        machine.start_agent();
    }
    wait_for("all is well everywhere", || [&a1, &b1, &w1].iter().all(|machine| machine.is_well()));
    let status = a1.status().expect("it just answered");
    assert_eq!(status["services"][0]["node"], "a1");

    // A second agent of the same machine, and a stranger's program on the port.
    let second = a1.run(&["agent"]);
    assert!(!second.status.success() && said(&second).contains("another agent"), "{}", said(&second));

    // A planned switchover, and what the log says of it.
    let moved = a1.run(&["move", "disk", "--to", "b1"]);
    assert!(moved.status.success(), "{}", said(&moved));
    wait_for("the service runs on b1", || {
        b1.status()
            .is_some_and(|status| status["services"][0]["node"] == "b1" && status["services"][0]["phase"] == "running")
    });
    let why = b1.run(&["explain", "disk"]);
    assert!(why.status.success() && said(&why).contains("b1"), "{}", said(&why));
    let to_witness = a1.run(&["move", "disk", "--to", "w1"]);
    assert!(!to_witness.status.success(), "{}", said(&to_witness));

    // The agent is killed and comes back on the same boot: nothing was released.
    let epoch = b1.status().expect("it answers")["groups"][0]["epoch"].clone();
    b1.kill_agent();
    b1.start_agent();
    wait_for("all is well again", || b1.is_well());
    assert_eq!(b1.status().expect("it answers")["groups"][0]["epoch"], epoch, "an agent's restart releases nothing");

    // A port in use is said clearly.
    w1.kill_agent();
    let squatter = std::net::TcpListener::bind("10.77.1.3:7400").expect("the agent is gone");
    let refused = w1.run(&["agent"]);
    assert!(!refused.status.success() && said(&refused).contains("10.77.1.3:7400"), "{}", said(&refused));
    drop(squatter);
    w1.start_agent();
    wait_for("the witness is back", || a1.is_well());
}

#[test]
fn a_wrong_plan_is_pointed_at_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let plan = folder.path().join("plan.toml");
    std::fs::write(&plan, PLAN.replace("replicas = [\"a1\", \"b1\"]", "replicas = [\"a1\", \"b2\"]"))
        .expect("it is ours");
    let checked = tandem().args(["plan", "check"]).arg(&plan).output().expect("the binary runs");
    let text = said(&checked);
    assert_eq!(checked.status.code(), Some(1), "{text}");
    assert!(text.contains("plan.toml:18:") && text.contains("b2") && text.contains('^'), "{text}");

    let missing = tandem().args(["plan", "check", "/nowhere/plan.toml"]).output().expect("the binary runs");
    assert!(!missing.status.success() && said(&missing).contains("/nowhere/plan.toml"), "{}", said(&missing));

    let machine = Machine::new(folder.path(), "a1");
    let init = machine.run(&["init", "--node", "a1", "--plan", plan.to_str().expect("the path is text")]);
    assert!(!init.status.success());
    assert!(!machine.data_dir().exists(), "a refused plan leaves nothing behind");
}
