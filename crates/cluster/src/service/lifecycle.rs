//! One service on one node, as a state machine.

use alloc::{
    collections::{BTreeSet, VecDeque},
    format,
    string::String,
};
use tandem_base::{Duration, Instant};

use super::{Input, Output, Report, Settings, Status, Step};

/// What follows when the steps are down.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Then {
    Stopped,
    Failed(String),
    Again,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Goal {
    Rest,
    Up,
    /// Stop all but the first `to` steps.
    Down {
        to: usize,
        then: Then,
    },
    Escalated(String),
}

/// A start or stop under way.
#[derive(Debug, Clone, Copy)]
struct Busy {
    index: usize,
    starting: bool,
    force: bool,
    deadline: Instant,
}

/// One service on one node: its steps up in order, down in reverse.
///
/// Call [`handle`](Self::handle) once per event, then [`poll_output`](Self::poll_output) until it returns `None`, then
/// sleep until [`poll_timeout`](Self::poll_timeout). `now` must not go backwards. It begins without a lease: nothing
/// starts before [`Input::LeaseRenewed`]. [`Input::Wanted`] and [`Input::Unwanted`] may be given again and again.
///
/// As OCF resource agents have it (resource-agents, "OCF Resource Agent API 1.1"): a start that fails or takes too long is
/// followed by a stop; a stop that fails by asking is tried by force, and one that fails by force fences the node.
#[derive(Debug)]
pub struct Lifecycle {
    settings: Settings,
    wanted: Option<u64>,
    /// How long the placement that is wanted waits before its first step.
    pause: Duration,
    /// Before this nothing starts: it failed just now.
    rests_until: Instant,
    awaited: Option<u64>,
    /// What the steps that are up belong to.
    placement: Option<u64>,
    /// Known to be up: this many from the first.
    up: usize,
    /// May be up, wholly or by half: this many from the first.
    touched: usize,
    goal: Goal,
    busy: Option<Busy>,
    /// The attachment is gone for ever: stop by force.
    detached: bool,
    frozen_since: Option<Instant>,
    lease_until: Instant,
    thawed_at: Option<Instant>,
    watched: BTreeSet<Step>,
    restarts: VecDeque<Instant>,
    steady_at: Option<Instant>,
    report: Option<Report>,
    outputs: VecDeque<Output>,
}

impl Lifecycle {
    /// A service of which nothing runs here.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            wanted: None,
            pause: Duration::ZERO,
            rests_until: Instant::ZERO,
            awaited: None,
            placement: None,
            up: 0,
            touched: 0,
            goal: Goal::Rest,
            busy: None,
            detached: false,
            frozen_since: Some(Instant::ZERO),
            lease_until: Instant::ZERO,
            thawed_at: None,
            watched: BTreeSet::new(),
            restarts: VecDeque::new(),
            steady_at: None,
            report: None,
            outputs: VecDeque::new(),
        }
    }

    /// A service of which something may run here, left by an agent before this one as `placement`.
    #[must_use]
    pub fn adopt(settings: Settings, placement: u64) -> Self {
        let touched = settings.steps.len();
        Self { placement: Some(placement), touched, ..Self::new(settings) }
    }

    /// Feeds one event in.
    pub fn handle(&mut self, now: Instant, input: Input) {
        if matches!(self.goal, Goal::Escalated(_)) {
            return; // Nothing but the fence can help.
        }
        if now >= self.lease_until && !matches!(input, Input::LeaseRenewed { .. }) {
            self.freeze(now);
        }
        match input {
            Input::Wanted { placement, pause } => self.wanted(placement, pause),
            Input::Unwanted { placement, why: _ } => self.unwanted(placement),
            Input::StepStarted(step) => {
                if self.ended(step, true).is_some() {
                    self.up += 1;
                }
            }
            Input::StepFailed { step, why } => {
                if self.ended(step, true).is_some() {
                    self.fail(format!("{step} did not start: {why}"));
                }
            }
            Input::StepStopped(step) => {
                if let Some(busy) = self.ended(step, false) {
                    self.touched = busy.index;
                    self.up = self.up.min(busy.index);
                }
            }
            Input::StepStopFailed { step, why } => {
                if let Some(busy) = self.ended(step, false) {
                    self.stop_failed(now, busy, format!("{step} did not stop: {why}"));
                }
            }
            Input::MonitorFailed { step, why } => self.monitor_failed(now, step, &why),
            Input::LeaseEnded => self.freeze(now),
            Input::LeaseRenewed { until } => {
                self.lease_until = self.lease_until.max(until);
                self.thaw(now);
            }
            Input::AttachmentLost { why } => {
                if self.touched > 0 {
                    self.detached = true;
                    match &mut self.goal {
                        Goal::Rest => self.goal = Goal::Down { to: 0, then: Then::Again },
                        // What lies over the attachment cannot stay.
                        Goal::Down { to, .. } => *to = 0,
                        _ => {}
                    }
                    self.restart(now, 0, format!("the attachment was lost: {why}"));
                }
            }
            Input::TimedOut => self.timed_out(now),
        }
        self.advance(now);
        self.watch(now);
    }

    /// The next thing to do; `None` when all is said.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle`](Self::handle) with [`Input::TimedOut`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if matches!(self.goal, Goal::Escalated(_)) {
            return None;
        }
        let busy = self.busy.filter(|busy| busy.force || self.frozen_since.is_none()).map(|busy| busy.deadline);
        let watch = self.thawed_at.map(|thawed| thawed + self.settings.thaw_grace);
        let rest = self.rests().then_some(self.rests_until);
        [busy, watch, self.steady_at, rest].into_iter().flatten().min()
    }

    /// What the cluster's log shall hear now, if anything: to be told again while the state does not show it.
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    /// Whether nothing of it runs here: a group may be released only then.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.touched == 0 && self.busy.is_none()
    }

    /// What it is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        let step = |index: usize| self.settings.steps.get(index).map(|spec| spec.step);
        match (&self.goal, &self.report) {
            (Goal::Escalated(why), _) => Status::Escalated { why: why.clone() },
            (Goal::Up, _) => step(self.up).map_or(Status::Running, Status::Starting),
            (_, _) if self.touched > 0 => step(self.touched - 1).map_or(Status::Down, Status::Stopping),
            (_, Some(Report::Failed { why, .. })) => Status::Failed { why: why.clone() },
            _ => Status::Down,
        }
    }

    fn wanted(&mut self, placement: u64, pause: Duration) {
        self.wanted = Some(placement);
        self.pause = pause;
        self.awaited = None;
        if self.goal == Goal::Up && self.placement != Some(placement) {
            self.goal = Goal::Down { to: 0, then: Then::Again };
        }
    }

    fn unwanted(&mut self, placement: Option<u64>) {
        self.wanted = None;
        self.awaited = placement;
        match &self.goal {
            Goal::Rest if self.touched == 0 && placement.is_none() => self.report = None,
            Goal::Rest if self.touched == 0 => self.say_stopped(),
            Goal::Down { to: 0, then: Then::Stopped | Then::Failed(_) } => {}
            _ => self.goal = Goal::Down { to: 0, then: Then::Stopped },
        }
    }

    /// Says once that nothing runs here, when somebody waits for it.
    fn say_stopped(&mut self) {
        if let Some(placement) = self.awaited {
            let report = Report::Stopped { placement };
            if self.report.as_ref() != Some(&report) {
                self.say(report);
            }
        }
    }

    fn say(&mut self, report: Report) {
        self.report = Some(report.clone());
        self.outputs.push_back(Output::Report(report));
    }

    /// Ends the start or stop of `step`, if it is the one under way.
    fn ended(&mut self, step: Step, starting: bool) -> Option<Busy> {
        let busy = self.busy?;
        let same = busy.starting == starting && self.settings.steps.get(busy.index).is_some_and(|it| it.step == step);
        if same { self.busy.take() } else { None }
    }

    fn fail(&mut self, why: String) {
        if self.goal == Goal::Up {
            self.goal = Goal::Down { to: 0, then: Then::Failed(why) };
        }
    }

    fn stop_failed(&mut self, now: Instant, busy: Busy, why: String) {
        if busy.force {
            self.goal = Goal::Escalated(why.clone());
            self.busy = None;
            self.outputs.push_back(Output::Escalate { why });
        } else {
            self.stop(now, busy.index, true);
        }
    }

    fn monitor_failed(&mut self, now: Instant, step: Step, why: &str) {
        let position = |step| self.settings.steps.iter().position(|spec| spec.step == step);
        let Some(index) = position(step).filter(|index| *index < self.up) else { return };
        // A check that is suspended says nothing: what it looked at was frozen.
        if self.goal != Goal::Up || !self.watched.contains(&step) {
            return;
        }
        // What does not answer is cured by starting the program again, not the check.
        let to = if step == Step::Check { position(Step::Process).unwrap_or(index) } else { index };
        self.restart(now, to, format!("{step} failed: {why}"));
    }

    /// Down to `to` and up again, unless that happened too often.
    fn restart(&mut self, now: Instant, to: usize, why: String) {
        if self.goal != Goal::Up {
            return; // It is on its way down already, or at rest with what an earlier agent left.
        }
        let window = self.settings.restart_window;
        while self.restarts.front().is_some_and(|before| now.since(*before) > window) {
            self.restarts.pop_front();
        }
        if self.restarts.len() >= self.settings.restarts_max {
            let count = self.restarts.len();
            return self.fail(format!("{why}; it was restarted {count} times within {window} before"));
        }
        if let Some(further) = self.restarts.len().checked_sub(1) {
            let doubled = 1 << further.min(16);
            self.rests_until = now + Duration::from_nanos(self.settings.restart_pause.as_nanos() * doubled);
        }
        self.restarts.push_back(now);
        self.steady_at = None;
        self.goal = Goal::Down { to, then: Then::Again };
    }

    fn freeze(&mut self, now: Instant) {
        if self.frozen_since.is_none() {
            self.frozen_since = Some(now);
            self.thawed_at = None;
            self.steady_at = None;
        }
    }

    fn thaw(&mut self, now: Instant) {
        let Some(since) = self.frozen_since.take() else { return };
        self.thawed_at = Some(now);
        if let Some(busy) = self.busy.as_mut().filter(|busy| !busy.force) {
            busy.deadline += now.since(since);
        }
        if self.goal == Goal::Up && self.up == self.settings.steps.len() {
            self.steady_at = Some(now + self.settings.restart_window);
        }
    }

    fn timed_out(&mut self, now: Instant) {
        if self.steady_at.is_some_and(|at| now >= at) {
            self.steady_at = None;
            self.restarts.clear();
            if let Some(placement) = self.placement.filter(|_| self.goal == Goal::Up) {
                self.say(Report::Steady { placement });
            }
        }
        let Some(busy) = self.busy.filter(|busy| now >= busy.deadline) else { return };
        if self.frozen_since.is_some() && !busy.force {
            return;
        }
        let Some(spec) = self.settings.steps.get(busy.index).cloned() else { return };
        if busy.starting {
            // The goal is down from here on; the stop ends the start that still runs.
            self.fail(format!("{} did not start within {}", spec.step, spec.start_timeout));
        } else {
            let why = format!("{} did not stop within {}", spec.step, spec.stop_timeout);
            self.stop_failed(now, busy, why);
        }
    }

    /// Takes the next step towards the goal.
    fn advance(&mut self, now: Instant) {
        loop {
            match self.goal.clone() {
                Goal::Escalated(_) => return,
                Goal::Rest => {
                    let Some(placement) = self.wanted else { return };
                    if matches!(self.report, Some(Report::Failed { placement: failed, .. }) if failed == placement) {
                        return; // The cluster decides what comes next.
                    }
                    if self.touched > 0 && self.placement != Some(placement) {
                        self.goal = Goal::Down { to: 0, then: Then::Again };
                        continue;
                    }
                    // What an earlier agent left goes on at once.
                    self.rests_until = if self.touched > 0 { now } else { now + self.pause };
                    self.placement = Some(placement);
                    self.report = None;
                    self.restarts.clear();
                    self.goal = Goal::Up;
                }
                Goal::Up => return self.climb(now),
                Goal::Down { to, then } => {
                    if self.touched > to || self.busy.is_some() {
                        return self.descend(now);
                    }
                    self.arrive(to, then);
                }
            }
        }
    }

    /// Whether the next start waits for its time.
    fn rests(&self) -> bool {
        self.goal == Goal::Up
            && self.busy.is_none()
            && self.frozen_since.is_none()
            && self.up < self.settings.steps.len()
    }

    fn climb(&mut self, now: Instant) {
        // A stop that was under way when the goal changed ends first.
        if self.frozen_since.is_some() || self.busy.is_some() {
            return;
        }
        let Some(placement) = self.placement else { return };
        if self.rests() && now < self.rests_until {
            return;
        }
        if let Some(spec) = self.settings.steps.get(self.up) {
            let index = self.up;
            self.touched = self.touched.max(index + 1);
            let deadline = now + spec.start_timeout;
            self.busy = Some(Busy { index, starting: true, force: false, deadline });
            self.outputs.push_back(Output::Start { step: spec.step, placement });
        } else if !matches!(self.report, Some(Report::Started { .. } | Report::Steady { .. })) {
            self.steady_at = Some(now + self.settings.restart_window);
            self.say(Report::Started { placement });
        } else if self.steady_at.is_none() && !matches!(self.report, Some(Report::Steady { .. })) {
            self.steady_at = Some(now + self.settings.restart_window);
        }
    }

    fn descend(&mut self, now: Instant) {
        let force = self.detached || self.frozen_since.is_some();
        match self.busy {
            Some(busy) if busy.starting => self.stop(now, self.touched - 1, force),
            // What hangs on a lost attachment does not stop by asking; what froze while it stopped may thaw again.
            Some(busy) if self.detached && !busy.force => self.stop(now, busy.index, true),
            Some(_) => {}
            None => self.stop(now, self.touched - 1, force),
        }
    }

    fn stop(&mut self, now: Instant, index: usize, force: bool) {
        let Some(spec) = self.settings.steps.get(index) else { return };
        let deadline = now + spec.stop_timeout;
        self.busy = Some(Busy { index, starting: false, force, deadline });
        self.outputs.push_back(Output::Stop { step: spec.step, force });
    }

    /// All but `to` steps are down.
    fn arrive(&mut self, to: usize, then: Then) {
        self.steady_at = None;
        if to == 0 {
            self.detached = false;
        }
        let Some(placement) = self.placement else {
            self.goal = Goal::Rest;
            return self.say_stopped();
        };
        match then {
            Then::Again if self.wanted == Some(placement) => self.goal = Goal::Up,
            // Wanted as another placement, or not at all any more: all the way down, and then to rest.
            Then::Again if to > 0 => self.goal = Goal::Down { to: 0, then: Then::Stopped },
            Then::Again | Then::Stopped => {
                self.goal = Goal::Rest;
                self.placement = None;
                self.say_stopped();
            }
            Then::Failed(why) => {
                self.goal = Goal::Rest;
                self.placement = None;
                self.say(Report::Failed { placement, why });
            }
        }
    }

    /// Watches what is up, unless it is frozen, has just thawed, or goes down.
    fn watch(&mut self, now: Instant) {
        if self.thawed_at.is_some_and(|thawed| now >= thawed + self.settings.thaw_grace) {
            self.thawed_at = None;
        }
        let suspended = self.frozen_since.is_some() || self.thawed_at.is_some() || self.goal != Goal::Up;
        let up = if suspended { 0 } else { self.up };
        let steps = self.settings.steps.iter().take(up);
        let next: BTreeSet<Step> = steps.filter(|spec| spec.monitored).map(|spec| spec.step).collect();
        for step in self.watched.difference(&next) {
            self.outputs.push_back(Output::StopMonitor(*step));
        }
        for step in next.difference(&self.watched) {
            self.outputs.push_back(Output::StartMonitor(*step));
        }
        self.watched = next;
    }
}
