//! What a lapse of the lease leaves behind goes on by itself.

mod machine;

use machine::{
    lab::{Lab, duo},
    said, wait_for,
};
use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
    time::{Duration, Instant},
};

/// The guard froze the service when the lease ended; the agent that started then never saw that.
#[test]
fn a_frozen_service_goes_on_also_under_an_agent_that_started_meanwhile() {
    let lab = Lab::new("lapse");
    let up = lab.up(&duo());
    assert!(up.status.success(), "{}", said(&up));
    lab.wait_well("r1");
    let target = ["outside", "tandem", "rehearse-client", "--kind", "ledger", "--target", "10.9.0.10:7000"];
    let mut client = lab.command("exec", &target);
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary runs");
    let mut lines = BufReader::new(client.stdout.take().expect("it is piped")).lines();
    let mut acknowledged = |count: usize| {
        let is_one = |line: &serde_json::Value| line["event"] == "acked";
        let mut left = count;
        while left > 0 {
            let line = lines.next().expect("the client goes on").expect("it prints text");
            left -= usize::from(is_one(&serde_json::from_str(&line).expect("it prints JSON")));
        }
    };
    acknowledged(5);
    for cut in [&["w1"][..], &["r1", "h1"]] {
        let cut = lab.run("cut", cut);
        assert!(cut.status.success(), "{}", said(&cut));
    }
    let status = || {
        let output = lab.run("exec", &["r1", "tandem", "status", "--json"]);
        serde_json::from_slice::<serde_json::Value>(&output.stdout).ok()
    };
    wait_for("the lease of r1 ends", || status().is_some_and(|status| status["lease_ms"].is_null()));
    let killed = lab.run("exec", &["r1", "pkill", "--signal", "KILL", "--full", "agent --lab"]);
    assert!(killed.status.success(), "{}", said(&killed));
    wait_for("another agent runs", || status().is_some());
    let heal = lab.run("heal", &[]);
    assert!(heal.status.success(), "{}", said(&heal));
    let healed = Instant::now();
    // More than the pipe may have held from before the cut.
    acknowledged(40);
    assert!(healed.elapsed() < Duration::from_secs(25), "{:?}", healed.elapsed());
    client.stdin.take().expect("it is piped").write_all(b"stop\n").expect("it listens");
    assert!(client.wait().expect("it is our child").success());
    lab.wait_well("r1");
}
