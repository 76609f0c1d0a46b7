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

/// What a resync found equal was stamped with the joiner's own last write, which was older than the source's: as a later
/// primary it took the region for known to a third replica. Directed:
/// `what_was_found_to_be_equal_counts_as_written_there` in the volume core.
#[test]
fn what_is_found_equal_is_not_older_than_where_it_was_found() {
    holds(10_274);
}

/// A joiner whose disk had failed was proposed while it was still storing newer writes, before its superblock said that
/// the disk was good again: as the last copy it was refused for ever. It now writes down that it holds everything, and
/// only then is proposed. Directed: `the_last_member_hands_its_disk_errors_to_the_initiator` in the volume core.
#[test]
fn a_joiner_says_that_its_disk_is_good_before_it_is_a_member() {
    holds(13_249);
}

/// A machine woke up long after its lease; the end of a step was heard first, and the service's next step started while
/// another node ran it. Directed: `nothing_starts_when_the_lease_is_over_though_nobody_said_so_yet` in the cluster core.
#[test]
fn nothing_starts_in_the_instant_of_waking_up() {
    holds(10_560);
}

/// Zeroes over many extents went on, part by part, after the promotion that had asked for them was over.
#[test]
fn what_was_not_begun_of_long_zeroes_ends_with_their_promotion() {
    holds(4_227);
}

/// A core that never comes to rest is a failure with its seed, not a run that hangs.
#[test]
fn a_history_without_an_end_is_a_failure() {
    let options = Options { events_max: 1_000, ..Options::default() };
    let failure = run(0, &options).expect_err("no history is that short");
    assert_eq!(failure.seed, 0);
    assert!(failure.violation.what.contains("this history never ended"), "{failure}");
}
