//! Who gets a lease, and whose is over.

use tandem_base::{Duration, Instant, RunId, SessionId};
use tandem_cluster::{
    LiveSession, Timings,
    leader::{Answer, Input, Output, SessionTable},
};

use crate::world::node;

fn at(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

fn live(name: &str, session: u64) -> LiveSession {
    LiveSession { node: node(name), session: SessionId(session), run: RunId(1) }
}

fn renewal(name: &str, session: u64, renewal: u64) -> Input {
    Input::RenewalReceived { node: node(name), session: SessionId(session), run: RunId(1), renewal }
}

fn drain(table: &mut SessionTable) -> Vec<Output> {
    core::iter::from_fn(|| table.poll_output()).collect()
}

fn answer(name: &str, session: u64, renewal: u64, answer: Answer) -> Output {
    Output::Answer { node: node(name), session: SessionId(session), renewal, answer }
}

/// Leads since 10 s; r1 has session 1, h1 session 2.
fn leading() -> SessionTable {
    let mut table = SessionTable::new(Timings::default());
    table.handle(at(10_000), Input::BecameLeader { index: 5, sessions: vec![live("r1", 1), live("h1", 2)] });
    assert!(drain(&mut table).is_empty());
    table
}

#[test]
fn the_expiry_outlasts_the_slowest_lease() {
    // 3 s × 1.01 / 0.99 + 0.5 s, rounded up.
    assert_eq!(Timings::default().expiry(), Duration::from_nanos(3_560_606_061));
}

#[test]
fn an_answer_waits_for_a_round_that_began_after_the_renewal() {
    let mut table = leading();
    table.handle(at(10_100), renewal("r1", 1, 1));
    assert_eq!(drain(&mut table), [Output::ConfirmLeadership { round: 2 }]);
    // These arrive after that round began: they wait together for the next; of h1 the newest stands for both.
    table.handle(at(10_110), renewal("h1", 2, 7));
    table.handle(at(10_120), renewal("h1", 2, 8));
    table.handle(at(10_120), renewal("r1", 1, 2));
    assert!(drain(&mut table).is_empty());
    let sessions = vec![live("r1", 1), live("h1", 2)];
    table.handle(at(10_130), Input::LeadershipConfirmed { round: 2, index: 6, sessions: sessions.clone() });
    let granted = |index| Answer::Granted { index };
    assert_eq!(drain(&mut table), [answer("r1", 1, 1, granted(6)), Output::ConfirmLeadership { round: 3 }]);
    table.handle(at(10_135), Input::LeadershipConfirmed { round: 2, index: 6, sessions: sessions.clone() });
    assert!(drain(&mut table).is_empty(), "a round counts once");
    table.handle(at(10_140), Input::LeadershipConfirmed { round: 3, index: 6, sessions });
    assert_eq!(drain(&mut table), [answer("h1", 2, 8, granted(6)), answer("r1", 1, 2, granted(6))]);
}

#[test]
fn a_session_that_the_confirmed_state_does_not_show_is_over() {
    let mut table = leading();
    table.handle(at(10_100), renewal("r1", 1, 1));
    drain(&mut table);
    table.handle(at(10_110), Input::LeadershipConfirmed { round: 2, index: 9, sessions: vec![live("h1", 2)] });
    assert_eq!(drain(&mut table), [answer("r1", 1, 1, Answer::SessionOver)]);
    // One that only the newer state shows is granted.
    table.handle(at(10_200), renewal("r1", 3, 2));
    drain(&mut table);
    let sessions = vec![live("r1", 3), live("h1", 2)];
    table.handle(at(10_210), Input::LeadershipConfirmed { round: 3, index: 10, sessions });
    assert_eq!(drain(&mut table), [answer("r1", 3, 2, Answer::Granted { index: 10 })]);
}

#[test]
fn a_failed_round_and_a_lost_leadership_ask_for_another_try() {
    let mut table = leading();
    table.handle(at(10_100), renewal("r1", 1, 1));
    drain(&mut table);
    table.handle(at(10_110), Input::LeadershipNotConfirmed { round: 2, why: "no quorum".into() });
    assert_eq!(drain(&mut table), [answer("r1", 1, 1, Answer::TryAgain { why: "no quorum".into() })]);
    table.handle(at(10_200), renewal("r1", 1, 2));
    drain(&mut table);
    table.handle(at(10_210), Input::LeadershipLost);
    assert!(matches!(&drain(&mut table)[..], [Output::Answer { answer: Answer::TryAgain { .. }, .. }]));
    assert_eq!(table.poll_timeout(), None, "who does not lead expires nobody");
    table.handle(at(60_000), Input::TimedOut);
    assert!(drain(&mut table).is_empty());
    // The round of the lost term says nothing in the next.
    table.handle(at(60_000), Input::BecameLeader { index: 20, sessions: vec![live("r1", 1)] });
    table.handle(at(60_010), Input::LeadershipConfirmed { round: 3, index: 20, sessions: vec![live("r1", 1)] });
    assert!(drain(&mut table).is_empty());
    table.handle(at(60_020), renewal("h1", 2, 9));
    assert!(matches!(drain(&mut table)[..], [Output::ConfirmLeadership { .. }]));
}

#[test]
fn silence_is_counted_from_the_last_renewal_and_a_new_leader_waits_in_full() {
    let expiry = Timings::default().expiry();
    let mut table = leading();
    assert_eq!(table.poll_timeout(), Some(at(10_000) + expiry));
    table.handle(at(12_000), renewal("h1", 2, 1));
    drain(&mut table);
    table.handle(at(10_000) + expiry - Duration::from_nanos(1), Input::TimedOut);
    assert!(drain(&mut table).is_empty());
    table.handle(at(10_000) + expiry, Input::TimedOut);
    let outputs = drain(&mut table);
    assert!(
        matches!(&outputs[..], [Output::AppendExpiry { node: r1, session: SessionId(1), .. }] if *r1 == node("r1"))
    );
    // From here on the answer to r1 is no, though the log does not show the expiry yet; it is asked for again.
    table.handle(at(13_600), renewal("r1", 1, 5));
    assert_eq!(drain(&mut table), [answer("r1", 1, 5, Answer::SessionOver)]);
    table.handle(at(14_600), Input::TimedOut);
    assert!(matches!(drain(&mut table)[..], [Output::AppendExpiry { session: SessionId(1), .. }]));
    table.handle(at(14_610), Input::Applied { index: 8, sessions: vec![live("h1", 2)] });
    assert_eq!(table.poll_timeout(), Some(at(12_000) + expiry));
    // An older state, delivered late, does not bring it back.
    table.handle(at(14_620), Input::Applied { index: 7, sessions: vec![live("r1", 1), live("h1", 2)] });
    table.handle(at(14_620), renewal("r1", 1, 6));
    assert_eq!(drain(&mut table), [answer("r1", 1, 6, Answer::SessionOver)]);
}

#[test]
fn a_renewal_in_flight_when_its_expiry_is_appended_is_refused() {
    let mut table = leading();
    table.handle(at(10_001), renewal("r1", 1, 1));
    drain(&mut table);
    table.handle(at(20_000), Input::TimedOut);
    let outputs = drain(&mut table);
    assert_eq!(outputs.len(), 2, "both are silent: {outputs:?}");
    let sessions = vec![live("r1", 1), live("h1", 2)];
    table.handle(at(20_001), Input::LeadershipConfirmed { round: 2, index: 6, sessions });
    assert_eq!(drain(&mut table), [answer("r1", 1, 1, Answer::SessionOver)]);
}

#[test]
fn a_second_run_cannot_renew_the_session_of_the_first() {
    let mut table = leading();
    let stranger = Input::RenewalReceived { node: node("r1"), session: SessionId(1), run: RunId(2), renewal: 1 };
    table.handle(at(13_000), stranger);
    assert_eq!(drain(&mut table), [answer("r1", 1, 1, Answer::SessionOver)]);
    assert_eq!(table.poll_timeout(), Some(at(10_000) + Timings::default().expiry()), "and extends nothing");
}
