//! Plays the failures that a plan claims to survive, and compares what it promises with what was measured.
//!
//! Every scenario has a lab of its own, so that none inherits what another broke. In it a client outside the sites writes
//! through each service's address, one numbered record after another, and remembers every acknowledgement; the failure is
//! played, the services come back, and every acknowledged record is looked for.

mod bounded;
mod client;
mod load;
mod measure;
pub(crate) mod observe;
mod observer;
mod play;
mod progress;
mod report;
mod scenario;
mod stage;
mod table;
mod view;

use std::path::{Path, PathBuf};

pub use report::{Event, Report, ScenarioReport, ServiceReport};
pub use scenario::Scenario;
use tandem_base::Duration;
use tandem_plan::Plan;

use crate::{
    LabError, hidden,
    rehearsal::{
        client::{Client, Target},
        measure::measure,
        progress::Progress,
        stage::{Seen, Stage},
    },
};

/// Plays `scenarios` one after another. `plan_path` is the plan's file or directory, `binary` the `tandem` that runs in
/// every node.
///
/// Scenarios that mean nothing in this plan are left out, and said so. What goes wrong inside a scenario is in its
/// report; the logs of a failed one are kept, and the report says where.
///
/// # Errors
///
/// [`LabError::Privileges`] and whatever keeps a lab from being built at all; [`LabError::Refused`] when no service of
/// the plan speaks what a client does.
pub fn rehearse(plan: &Plan, plan_path: &Path, scenarios: &[Scenario], binary: &Path) -> Result<Report, LabError> {
    let targets = Target::all(plan);
    if targets.is_empty() {
        let why =
            "no service of this plan can be written to by a client: it speaks to `tandem ledger-serve` and PostgreSQL";
        return Err(LabError::Refused(why.into()));
    }
    crate::check_plan(plan)?;
    let mut progress = Progress::new(scenarios.len());
    let mut report = Report { plan: plan.name.to_string(), passed: true, scenarios: Vec::new() };
    for scenario in scenarios {
        progress.begin(scenario.name());
        if let Some(why) = play::inapplicable(*scenario, plan) {
            progress.end(&format!("left out: {why}"));
            continue;
        }
        let played = run(*scenario, plan, plan_path, binary, &targets, &progress);
        progress.end(&played.summary());
        report.passed &= played.passed;
        report.scenarios.push(played);
    }
    // Nothing played proves nothing.
    report.passed &= !report.scenarios.is_empty();
    Ok(report)
}

fn run(
    scenario: Scenario,
    plan: &Plan,
    plan_path: &Path,
    binary: &Path,
    targets: &[Target],
    progress: &Progress,
) -> ScenarioReport {
    let failed = |why: String| ScenarioReport {
        name: scenario.name().into(),
        passed: false,
        failures: vec![why],
        services: Vec::new(),
        events: Vec::new(),
    };
    match Stage::build(plan, plan_path, binary, progress) {
        Err(error) => failed(hidden::with_causes(&error)),
        Ok(mut stage) => {
            let mut report = perform(scenario, &mut stage, targets).unwrap_or_else(|error| {
                let mut report = failed(hidden::with_causes(&error));
                report.failures.append(&mut stage.failures);
                report.events = stage.timeline();
                report
            });
            let keep = (!report.passed).then(|| kept_logs(scenario));
            if let Some(keep) = &keep {
                report.failures.push(format!("the logs are in {}", keep.display()));
            }
            if let Err(error) = stage.end(keep.as_deref()) {
                report.passed = false;
                report.failures.push(hidden::with_causes(&error));
            }
            report
        }
    }
}

fn perform(scenario: Scenario, stage: &mut Stage<'_>, targets: &[Target]) -> Result<ScenarioReport, LabError> {
    stage.wait_whole()?;
    stage.start_clients(targets)?;
    play::play(scenario, stage, targets)?;
    let seen = stage.stop_clients()?;
    stage.step("looks for every acknowledged write");
    let mut services = Vec::new();
    for (target, acks) in &seen.acks {
        match Client::verify(&stage.lab, stage.binary(), target, acks) {
            Ok(missing) => services.push(judge(stage.plan, &seen, target, acks, &missing)),
            Err(error) => {
                let why = format!("{}: nobody can say what was lost: {}", target.service, hidden::with_causes(&error));
                stage.failures.push(why);
            }
        }
        let serving = stage.serving(target)?;
        if let Some(damage) = load::damage(&stage.lab, target, serving.as_str())? {
            stage.failures.push(format!("service {}: damage: {damage}", target.service));
        }
    }
    let events = stage.timeline();
    let failures = std::mem::take(&mut stage.failures);
    let passed = failures.is_empty() && services.iter().all(|service| service.passed);
    Ok(ScenarioReport { name: scenario.name().into(), passed, failures, services, events })
}

fn judge(plan: &Plan, seen: &Seen, target: &Target, acks: &[measure::Ack], missing: &client::Missing) -> ServiceReport {
    let figures = measure(acks, seen.fault_ns, seen.end_ns, &missing.numbers);
    let service = plan.services.get(&target.service);
    let rpo_target_ms = service.and_then(|service| service.rpo).map(Duration::as_millis);
    let rto_target_ms = service.and_then(|service| service.rto).map(Duration::as_millis);
    // The client lists at most the first thousand.
    let lost = figures.lost.max(missing.count);
    ServiceReport {
        name: target.service.to_string(),
        acknowledged: figures.acknowledged,
        lost,
        rpo_target_ms,
        rpo_ms: figures.rpo_ms,
        rto_target_ms,
        rto_ms: figures.rto_ms,
        // Without a target nothing may be lost, and any time will do.
        passed: (lost == 0 || figures.rpo_ms <= rpo_target_ms.unwrap_or(0))
            && rto_target_ms.is_none_or(|target| figures.rto_ms <= target)
            && figures.acknowledged > 0,
    }
}

fn kept_logs(scenario: Scenario) -> PathBuf {
    std::env::temp_dir().join(format!("tandem-rehearsal-{}-{scenario}", std::process::id()))
}
