//! Agents with the identity, the log or the token of another cluster, and two agents of one directory.

use crate::machine::{Machine, cluster::Cluster, said, wait_for};
use std::{fs, path::Path, process::Output};

fn join(machine: &Machine, token: &str) -> Output {
    machine.run(&["join", "--node", "b1", "--token", token, "--address", "10.77.1.2"])
}

#[track_caller]
fn refuses(output: &Output, words: &[&str]) {
    let text = said(output);
    assert!(!output.status.success(), "{text}");
    for words in words {
        assert!(text.contains(words), "{words}: {text}");
    }
}

fn copy(from: &Path, to: &Path) {
    crate::machine::run_tool("cp", &["-a", from.to_str().expect("text"), to.to_str().expect("text")]);
}

#[test]
fn another_clusters_identity_changes_nothing() {
    let mut cluster = Cluster::up(|_| ());
    // Another cluster with the same plan.
    let folder = cluster.folder.path();
    let plan = folder.join("plan.toml");
    let other = Machine::new(folder, "other");
    let init = other.run(&["init", "--node", "b1", "--plan", plan.to_str().expect("the path is text")]);
    assert!(init.status.success(), "{}", said(&init));
    let theirs = String::from_utf8(init.stdout).expect("a token is text").trim().replace("10.77.1.2", "10.77.1.1");

    // Tokens: another cluster's, one that was used and whose node lives, a cut one, and one that leads nowhere.
    let fresh = Machine::new(folder, "fresh");
    refuses(&join(&fresh, &theirs), &["10.77.1.1:7400 answers, but it is no node of cluster", "hint: use the token"]);
    refuses(&join(&fresh, &cluster.token), &["`b1` is a live node already", "once its session has expired"]);
    let cut = join(&fresh, &cluster.token[..60]);
    refuses(&cut, &["the join token is damaged", "64 hex digits"]);
    assert_eq!(cut.status.code(), Some(2));
    refuses(
        &join(&fresh, &cluster.token.replace("10.77.1.1:7400", "10.77.1.1:1")),
        &["Connection refused", "hint: is"],
    );
    assert!(!fresh.data_dir().exists(), "a join that was refused leaves nothing");
    refuses(&join(&cluster.b1, &cluster.token), &["this machine is a node already", "hint: start the agent"]);

    // A second agent, on the same directories and on the same log with other directories.
    refuses(&cluster.a1.run(&["agent"]), &["another agent of this machine holds", "hint: "]);
    let second = cluster.a1.command(&["agent"]).env("TANDEM_RUN_DIR", folder.join("run2")).output().expect("it runs");
    refuses(&second, &["cluster.redb is in use by another process", "hint: stop the other agent first"]);

    // The other cluster's identity over our own log.
    cluster.b1.power_off();
    let (data, kept) = (cluster.b1.data_dir(), folder.join("kept"));
    fs::rename(data.join("identity"), &kept).expect("it is ours");
    copy(&other.data_dir().join("identity"), &data.join("identity"));
    let before = fs::read(data.join("cluster.redb")).expect("it is ours");
    refuses(
        &cluster.b1.run(&["agent"]),
        &["cluster.redb belongs to `b1` of cluster", "hint: identity and store belong"],
    );
    assert!(fs::read(data.join("cluster.redb")).expect("it is ours") == before, "nothing was overwritten");
    fs::remove_dir_all(data.join("identity")).expect("it is ours");
    fs::rename(&kept, data.join("identity")).expect("it is ours");

    // All of the other cluster in b1's place: the two clusters have nothing to do with each other.
    fs::rename(&data, &kept).expect("it is ours");
    copy(&other.data_dir(), &data);
    cluster.b1.start_lab_agent();
    cluster.wait_status(&cluster.a1, "who answers there is not this node of cluster");
    let status = cluster.a1.says(&["status"]);
    assert!(status.contains("node b1 is silent: it holds no lease (a1 to 10.77.1.2:7400: who answers"), "{status}");
    wait_for("the foreign cluster's own view", || said(&cluster.b1.run(&["status"])).contains("a1 has never joined"));
    cluster.b1.power_off();
    fs::remove_dir_all(&data).expect("it is ours");
    fs::rename(&kept, &data).expect("it is ours");
    cluster.b1.start_lab_agent();
    cluster.wait_well();
}
