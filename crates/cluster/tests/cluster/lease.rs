//! Until when a node may act.

use tandem_base::{Duration, Instant, Rng, RunId, SessionId};
use tandem_cluster::{
    Timings,
    leader::Answer,
    lease::{Holder, Input, Output},
};

fn at(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

fn drain(holder: &mut Holder) -> Vec<Output> {
    core::iter::from_fn(|| holder.poll_output()).collect()
}

fn new() -> Holder {
    Holder::new(Timings::default(), RunId(1), Rng::new(3))
}

fn wanted(holder: &mut Holder) -> SessionId {
    match drain(holder)[..] {
        [Output::OpenSession { session, run: RunId(1) }] => session,
        ref other => panic!("{other:?}"),
    }
}

/// A session since 1 s; renewal 1 was sent at 1 s.
fn open() -> (Holder, SessionId) {
    let mut holder = new();
    holder.handle(at(900), Input::TimedOut);
    let session = wanted(&mut holder);
    holder.handle(at(1_000), Input::SessionOpened { session });
    assert_eq!(drain(&mut holder), [Output::SendRenewal { renewal: 1, session, run: RunId(1) }]);
    (holder, session)
}

fn granted(session: SessionId, renewal: u64, index: u64) -> Input {
    Input::RenewalAnswered { session, renewal, answer: Answer::Granted { index } }
}

#[test]
fn a_session_is_asked_for_until_the_log_takes_it() {
    let mut holder = new();
    holder.handle(at(0), Input::TimedOut);
    let session = wanted(&mut holder);
    assert_eq!(holder.session(), None);
    assert_eq!(holder.poll_timeout(), Some(at(500)));
    holder.handle(at(500), Input::TimedOut);
    assert_eq!(wanted(&mut holder), session);
    holder.handle(at(510), Input::OpenFailed { session, over: false, why: "no leader".into() });
    assert!(holder.poll_timeout().expect("again soon") <= at(610));
    holder.handle(at(610), Input::TimedOut);
    assert_eq!(wanted(&mut holder), session, "the same id: the first may have arrived");
    holder.handle(at(620), Input::OpenFailed { session, over: true, why: "over".into() });
    holder.handle(at(720), Input::TimedOut);
    assert_ne!(wanted(&mut holder), session);
}

#[test]
fn the_lease_runs_from_sending_and_waits_for_the_log() {
    let (mut holder, session) = open();
    holder.handle(at(1_200), granted(session, 1, 40));
    assert!(drain(&mut holder).is_empty(), "the log is not applied that far");
    assert_eq!(holder.until(), None);
    holder.handle(at(1_250), Input::Applied { index: 39 });
    assert!(drain(&mut holder).is_empty());
    holder.handle(at(1_300), Input::Applied { index: 41 });
    assert_eq!(drain(&mut holder), [Output::Extended { until: at(4_000), index: 40 }]);
    holder.handle(at(1_500), Input::TimedOut);
    assert_eq!(drain(&mut holder), [Output::SendRenewal { renewal: 2, session, run: RunId(1) }]);
    holder.handle(at(1_600), granted(session, 2, 41));
    assert_eq!(drain(&mut holder), [Output::Extended { until: at(4_500), index: 41 }]);
    holder.handle(at(1_610), granted(session, 1, 41));
    assert!(drain(&mut holder).is_empty(), "an answer that comes twice says nothing");
}

#[test]
fn silence_ends_the_lease_at_its_instant_and_an_answer_brings_it_back() {
    let (mut holder, session) = open();
    holder.handle(at(1_100), Input::Applied { index: 50 });
    holder.handle(at(1_100), granted(session, 1, 50));
    drain(&mut holder);
    let mut sent = 1;
    while let Some(next) = holder.poll_timeout().filter(|next| *next <= at(4_000)) {
        holder.handle(next, Input::TimedOut);
        for output in drain(&mut holder) {
            match output {
                Output::SendRenewal { renewal, .. } => sent = renewal,
                Output::Lapsed { why } => {
                    assert_eq!(next, at(4_000));
                    assert_eq!(why, "no later renewal was answered");
                    assert_eq!(holder.until(), None);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(sent, 7);
    assert_eq!(holder.until(), None);
    holder.handle(at(4_100), granted(session, sent, 50));
    assert_eq!(drain(&mut holder), [Output::Extended { until: at(7_000), index: 50 }]);
}

#[test]
fn an_answer_that_comes_after_its_own_lease_gives_nothing() {
    let (mut holder, session) = open();
    holder.handle(at(1_100), Input::Applied { index: 50 });
    // The process was stopped for an hour.
    holder.handle(at(3_600_000), granted(session, 1, 50));
    assert!(!drain(&mut holder).iter().any(|output| matches!(output, Output::Extended { .. })));
}

#[test]
fn a_session_that_is_over_is_followed_by_a_new_one() {
    let (mut holder, session) = open();
    holder.handle(at(1_100), Input::Applied { index: 50 });
    holder.handle(at(1_100), granted(session, 1, 50));
    drain(&mut holder);
    holder.handle(at(1_500), Input::TimedOut);
    drain(&mut holder);
    holder.handle(at(1_600), Input::RenewalAnswered { session, renewal: 2, answer: Answer::SessionOver });
    let next = wanted(&mut holder);
    assert_ne!(next, session);
    holder.handle(at(1_700), Input::SessionOpened { session });
    assert_eq!(holder.session(), None, "the old one counts no more");
    holder.handle(at(1_700), Input::SessionOpened { session: next });
    assert_eq!(holder.session(), Some(next));
    assert!(matches!(drain(&mut holder)[..], [Output::SendRenewal { renewal: 3, .. }]));
    holder.handle(at(1_800), granted(session, 3, 50));
    assert!(drain(&mut holder).is_empty(), "a grant to the old session is no grant to this one");
}

#[test]
fn a_failure_is_tried_again_soon_and_the_rhythm_goes_on() {
    let (mut holder, session) = open();
    holder.handle(at(1_010), Input::RenewalFailed { renewal: 1, why: "connection refused".into() });
    let soon = holder.poll_timeout().expect("again");
    assert!(soon > at(1_010) && soon <= at(1_110));
    holder.handle(soon, Input::TimedOut);
    assert_eq!(drain(&mut holder), [Output::SendRenewal { renewal: 2, session, run: RunId(1) }]);
    let again = Answer::TryAgain { why: "no leader".into() };
    holder.handle(soon, Input::RenewalAnswered { session, renewal: 2, answer: again });
    assert!(holder.poll_timeout().expect("again") < soon + Duration::from_millis(101));
}
