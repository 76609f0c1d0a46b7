//! What a lapse of the lease leaves behind goes on by itself.

mod machine;

use machine::{
    lab::{Lab, duo},
    said, wait_for,
};
use std::time::{Duration, Instant};

/// The guard froze the service when the lease ended; the agent that started then never saw that.
#[test]
fn a_frozen_service_goes_on_also_under_an_agent_that_started_meanwhile() {
    let lab = Lab::new("lapse");
    let up = lab.up(&duo());
    assert!(up.status.success(), "{}", said(&up));
    lab.wait_well("r1");
    let mut writer = lab.writer();
    writer.more(5);
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
    writer.more(40);
    assert!(healed.elapsed() < Duration::from_secs(25), "{:?}", healed.elapsed());
    writer.stop();
    lab.wait_well("r1");
}
