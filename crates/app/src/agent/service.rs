//! One service on this node: the pure lifecycle decides, [`super::steps`] carries out, the log hears the reports.

use super::{group::Group, node::UNPOISONED, proposer::Proposer, steps::Steps};
use crate::paths::Paths;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration as StdDuration,
};
use tandem_base::{Duration, Instant, NodeName, ServiceName};
use tandem_cluster::{
    Command, ServiceIntent,
    service::{Input, Lifecycle, Output, Report, Settings, Step, StepSpec},
};
use tandem_net_io::Network;
use tandem_node_io::{GuardHandle, now, sleep_until};
use tandem_plan::Plan;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// What every service of this node uses.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) node: NodeName,
    pub(super) paths: Paths,
    pub(super) proposer: Proposer,
    pub(super) network: Network,
    pub(super) guard: GuardHandle,
}

/// What the log and the lease say of a service on this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Orders {
    /// What this node does about it; `None` before the log was read.
    pub(super) intent: Option<ServiceIntent>,
    /// First instant at which the node's lease is over.
    pub(super) lease_until: Option<Instant>,
}

impl Context {
    fn placement_file(&self, service: &ServiceName) -> PathBuf {
        self.paths.run_dir.join("services").join(format!("{service}.placement"))
    }
}

/// The agent's hold on one service.
pub(super) struct Service {
    /// What it has to do.
    pub(super) orders: watch::Sender<Orders>,
}

/// Restarts on the same node, within [`RESTART_WINDOW`], before the service is given up here.
const RESTARTS_MAX: usize = 2;
/// The pause before the second of them.
const RESTART_PAUSE: Duration = Duration::from_secs(2);
/// In what time restarts are counted.
const RESTART_WINDOW: Duration = Duration::from_secs(300);
/// How long after a thaw monitors stay suspended: what was frozen needs a moment to catch up.
const THAW_GRACE: Duration = Duration::from_secs(2);
/// Between two tries to have a report taken.
const REPORT_AGAIN: StdDuration = StdDuration::from_millis(500);

impl Service {
    /// Starts to look after a service; nothing is started before the first order.
    pub(super) fn start(
        plan: Arc<Plan>,
        spec: tandem_plan::Service,
        group: Option<Arc<Group>>,
        context: Arc<Context>,
    ) -> Self {
        let (orders, seen) = watch::channel(Orders::default());
        let (happened, happenings) = mpsc::unbounded_channel();
        let settings = settings(&spec);
        let placed = context.placement_file(&spec.name);
        // What an earlier agent of this boot left is adopted as the placement it was started for.
        let left = std::fs::read_to_string(&placed).ok().and_then(|text| text.trim().parse().ok());
        let lifecycle = match left {
            Some(placement) => Lifecycle::adopt(settings, placement),
            None => Lifecycle::new(settings),
        };
        let steps = Arc::new(Steps::new(plan, spec, group, context.clone(), seen.clone()));
        let runner = Runner {
            lifecycle,
            placed,
            steps,
            context,
            orders: seen,
            happened,
            running: Arc::default(),
            monitors: BTreeMap::new(),
            report: None,
            renewed: None,
            entitled: false,
            intent: None,
        };
        tokio::spawn(runner.run(happenings));
        Self { orders }
    }
}

/// The steps a service has, in the order of starting: its address before its process, which may listen on it.
fn settings(spec: &tandem_plan::Service) -> Settings {
    let mut steps = Vec::new();
    let mut push = |present: bool, step, monitored| {
        if present {
            let (start_timeout, stop_timeout) = (spec.start_timeout, spec.stop_timeout);
            steps.push(StepSpec { step, start_timeout, stop_timeout, monitored });
        }
    };
    push(!spec.volumes.is_empty(), Step::Attach, true);
    push(!spec.mounts.is_empty(), Step::Mount, false);
    push(spec.address.is_some(), Step::Address, true);
    push(spec.run.is_some(), Step::Process, true);
    push(spec.check.is_some(), Step::Check, true);
    Settings {
        steps,
        restarts_max: RESTARTS_MAX,
        restart_pause: RESTART_PAUSE,
        restart_window: RESTART_WINDOW,
        thaw_grace: THAW_GRACE,
    }
}

struct Runner {
    lifecycle: Lifecycle,
    /// Where the placement is written down for the next agent.
    placed: PathBuf,
    steps: Arc<Steps>,
    context: Arc<Context>,
    orders: watch::Receiver<Orders>,
    happened: mpsc::UnboundedSender<Input>,
    /// Starts that run, to be ended by a stop of the same step.
    running: Arc<Mutex<BTreeMap<Step, JoinHandle<()>>>>,
    monitors: BTreeMap<Step, JoinHandle<()>>,
    report: Option<JoinHandle<()>>,
    /// The end of the lease that was last seen.
    renewed: Option<Instant>,
    /// Whether the lifecycle was last told that the node may act.
    entitled: bool,
    intent: Option<ServiceIntent>,
}

impl Runner {
    async fn run(mut self, mut happenings: mpsc::UnboundedReceiver<Input>) {
        loop {
            let orders = self.orders.borrow_and_update().clone();
            self.obey(&orders);
            self.carry_out();
            // The lease's own end wakes us too, as does the lifecycle's next deadline.
            let wake = [self.lifecycle.poll_timeout(), orders.lease_until.filter(|_| self.entitled)];
            let wake = wake.into_iter().flatten().min();
            tokio::select! {
                changed = self.orders.changed() => if changed.is_err() { return },
                Some(input) = happenings.recv() => self.lifecycle.handle(now(), input),
                () = at(wake) => self.lifecycle.handle(now(), Input::TimedOut),
            }
        }
    }

    /// Tells the lifecycle what changed in the lease and in the log, the lease first.
    fn obey(&mut self, orders: &Orders) {
        let entitled = orders.lease_until.is_some_and(|until| now() < until);
        // Said again with every renewal: the guard may have frozen what this agent never saw frozen, in a lapse that was
        // over before it looked, or before this agent was started.
        let renewed = orders.lease_until != self.renewed;
        self.renewed = orders.lease_until;
        if entitled && renewed && orders.intent == self.intent && matches!(self.intent, Some(ServiceIntent::Run { .. }))
        {
            self.steps.thaw();
        }
        match orders.lease_until.filter(|_| entitled) {
            Some(until) if renewed || !self.entitled => self.lifecycle.handle(now(), Input::LeaseRenewed { until }),
            None if self.entitled => self.lifecycle.handle(now(), Input::LeaseEnded),
            _ => {}
        }
        self.entitled = entitled;
        if orders.intent != self.intent {
            self.intent.clone_from(&orders.intent);
            match &orders.intent {
                None => {}
                Some(ServiceIntent::Run { placement, pause }) => {
                    self.lifecycle.handle(now(), Input::Wanted { placement: *placement, pause: *pause });
                }
                Some(ServiceIntent::Stop { placement, why }) => {
                    self.lifecycle.handle(now(), Input::Unwanted { placement: *placement, why: why.clone() });
                }
            }
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.lifecycle.poll_output() {
            tracing::debug!(service = %self.steps.name(), ?output, "lifecycle");
            match output {
                Output::Start { step, placement } => {
                    let folder = self.placed.parent().map_or(Ok(()), std::fs::create_dir_all);
                    let written = folder.and_then(|()| std::fs::write(&self.placed, placement.to_string()));
                    if let Err(error) = written {
                        tracing::warn!(path = %self.placed.display(), %error, "an agent that starts again will not know");
                    }
                    self.start(step);
                }
                Output::Stop { step, force } => self.stop(step, force),
                Output::StartMonitor(step) => {
                    let (steps, happened) = (Arc::clone(&self.steps), self.happened.clone());
                    let proposer = self.context.proposer.clone();
                    let monitor = tokio::spawn(async move {
                        let failed = steps.monitor(step).await;
                        if let Input::MonitorFailed { why, .. } = &failed {
                            let what = format!("service {}: its {step} failed here", steps.name());
                            proposer.note(what, why);
                        }
                        let _ = happened.send(failed);
                    });
                    if let Some(old) = self.monitors.insert(step, monitor) {
                        old.abort();
                    }
                }
                Output::StopMonitor(step) => {
                    if let Some(monitor) = self.monitors.remove(&step) {
                        monitor.abort();
                    }
                }
                Output::Report(report) => self.tell(report),
                Output::Escalate { why } => {
                    let name = self.steps.name();
                    tracing::error!(service = %name, why, "a stop failed: this node gives up its lease");
                    super::surrender::surrender(&self.context.paths.run_dir, &format!("service {name}: {why}"));
                }
            }
        }
    }

    fn start(&self, step: Step) {
        let (steps, happened) = (Arc::clone(&self.steps), self.happened.clone());
        let start = tokio::spawn(async move {
            let _ = happened.send(match steps.start(step).await {
                Ok(()) => Input::StepStarted(step),
                Err(why) => Input::StepFailed { step, why },
            });
        });
        self.running.lock().expect(UNPOISONED).insert(step, start);
    }

    fn stop(&self, step: Step, force: bool) {
        let start = self.running.lock().expect(UNPOISONED).remove(&step);
        let (steps, happened) = (Arc::clone(&self.steps), self.happened.clone());
        tokio::spawn(async move {
            if let Some(start) = start {
                start.abort();
                // Once it is over nothing of it comes up behind the stop.
                let _ = start.await;
            }
            let _ = happened.send(match steps.stop(step, force).await {
                Ok(()) => Input::StepStopped(step),
                Err(why) => Input::StepStopFailed { step, why },
            });
        });
    }

    /// Has a report taken by the log, however long that takes; a newer one replaces it.
    fn tell(&mut self, report: Report) {
        let (service, node) = (self.steps.name().clone(), self.context.node.clone());
        let command = match report {
            Report::Started { placement } => Command::ServiceStarted { service, node, placement },
            Report::Steady { placement } => Command::ServiceSteady { service, node, placement },
            Report::Stopped { placement } => Command::ServiceStopped { service, node, placement },
            Report::Failed { placement, why } => Command::ServiceFailed { service, node, placement, why },
        };
        let proposer = self.context.proposer.clone();
        let task = tokio::spawn(async move {
            while let Err(error) = proposer.propose(command.clone()).await {
                tracing::debug!(?command, %error, "the report is not taken yet");
                tokio::time::sleep(REPORT_AGAIN).await;
            }
        });
        if let Some(old) = self.report.replace(task) {
            old.abort();
        }
    }
}

/// Waits for an instant, or for ever.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => {
            if let Err(error) = sleep_until(instant).await {
                tracing::warn!(%error, "no timer left; looking again in a moment");
                tokio::time::sleep(StdDuration::from_millis(100)).await;
            }
        }
        None => std::future::pending().await,
    }
}
