//! The failures that can be played.

use std::{fmt, str::FromStr};

/// A failure, or a chain of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Scenario {
    /// The node that serves loses its power.
    NodeLoss,
    /// Every node of the site that serves loses its power.
    SiteLoss,
    /// Nothing passes between the sites, while both reach the witness.
    LinkCut,
    /// Every process of the node that serves is stopped for longer than the lease, then goes on.
    PrimaryFrozen,
    /// The witness loses its power.
    WitnessLoss,
    /// A person moves the service to the other site.
    Switchover,
    /// The serving site dies, comes back and catches up; then the other site dies.
    LossAndReturn,
}

impl Scenario {
    /// All of them, in the order in which they are played.
    pub const ALL: [Self; 7] = [
        Self::Switchover,
        Self::WitnessLoss,
        Self::LinkCut,
        Self::PrimaryFrozen,
        Self::NodeLoss,
        Self::SiteLoss,
        Self::LossAndReturn,
    ];

    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NodeLoss => "node-loss",
            Self::SiteLoss => "site-loss",
            Self::LinkCut => "link-cut",
            Self::PrimaryFrozen => "primary-frozen",
            Self::WitnessLoss => "witness-loss",
            Self::Switchover => "switchover",
            Self::LossAndReturn => "loss-and-return",
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|scenario| scenario.name()).collect();
            format!("there is no scenario `{text}`; there are {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_found_by_its_name() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.name().parse(), Ok(scenario));
        }
        let wrong = "earthquake".parse::<Scenario>().expect_err("there is none");
        assert!(wrong.contains("site-loss"), "{wrong}");
    }
}
