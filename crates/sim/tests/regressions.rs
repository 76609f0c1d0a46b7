//! Histories that failed once. Each fails again when what it found is taken out of the core; a change of the world's dice
//! makes another history of the same seed, so each names the directed test that keeps the rule without the dice.

use tandem_sim::{Options, run};

fn holds(seed: u64) {
    if let Err(failure) = run(seed, &Options::default()) {
        panic!("{failure}");
    }
}

/// A volume server that started twice before the log had heard of the first start named only the run before it, which the
/// register never knew: the last replica in sync was refused for ever, after nothing worse than power that came back
/// twice. A superblock names every run since the newest that was a member. Directed: `superblock.rs` of the volume core,
/// `register.rs` of the cluster core (the last member stays with its own disk only).
#[test]
fn two_restarts_before_the_log_hears_of_the_first() {
    for seed in [3, 15, 20] {
        holds(seed);
    }
}

/// A failed fsync leaves pages that look clean and are not on the disk. Read back for a comparison they matched the
/// primary's hashes, were never written again, and the replica counted as in sync. What a failed run held is rewritten
/// whole. Directed: `the_last_member_hands_its_disk_errors_to_the_initiator` in the volume core.
#[test]
fn pages_whose_fsync_failed_match_the_hashes_of_a_comparison() {
    holds(1572);
}

/// A core that never comes to rest is a failure with its seed, not a run that hangs.
#[test]
fn a_history_without_an_end_is_a_failure() {
    let options = Options { events_max: 1_000, ..Options::default() };
    let failure = run(0, &options).expect_err("no history is that short");
    assert_eq!(failure.seed, 0);
    assert!(failure.violation.what.contains("this history never ended"), "{failure}");
}
