//! The scripts of the scenarios.

use std::time::Duration;

use tandem_base::{NodeName, SiteName};
use tandem_plan::Plan;

use crate::{
    LabError,
    error::Doing,
    rehearsal::{Scenario, bounded, client::Target, observer::Observer, stage::Stage},
    root,
};

/// For how long an old primary that goes on is watched.
const WATCHED: Duration = Duration::from_secs(3);

/// Why `scenario` means nothing in `plan`; none if it can be played.
pub(crate) fn inapplicable(scenario: Scenario, plan: &Plan) -> Option<&'static str> {
    match scenario {
        Scenario::WitnessLoss if !plan.nodes.values().any(|node| node.witness) => Some("the plan has no witness"),
        Scenario::NodeLoss | Scenario::PrimaryFrozen | Scenario::WitnessLoss => None,
        _ if plan.sites.len() < 2 => Some("the plan has one site only"),
        _ => None,
    }
}

/// Plays `scenario` until the services are back, or noted as a failure.
pub(crate) fn play(scenario: Scenario, stage: &mut Stage<'_>, targets: &[Target]) -> Result<(), LabError> {
    let timing = &stage.plan.timing;
    // From when no lease can be held that was renewed before: later faults than a silent node show by then.
    let expiry = Duration::from(timing.lease.stretch(20_000) + timing.grace);
    // With several services, the first one's node is the one that fails.
    let first = targets.first().ok_or_else(|| LabError::Refused("no service can be written to".into()))?;
    let serving = stage.serving(first)?;
    match scenario {
        Scenario::NodeLoss => {
            stage.act(&format!("{serving} loses its power"), "node-loss: it serves");
            stage.lab.kill(serving.as_str())?;
            stage.wait_recovery(expiry);
        }
        Scenario::SiteLoss => {
            lose_site(stage, &site_of(stage.plan, &serving)?, "site-loss: it serves")?;
            stage.wait_recovery(expiry);
        }
        Scenario::LinkCut => {
            let (here, there) = (site_of(stage.plan, &serving)?, other_site(stage.plan, &serving)?);
            stage.act(&format!("nothing passes between {here} and {there}"), "link-cut");
            stage.lab.cut(here.as_str(), Some(there.as_str()), false)?;
            stage.wait_recovery(2 * expiry);
            stage.act(&format!("{here} and {there} reach each other again"), "link-cut");
            stage.lab.heal(None, None)?;
            become_whole(stage);
            stage.wait_recovery(Duration::ZERO);
        }
        Scenario::PrimaryFrozen => freeze(stage, targets, &serving, expiry)?,
        Scenario::WitnessLoss => {
            let witness = stage.plan.nodes.values().find(|node| node.witness);
            let witness = witness.ok_or_else(|| LabError::Refused("the plan has no witness".into()))?;
            stage.act(&format!("{} loses its power", witness.name), "witness-loss: it votes");
            stage.lab.kill(witness.name.as_str())?;
            stage.wait_recovery(2 * expiry);
        }
        Scenario::Switchover => switch_over(stage, targets, &serving)?,
        Scenario::LossAndReturn => {
            let (first, second) = (site_of(stage.plan, &serving)?, other_site(stage.plan, &serving)?);
            lose_site(stage, &first, "loss-and-return: it serves")?;
            if !stage.wait_recovery(expiry) {
                return Ok(());
            }
            stage.act(&format!("{first} has power again"), "loss-and-return");
            for node in stage.plan.nodes_in(&first) {
                stage.lab.start(node.name.as_str())?;
            }
            if !become_whole(stage) {
                return Ok(());
            }
            lose_site(stage, &second, "loss-and-return: the site that took over dies too")?;
            stage.wait_recovery(expiry);
        }
    }
    Ok(())
}

fn lose_site(stage: &mut Stage<'_>, site: &SiteName, why: &str) -> Result<(), LabError> {
    stage.act(&format!("site {site} loses its power"), why);
    for node in stage.plan.nodes_in(site) {
        stage.lab.kill(node.name.as_str())?;
    }
    Ok(())
}

/// Waits until every replica is in sync again; that it is not is a failure.
fn become_whole(stage: &mut Stage<'_>) -> bool {
    match stage.wait_whole() {
        Ok(()) => {
            stage.note("every node is live and every replica in sync again", "all agents say so");
            true
        }
        Err(error) => {
            stage.failures.push(error.to_string());
            false
        }
    }
}

fn freeze(stage: &mut Stage<'_>, targets: &[Target], serving: &NodeName, expiry: Duration) -> Result<(), LabError> {
    let mut observers = Vec::new();
    for target in targets {
        observers.push((target, Observer::start(&stage.lab, target, serving.as_str())?));
    }
    // Until each has an open connection.
    std::thread::sleep(Duration::from_secs(1));
    stage.act(&format!("every process of {serving} is stopped"), "primary-frozen: for longer than its lease");
    stage.lab.freeze(serving.as_str())?;
    for (_, observer) in &mut observers {
        observer.watch()?;
    }
    stage.wait_recovery(2 * expiry);
    stage.act(&format!("the processes of {serving} go on"), "primary-frozen: it must acknowledge nothing");
    stage.lab.resume(serving.as_str())?;
    std::thread::sleep(WATCHED);
    for (target, observer) in observers {
        let seen = observer.stop()?;
        let service = &target.service;
        stage.note(
            &format!(
                "the old primary of {service} acknowledged {} of {} tries after it was stopped",
                seen.acknowledged, seen.tries
            ),
            &format!("an observer that no announcement redirects; it had reached it {} times before", seen.before),
        );
        if seen.acknowledged > 0 {
            stage.failures.push(format!("the old primary of {service} acknowledged {} writes", seen.acknowledged));
        }
        if seen.before == 0 {
            stage.failures.push(format!("the observer never reached the old primary of {service}: it proves nothing"));
        }
    }
    stage.wait_recovery(Duration::ZERO);
    become_whole(stage);
    Ok(())
}

fn switch_over(stage: &mut Stage<'_>, targets: &[Target], serving: &NodeName) -> Result<(), LabError> {
    let here = site_of(stage.plan, serving)?;
    for target in targets {
        let service = &target.service;
        let declared = stage.plan.services.get(service);
        let declared = declared.ok_or_else(|| LabError::Refused(format!("the plan has no service {service}")))?;
        let to = stage.plan.candidates(declared).into_iter().find(|node| {
            stage.plan.nodes.get(node).and_then(|node| node.site.as_ref()).is_some_and(|site| *site != here)
        });
        let to = to.ok_or_else(|| LabError::Refused(format!("no other site can run {service}")))?;
        stage.act(&format!("a person moves {service} to {to}"), "switchover");
        let command = [root::BINARY, "move", service.as_str(), "--to", to.as_str()];
        let moved = bounded::output(stage.lab.command(serving.as_str(), command), Duration::from_secs(60));
        let moved = moved.doing("run `tandem move`")?;
        if !moved.status.success() {
            let said = String::from_utf8_lossy(&moved.stderr).trim().to_owned();
            stage.failures.push(format!("`tandem move {service} --to {to}` failed: {said}"));
            continue;
        }
        // The command may answer before the service has arrived.
        stage.wait_recovery(Duration::from_secs(1));
        let mut now = stage.serving(target)?;
        for _ in 0..100 {
            if now == to {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            now = stage.serving(target)?;
        }
        if now != to {
            stage.failures.push(format!("{service} is on {now}, not on {to}"));
        }
    }
    stage.wait_recovery(Duration::from_secs(1));
    become_whole(stage);
    Ok(())
}

fn site_of(plan: &Plan, node: &NodeName) -> Result<SiteName, LabError> {
    let site = plan.nodes.get(node).and_then(|node| node.site.clone());
    site.ok_or_else(|| LabError::Refused(format!("the plan has no node {node} in a site")))
}

/// The first site but the one of `node` that could take over.
fn other_site(plan: &Plan, node: &NodeName) -> Result<SiteName, LabError> {
    let here = site_of(plan, node)?;
    let holds = |site: &SiteName| plan.nodes_in(site).any(|node| !node.witness);
    let other = plan.sites.keys().find(|site| **site != here && holds(site));
    other.cloned().ok_or_else(|| LabError::Refused("there is no other site".into()))
}
