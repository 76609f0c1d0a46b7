//! How a way between two places carries.

use serde::{Deserialize, Serialize};
use tandem_base::{BitRate, Duration};
use tandem_plan::Line;

/// How one direction between two places carries frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quality {
    /// From one end to the other, once.
    pub latency: Duration,
    /// Added to the latency, evenly spread over zero to this; never reorders.
    pub jitter: Duration,
    /// Frames lost, of a million.
    pub loss_per_million: u32,
    /// What it carries; without a figure, everything at once.
    pub bandwidth: Option<BitRate>,
}

impl Quality {
    /// Inside one place: as fast as this machine is.
    pub const LOCAL: Self =
        Self { latency: Duration::ZERO, jitter: Duration::ZERO, loss_per_million: 0, bandwidth: None };
}

impl Default for Quality {
    /// Where the plan says nothing: 1 ms, 1 Gbit/s.
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(1),
            bandwidth: Some(BitRate::from_bits_per_second(1_000_000_000)),
            ..Self::LOCAL
        }
    }
}

impl From<Line> for Quality {
    fn from(line: Line) -> Self {
        Self {
            latency: line.latency,
            jitter: line.jitter,
            loss_per_million: line.loss.millionths(),
            bandwidth: line.bandwidth,
        }
    }
}

/// What to change of a [`Quality`]; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QualityChange {
    /// New latency, one way.
    pub latency: Option<Duration>,
    /// New jitter.
    pub jitter: Option<Duration>,
    /// New loss.
    pub loss_per_million: Option<u32>,
    /// New bandwidth.
    pub bandwidth: Option<BitRate>,
}

impl QualityChange {
    /// Applies the change.
    pub(crate) fn apply(&self, quality: &mut Quality) {
        if let Some(latency) = self.latency {
            quality.latency = latency;
        }
        if let Some(jitter) = self.jitter {
            quality.jitter = jitter;
        }
        if let Some(loss) = self.loss_per_million {
            quality.loss_per_million = loss;
        }
        if self.bandwidth.is_some() {
            quality.bandwidth = self.bandwidth;
        }
    }
}
