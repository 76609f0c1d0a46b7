//! The cluster's clocks.

use serde::Serialize;
use tandem_base::Duration;

use super::as_text;
use crate::Proportion;

/// How long things take before the cluster acts. Checked together: see [`crate::Code::LeaseTooShort`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Timing {
    /// From one renewal of a node's session to the next.
    #[serde(serialize_with = "as_text")]
    pub heartbeat: Duration,
    /// How long a renewal entitles a node to act, from when it was sent, on the node's clock.
    #[serde(serialize_with = "as_text")]
    pub lease: Duration,
    /// How much faster or slower than true time any node's clock may run.
    #[serde(serialize_with = "as_text")]
    pub clock_drift: Proportion,
    /// How long a node whose lease ended may take until all of it has stopped acting.
    #[serde(serialize_with = "as_text")]
    pub grace: Duration,
    /// From one message of the log's leader to the next.
    #[serde(serialize_with = "as_text")]
    pub raft_heartbeat: Duration,
    /// Shortest silence of the leader after which a voter stands for election.
    #[serde(serialize_with = "as_text")]
    pub election_min: Duration,
    /// Longest such silence.
    #[serde(serialize_with = "as_text")]
    pub election_max: Duration,
    /// How long a secondary may leave a waiting write unanswered before the primary has it taken out of the in-sync set.
    #[serde(serialize_with = "as_text")]
    pub peer_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            lease: Duration::from_secs(3),
            clock_drift: Proportion::from_millionths(10_000),
            grace: Duration::from_millis(500),
            raft_heartbeat: Duration::from_millis(150),
            election_min: Duration::from_millis(600),
            election_max: Duration::from_millis(1_200),
            peer_timeout: Duration::from_secs(1),
        }
    }
}

impl Timing {
    /// How long after its last renewal was received the leader expires a session: `lease x (1+d)/(1-d) + grace`,
    /// rounded up, with `d` the drift. A lease counted on the slowest clock is over before this has passed on the fastest.
    #[must_use]
    pub fn session_expiry(&self) -> Duration {
        let drift = u128::from(self.clock_drift.millionths());
        let lease = u128::from(self.lease.as_nanos());
        let whole = u128::from(Proportion::WHOLE);
        let stretched = (lease * (whole + drift)).div_ceil(whole.saturating_sub(drift).max(1));
        Duration::from_nanos(u64::try_from(stretched).unwrap_or(u64::MAX)) + self.grace
    }
}
