//! What a rehearsal found: the object that `tandem rehearse --json` prints.

use serde::{Deserialize, Serialize};

/// All scenarios of one rehearsal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The plan's name.
    pub plan: String,
    /// Whether every scenario passed.
    pub passed: bool,
    /// In the order in which they were played.
    pub scenarios: Vec<ScenarioReport>,
}

/// One scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScenarioReport {
    /// The scenario's name.
    pub name: String,
    /// Whether every service passed and nothing else was wrong.
    pub passed: bool,
    /// What went wrong beside the services' own figures; empty when nothing did.
    pub failures: Vec<String>,
    /// By service.
    pub services: Vec<ServiceReport>,
    /// What happened, by time.
    pub events: Vec<Event>,
}

/// One service in one scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// The service's name.
    pub name: String,
    /// Writes that the client saw acknowledged.
    pub acknowledged: u64,
    /// Those of them that were missing afterwards.
    pub lost: u64,
    /// From the plan; none where it has no target.
    pub rpo_target_ms: Option<u64>,
    /// How long before the last acknowledgement ahead of the gap the oldest lost write was acknowledged; 0 without loss.
    pub rpo_ms: u64,
    /// From the plan; none where it has no target.
    pub rto_target_ms: Option<u64>,
    /// The longest time between one acknowledgement and the next.
    pub rto_ms: u64,
    /// Whether nothing exceeds its target.
    pub passed: bool,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds after the scenario's client started; negative before.
    pub at_ms: i64,
    /// Where; `lab` for what the rehearsal itself did.
    pub node: String,
    /// What happened.
    pub what: String,
    /// The cause.
    pub why: String,
}
