//! The life of one service on one node.

mod lifecycle;

use alloc::{string::String, vec::Vec};
use core::fmt;
use serde::{Deserialize, Serialize};
use tandem_base::{Duration, Instant};

pub use lifecycle::Lifecycle;

/// A resource of a service. A service has each at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Step {
    /// The volumes of the group are attached to this node.
    Attach,
    /// Their file systems are mounted.
    Mount,
    /// The service's addresses are on an interface.
    Address,
    /// The program runs.
    Process,
    /// The service answers.
    Check,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attach => "attach",
            Self::Mount => "mount",
            Self::Address => "address",
            Self::Process => "process",
            Self::Check => "check",
        })
    }
}

/// A step with its limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepSpec {
    /// Which.
    pub step: Step,
    /// A start that takes longer failed.
    pub start_timeout: Duration,
    /// A stop that takes longer failed, and a failed stop fences the node.
    pub stop_timeout: Duration,
    /// Whether it is watched while it runs.
    pub monitored: bool,
}

/// How a service is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// In the order of starting.
    pub steps: Vec<StepSpec>,
    /// How often within `restart_window` a failed monitor leads to a restart on this node, before the service is given up.
    pub restarts_max: usize,
    /// How long to wait before the second restart within `restart_window`, the first being immediate; twice as long before
    /// each further one.
    pub restart_pause: Duration,
    /// In what time restarts are counted; a service that ran this long without one is steady.
    pub restart_window: Duration,
    /// How long after a thaw monitors stay suspended.
    pub thaw_grace: Duration,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The service shall run here, as this placement.
    Wanted {
        /// The placement.
        placement: u64,
        /// How long to wait before its first step ([`ServiceIntent::Run`](crate::ServiceIntent::Run)).
        pause: Duration,
    },
    /// The service must not run here.
    Unwanted {
        /// The placement whose end the cluster waits to hear of ([`ServiceIntent::Stop`](crate::ServiceIntent::Stop)).
        placement: Option<u64>,
        /// In words.
        why: String,
    },
    /// A start ended well.
    StepStarted(Step),
    /// A start ended badly.
    StepFailed {
        /// Which.
        step: Step,
        /// In words.
        why: String,
    },
    /// A stop ended well; a step that was not running stops well.
    StepStopped(Step),
    /// A stop ended badly.
    StepStopFailed {
        /// Which.
        step: Step,
        /// In words.
        why: String,
    },
    /// A step that had started is found not running, or not working.
    MonitorFailed {
        /// Which.
        step: Step,
        /// In words.
        why: String,
    },
    /// The node's lease ended: the guard has frozen the service.
    LeaseEnded,
    /// The node may act, again or still: the guard has thawed the service. Say it with every renewal.
    LeaseRenewed {
        /// First instant at which it may not. Nothing starts from then on, whether [`Input::LeaseEnded`] was heard or not:
        /// after a stop of the whole machine other news can come first.
        until: Instant,
    },
    /// The attachment failed for ever (its promotion is over): what stands on it can only be torn down.
    AttachmentLost {
        /// In words.
        why: String,
    },
    /// The instant that [`Lifecycle::poll_timeout`] named has come.
    TimedOut,
}

/// What the cluster's log shall hear. Repeat it until the state shows it, or has moved on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// [`Command::ServiceStarted`](crate::Command::ServiceStarted).
    Started {
        /// The placement.
        placement: u64,
    },
    /// [`Command::ServiceSteady`](crate::Command::ServiceSteady).
    Steady {
        /// The placement.
        placement: u64,
    },
    /// [`Command::ServiceStopped`](crate::Command::ServiceStopped).
    Stopped {
        /// The placement.
        placement: u64,
    },
    /// [`Command::ServiceFailed`](crate::Command::ServiceFailed).
    Failed {
        /// The placement.
        placement: u64,
        /// In words.
        why: String,
    },
}

/// Something the runtime must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Start a step; what runs already for this placement counts as started. Then give [`Input::StepStarted`] or [`Input::StepFailed`].
    Start {
        /// Which.
        step: Step,
        /// For which placement.
        placement: u64,
    },
    /// Stop a step, or end a start that still runs; then give [`Input::StepStopped`] or [`Input::StepStopFailed`].
    Stop {
        /// Which.
        step: Step,
        /// By force: kill, detach lazily. What is frozen, or stands on a lost attachment, does not stop by asking.
        force: bool,
    },
    /// Watch a step.
    StartMonitor(Step),
    /// Watch it no more.
    StopMonitor(Step),
    /// Tell the cluster.
    Report(Report),
    /// A stop failed: fence this node, by force.
    Escalate {
        /// In words.
        why: String,
    },
}

/// What a service is doing, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Nothing of it runs here.
    Down,
    /// It starts; this step is next or under way.
    Starting(Step),
    /// Every step is up.
    Running,
    /// It stops; this step is next or under way.
    Stopping(Step),
    /// Nothing of it runs here after a failure.
    Failed {
        /// In words.
        why: String,
    },
    /// A stop failed; the node is being fenced.
    Escalated {
        /// In words.
        why: String,
    },
}
