//! This node's own lease: the core that holds it, run against the log and the leader.

use std::{sync::Arc, time::Duration};

use tandem_base::{Rng, RunId};
use tandem_cluster::{
    Command, Outcome, Refusal,
    lease::{Holder, Input, Output},
};
use tokio::sync::{mpsc, watch};

use crate::{
    clock,
    control::{Core, Lease},
    wire::{Ask, Told},
};

/// Opens a session and renews it, until it is dropped.
pub(crate) async fn run(core: Arc<Core>, run: RunId, shown: watch::Sender<Lease>) {
    let mut timings = core.timings();
    let mut holder = Holder::new(timings, run, Rng::new(crate::control::random()));
    let (results, mut incoming) = mpsc::unbounded_channel();
    let mut applied = core.applied.clone();
    let mut input = Input::TimedOut;
    loop {
        holder.handle(clock::now(), input);
        while let Some(output) = holder.poll_output() {
            carry_out(&core, output, &holder, &results, &shown);
        }
        let deadline = holder.poll_timeout();
        let timed_out = async {
            match deadline {
                Some(deadline) => clock::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        input = tokio::select! {
            Some(result) = incoming.recv() => result,
            changed = applied.changed() => {
                if changed.is_err() {
                    return;
                }
                let index = applied.borrow_and_update().index;
                if core.timings() != timings {
                    timings = core.timings();
                    holder.set_timings(timings);
                }
                Input::Applied { index }
            }
            () = timed_out => Input::TimedOut,
        };
    }
}

fn carry_out(
    core: &Arc<Core>,
    output: Output,
    holder: &Holder,
    results: &mpsc::UnboundedSender<Input>,
    shown: &watch::Sender<Lease>,
) {
    let (core, results) = (Arc::clone(core), results.clone());
    match output {
        Output::OpenSession { session, run } => {
            tokio::spawn(async move {
                let command = Command::OpenSession { node: core.identity.node.clone(), run, session };
                let input = match core.propose(command, Duration::from_secs(1)).await {
                    Ok(committed) => match committed.outcome {
                        Outcome::Done => Input::SessionOpened { session },
                        Outcome::Refused(refusal) => {
                            tracing::warn!(%refusal, "no session");
                            let over = matches!(refusal, Refusal::SessionOver { .. });
                            Input::OpenFailed { session, over, why: refusal.to_string() }
                        }
                    },
                    Err(error) => Input::OpenFailed { session, over: false, why: error.to_string() },
                };
                // The driver may have ended.
                let _ = results.send(input);
            });
        }
        Output::SendRenewal { renewal, session, run } => {
            let within = Duration::from(core.timings().heartbeat).max(Duration::from_millis(100)) * 2;
            tokio::spawn(async move {
                let ask = Ask::Renew { node: core.identity.node.clone(), session, run, renewal };
                let input = match core.ask(ask, within).await {
                    Ok(Told::Answer(answer)) => Input::RenewalAnswered { session, renewal, answer },
                    Ok(_) => Input::RenewalFailed { renewal, why: "the leader answered another question".into() },
                    Err(error) => Input::RenewalFailed { renewal, why: error.to_string() },
                };
                // The driver may have ended.
                let _ = results.send(input);
            });
        }
        Output::Extended { until, index } => {
            let lease = Lease { session: holder.session(), until: Some(until), index };
            shown.send_replace(lease);
        }
        Output::Lapsed { why } => {
            tracing::warn!(%why, "the lease lapsed");
            shown.send_modify(|lease| lease.until = None);
        }
    }
}
