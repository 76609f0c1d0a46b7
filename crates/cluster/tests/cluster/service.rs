//! The life of a service on a node.

use tandem_base::{Duration, Instant};
use tandem_cluster::service::{Input, Lifecycle, Output, Report, Settings, Status, Step, StepSpec};

use Step::{Attach, Mount, Process};

fn at(secs: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(secs)
}

fn settings() -> Settings {
    let spec = |step, monitored| StepSpec {
        step,
        start_timeout: Duration::from_secs(20),
        stop_timeout: Duration::from_secs(10),
        monitored,
    };
    Settings {
        steps: vec![spec(Attach, false), spec(Mount, false), spec(Process, true)],
        restarts_max: 2,
        restart_pause: Duration::from_secs(2),
        restart_window: Duration::from_secs(60),
        thaw_grace: Duration::from_secs(3),
    }
}

struct World(Lifecycle);

impl World {
    fn new() -> Self {
        let mut world = Self(Lifecycle::new(settings()));
        assert!(world.give(0, renewed()).is_empty());
        world
    }

    /// Running as placement 1 since second 10.
    fn running() -> Self {
        let mut world = Self::new();
        assert_eq!(world.give(10, wanted(1)), [start(Attach, 1)]);
        assert_eq!(world.give(10, Input::StepStarted(Attach)), [start(Mount, 1)]);
        assert_eq!(world.give(10, Input::StepStarted(Mount)), [start(Process, 1)]);
        let started = Output::Report(Report::Started { placement: 1 });
        assert_eq!(world.give(10, Input::StepStarted(Process)), [started, Output::StartMonitor(Process)]);
        assert_eq!(world.0.status(), Status::Running);
        world
    }

    fn give(&mut self, secs: u64, input: Input) -> Vec<Output> {
        self.0.handle(at(secs), input);
        core::iter::from_fn(|| self.0.poll_output()).collect()
    }
}

fn start(step: Step, placement: u64) -> Output {
    Output::Start { step, placement }
}

fn stop(step: Step) -> Output {
    Output::Stop { step, force: false }
}

fn force(step: Step) -> Output {
    Output::Stop { step, force: true }
}

/// A lease for longer than any test lasts.
fn renewed() -> Input {
    Input::LeaseRenewed { until: at(100_000) }
}

fn wanted(placement: u64) -> Input {
    Input::Wanted { placement, pause: Duration::ZERO }
}

fn unwanted(placement: Option<u64>) -> Input {
    Input::Unwanted { placement, why: "moved".into() }
}

#[test]
fn up_in_order_down_in_reverse() {
    let mut world = World::running();
    assert!(world.give(11, wanted(1)).is_empty(), "said again, nothing new");
    assert_eq!(world.give(12, unwanted(Some(1))), [stop(Process), Output::StopMonitor(Process)]);
    assert!(world.give(12, unwanted(Some(1))).is_empty());
    assert_eq!(world.0.status(), Status::Stopping(Process));
    assert_eq!(world.give(13, Input::StepStopped(Process)), [stop(Mount)]);
    assert_eq!(world.give(13, Input::StepStopped(Mount)), [stop(Attach)]);
    assert!(!world.0.is_down());
    assert_eq!(world.give(13, Input::StepStopped(Attach)), [Output::Report(Report::Stopped { placement: 1 })]);
    assert!(world.0.is_down());
    assert!(world.give(14, unwanted(Some(1))).is_empty());
    assert_eq!(world.0.report(), Some(&Report::Stopped { placement: 1 }));
    world.give(15, unwanted(None));
    assert_eq!(world.0.report(), None, "nobody waits for it any more");
}

#[test]
fn nothing_starts_without_a_lease() {
    let mut world = World(Lifecycle::new(settings()));
    assert!(world.give(5, wanted(1)).is_empty());
    assert_eq!(world.give(6, renewed()), [start(Attach, 1)]);
}

#[test]
fn nothing_starts_when_the_lease_is_over_though_nobody_said_so_yet() {
    let mut world = World(Lifecycle::new(settings()));
    assert!(world.give(0, Input::LeaseRenewed { until: at(10) }).is_empty());
    assert_eq!(world.give(5, wanted(1)), [start(Attach, 1)]);
    // The machine stood still meanwhile; the end of a step is the first that is heard.
    assert!(world.give(12, Input::StepStarted(Attach)).is_empty());
    assert!(world.give(12, Input::LeaseEnded).is_empty());
    assert_eq!(world.give(13, Input::LeaseRenewed { until: at(16) }), [start(Mount, 1)]);
}

#[test]
fn an_agent_that_restarts_adopts_what_runs() {
    let mut world = World(Lifecycle::adopt(settings(), 1));
    world.give(0, renewed());
    assert_eq!(world.give(1, wanted(1)), [start(Attach, 1)]);
    // The first step fails, though the last may be up: all are stopped.
    let failed = Input::StepFailed { step: Attach, why: "gone".into() };
    assert_eq!(world.give(2, failed), [stop(Process)]);

    let mut world = World(Lifecycle::adopt(settings(), 1));
    world.give(0, renewed());
    assert_eq!(world.give(1, wanted(2)), [stop(Process)], "what belongs to the past ends first");
    let mut world = World(Lifecycle::adopt(settings(), 1));
    assert_eq!(world.give(1, unwanted(None)), [force(Process)], "no lease yet: what is frozen is ended by force");
    let mut world = World(Lifecycle::new(settings()));
    let stopped = Output::Report(Report::Stopped { placement: 4 });
    assert_eq!(world.give(1, unwanted(Some(4))), [stopped], "nothing runs, and somebody waits to hear it");
}

#[test]
fn a_start_that_fails_or_hangs_is_taken_down_and_reported() {
    let mut world = World::new();
    world.give(10, wanted(1));
    world.give(10, Input::StepStarted(Attach));
    let failed = Input::StepFailed { step: Mount, why: "bad superblock".into() };
    assert_eq!(world.give(11, failed), [stop(Mount)]);
    assert_eq!(world.give(11, Input::StepStopped(Mount)), [stop(Attach)]);
    let outputs = world.give(11, Input::StepStopped(Attach));
    let report = Report::Failed { placement: 1, why: "mount did not start: bad superblock".into() };
    assert_eq!(outputs, [Output::Report(report.clone())]);
    assert!(world.give(12, wanted(1)).is_empty(), "the cluster decides what comes next");
    assert_eq!(world.0.report(), Some(&report));
    assert_eq!(world.give(13, wanted(2)), [start(Attach, 2)]);
    assert_eq!(world.0.poll_timeout(), Some(at(33)));
    assert_eq!(world.give(33, Input::TimedOut), [stop(Attach)]);
    assert!(world.give(34, Input::StepStarted(Attach)).is_empty(), "too late");
    let outputs = world.give(35, Input::StepStopped(Attach));
    assert!(
        matches!(&outputs[..], [Output::Report(Report::Failed { placement: 2, why })] if why.contains("within 20 s"))
    );
}

#[test]
fn a_placement_that_failed_here_before_waits_for_its_start() {
    let mut world = World::new();
    let paused = |placement| Input::Wanted { placement, pause: Duration::from_secs(5) };
    assert!(world.give(10, paused(2)).is_empty());
    assert_eq!(world.0.poll_timeout(), Some(at(15)));
    assert!(world.give(12, paused(2)).is_empty(), "said again, nothing new");
    assert_eq!(world.give(13, unwanted(Some(2))), [Output::Report(Report::Stopped { placement: 2 })]);
    assert!(world.give(14, paused(3)).is_empty());
    assert!(world.give(15, Input::LeaseEnded).is_empty());
    assert!(world.give(30, Input::TimedOut).is_empty());
    assert_eq!(world.give(31, renewed()), [start(Attach, 3)]);
    // What an earlier agent left is not interrupted.
    let mut world = World(Lifecycle::adopt(settings(), 1));
    world.give(0, renewed());
    assert_eq!(world.give(1, paused(1)), [start(Attach, 1)]);
}

#[test]
fn a_stop_that_fails_is_forced_and_then_fences() {
    let mut world = World::running();
    world.give(12, unwanted(Some(1)));
    let failed = |why: &str| Input::StepStopFailed { step: Process, why: why.into() };
    assert_eq!(world.give(13, failed("does not listen")), [force(Process)]);
    assert_eq!(world.0.poll_timeout(), Some(at(23)));
    let outputs = world.give(23, Input::TimedOut);
    assert!(matches!(&outputs[..], [Output::Escalate { why }] if why.contains("process did not stop within 10 s")));
    assert!(world.give(24, Input::StepStopped(Process)).is_empty());
    assert_eq!(world.0.poll_timeout(), None);
    assert!(!world.0.is_down());
}

#[test]
fn a_process_that_dies_is_restarted_a_bounded_number_of_times() {
    let mut world = World::running();
    let died = || Input::MonitorFailed { step: Process, why: "exit code 1".into() };
    assert_eq!(world.give(20, died()), [stop(Process), Output::StopMonitor(Process)]);
    assert_eq!(world.give(20, Input::StepStopped(Process)), [start(Process, 1)], "the first time at once");
    assert_eq!(world.give(20, Input::StepStarted(Process)), [Output::StartMonitor(Process)]);
    assert_eq!(world.give(30, died()), [stop(Process), Output::StopMonitor(Process)]);
    assert!(world.give(30, Input::StepStopped(Process)).is_empty(), "then it rests");
    assert_eq!(world.0.poll_timeout(), Some(at(32)));
    assert!(world.give(31, Input::TimedOut).is_empty());
    assert_eq!(world.give(32, Input::TimedOut), [start(Process, 1)]);
    assert_eq!(world.give(32, Input::StepStarted(Process)), [Output::StartMonitor(Process)]);
    world.give(40, died());
    world.give(40, Input::StepStopped(Process));
    world.give(40, Input::StepStopped(Mount));
    let outputs = world.give(40, Input::StepStopped(Attach));
    assert!(
        matches!(&outputs[..], [Output::Report(Report::Failed { why, .. })] if why.contains("restarted 2 times")),
        "{outputs:?}"
    );
}

#[test]
fn restarts_are_forgotten_after_a_quiet_window() {
    let mut world = World::running();
    assert_eq!(world.0.poll_timeout(), Some(at(70)));
    assert_eq!(world.give(70, Input::TimedOut), [Output::Report(Report::Steady { placement: 1 })]);
    assert_eq!(world.0.poll_timeout(), None);
    for secs in [100, 110, 171, 181, 232] {
        let outputs = world.give(secs, Input::MonitorFailed { step: Process, why: "died".into() });
        assert!(outputs.contains(&stop(Process)), "{outputs:?}");
        world.give(secs, Input::StepStopped(Process));
        world.give(secs + 2, Input::TimedOut);
        world.give(secs + 2, Input::StepStarted(Process));
        assert_eq!(world.0.status(), Status::Running, "at {secs} s");
    }
}

#[test]
fn what_is_frozen_is_not_watched_and_not_counted() {
    let mut world = World::running();
    assert_eq!(world.give(20, Input::LeaseEnded), [Output::StopMonitor(Process)]);
    assert!(world.give(21, Input::MonitorFailed { step: Process, why: "no answer".into() }).is_empty());
    assert_eq!(world.0.poll_timeout(), None);
    assert!(world.give(50, renewed()).is_empty(), "nothing was restarted");
    assert!(world.give(52, Input::MonitorFailed { step: Process, why: "no answer".into() }).is_empty());
    assert_eq!(world.0.poll_timeout(), Some(at(53)));
    assert_eq!(world.give(53, Input::TimedOut), [Output::StartMonitor(Process)]);
}

#[test]
fn a_frozen_start_gets_its_time_back() {
    let mut world = World::new();
    world.give(10, wanted(1));
    world.give(20, Input::LeaseEnded);
    assert!(world.give(31, Input::TimedOut).is_empty());
    world.give(120, renewed());
    let busy = at(130);
    world.give(123, Input::TimedOut);
    assert_eq!(world.0.poll_timeout(), Some(busy));
    assert_eq!(world.give(130, Input::TimedOut), [stop(Attach)]);
}

#[test]
fn a_lost_attachment_is_torn_down_by_force_and_started_anew_if_wanted() {
    let mut world = World::running();
    let lost = || Input::AttachmentLost { why: "epoch 3 is over".into() };
    assert_eq!(world.give(20, lost()), [force(Process), Output::StopMonitor(Process)]);
    assert_eq!(world.give(20, Input::StepStopped(Process)), [force(Mount)]);
    assert_eq!(world.give(20, Input::StepStopped(Mount)), [force(Attach)]);
    assert_eq!(world.give(20, Input::StepStopped(Attach)), [start(Attach, 1)]);
    // While it stops by asking, the attachment goes: by force from here on.
    let mut world = World::running();
    assert_eq!(world.give(20, unwanted(Some(1))), [stop(Process), Output::StopMonitor(Process)]);
    assert_eq!(world.give(21, lost()), [force(Process)]);
    assert_eq!(world.give(22, Input::StepStopped(Process)), [force(Mount)]);
}

#[test]
fn a_service_taken_away_while_frozen_is_ended_by_force() {
    let mut world = World::running();
    world.give(20, Input::LeaseEnded);
    assert_eq!(world.give(24, unwanted(None)), [force(Process)]);
    world.give(24, Input::StepStopped(Process));
    world.give(24, Input::StepStopped(Mount));
    assert!(world.give(24, Input::StepStopped(Attach)).is_empty());
    assert!(world.0.is_down());
}

#[test]
fn another_placement_starts_from_the_ground() {
    let mut world = World::running();
    assert_eq!(world.give(20, wanted(5)), [stop(Process), Output::StopMonitor(Process)]);
    world.give(20, Input::StepStopped(Process));
    world.give(20, Input::StepStopped(Mount));
    assert_eq!(world.give(20, Input::StepStopped(Attach)), [start(Attach, 5)]);
}
