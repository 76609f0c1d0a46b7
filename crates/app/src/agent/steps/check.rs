//! Whether a service answers.

use super::Steps;
use std::sync::atomic::Ordering;
use tandem_base::Duration;
use tandem_cluster::service::{Input, Step};
use tandem_node_io::{check, now};
use tandem_plan::Probe;

/// How much earlier than its step's limit the first check gives up.
const LAST_WORDS: Duration = Duration::from_millis(200);

impl Steps {
    async fn check_once(&self, check: &tandem_plan::Check) -> Result<(), String> {
        let result = match &check.probe {
            Probe::Tcp(address) => {
                let address = self.fill(address)?;
                let address = address.parse().map_err(|_| format!("`{address}` is no address with a port"))?;
                check::tcp(address, check.timeout).await
            }
            Probe::Command(words) => check::command(&self.argv(words)?, &[], check.timeout).await,
            _ => return Err("this check is not carried out yet".into()),
        };
        if result.status == check::CheckStatus::Ok { Ok(()) } else { Err(result.line) }
    }

    /// Waits until the service answers. Gives up a little before the step's own limit does, to tell what the last try said.
    pub(super) async fn first_check(&self) -> Result<(), String> {
        let Some(check) = &self.spec.check else { return Ok(()) };
        self.unwell.store(false, Ordering::Relaxed);
        let margin = LAST_WORDS.min(Duration::from_nanos(self.spec.start_timeout.as_nanos() / 4));
        let until = now() + self.spec.start_timeout.saturating_sub(margin);
        while let Err(why) = self.check_once(check).await {
            if now() >= until {
                return Err(format!("{why}, for {}", self.spec.start_timeout));
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub(super) async fn watch_check(&self) -> Input {
        let Some(check) = &self.spec.check else { return std::future::pending().await };
        let mut failures = 0;
        let mut ticks = tokio::time::interval(check.interval.into());
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.check_once(check).await {
                Ok(()) => {
                    failures = 0;
                    self.unwell.store(false, Ordering::Relaxed);
                }
                Err(why) => {
                    failures += 1;
                    self.unwell.store(true, Ordering::Relaxed);
                    tracing::info!(service = %self.name(), why, failures, "the check failed");
                    if failures >= check.failures {
                        return Input::MonitorFailed { step: Step::Check, why };
                    }
                }
            }
        }
    }
}
