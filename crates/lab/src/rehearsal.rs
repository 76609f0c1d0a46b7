//! Plays the failures that a plan claims to survive, and compares what it promises with what was measured.

mod report;
mod scenario;

pub use report::{Event, Report, ScenarioReport, ServiceReport};
pub use scenario::Scenario;
