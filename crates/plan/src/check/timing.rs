//! The cluster's clocks fit each other, the links and the objectives.

use tandem_base::Duration;

use super::Checker;
use crate::diagnostic::Diagnostic;
use crate::{Code, Place, Proportion};

/// An address in the kernel expires in whole seconds (`valid_lft`, ip-address(8)), so a lease needs at least two of them.
const LEASE_MIN: Duration = Duration::from_secs(2);
/// Freezing the processes of a service takes the kernel some time on a loaded machine.
const GRACE_MIN: Duration = Duration::from_millis(100);
/// Clocks of ordinary machines drift less than 0.1 %; more than this is broken.
const DRIFT_MAX: Proportion = Proportion::from_millionths(100_000);
/// Round trips of one election: pre-vote, vote, and the leader's first entry.
const ELECTION_ROUNDS: u64 = 3;
/// Round trips of one renewal that is relayed: to the relay, from it to the leader, and the leader's round to a quorum.
const RENEWAL_ROUNDS: u64 = 3;

impl Checker<'_> {
    /// `lines`: the nodes and links could be read.
    pub(super) fn timings(&mut self, lines: bool) {
        let t = &self.plan.timing;
        let round_trip = if lines { self.longest_round_trip() } else { (Duration::ZERO, None) };
        if t.lease < LEASE_MIN {
            self.refuse(
                "lease",
                format!("the lease is {}, less than {LEASE_MIN}", t.lease),
                "a service's address expires in whole seconds, at the lease's end; write at least \"2 s\"".to_owned(),
            );
        }
        if t.grace < GRACE_MIN {
            self.refuse(
                "grace",
                format!("the grace is {}, less than {GRACE_MIN}", t.grace),
                "it is the time in which a node whose lease ended stops acting; write at least \"100 ms\"".to_owned(),
            );
        }
        if t.clock_drift == Proportion::ZERO || t.clock_drift > DRIFT_MAX {
            self.refuse(
                "clock_drift",
                format!("the bound of the clocks' drift is {}", t.clock_drift),
                format!("no two clocks agree, and none that works is more than {DRIFT_MAX} wrong; write \"1 %\""),
            );
        }
        if t.election_min >= t.election_max {
            self.refuse(
                "election_max",
                format!("election_min ({}) is not below election_max ({})", t.election_min, t.election_max),
                "voters that stand at the same moment split the votes; write twice as much for the longest".to_owned(),
            );
        }
        let (round, _) = &round_trip;
        let least = t.raft_heartbeat * 2 + *round;
        if t.election_min < least {
            self.refuse(
                "election_min",
                format!(
                    "election_min is {}, less than two heartbeats of the leader and a round trip: 2 x {} + {round} = {least}",
                    t.election_min, t.raft_heartbeat
                ),
                format!("one lost message would start an election; write at least \"{least}\""),
            );
        }
        let least = *round * 2;
        if t.peer_timeout < least {
            self.refuse(
                "peer_timeout",
                format!("peer_timeout is {}, less than two round trips: {least}", t.peer_timeout),
                "a healthy secondary would be taken out of the in-sync set; the default is \"1 s\"".to_owned(),
            );
        }
        if t.lease >= LEASE_MIN {
            self.lease_holds(&round_trip);
        }
        self.objectives();
    }

    /// The longest round trip between two places where nodes stand, with their names.
    fn longest_round_trip(&self) -> (Duration, Option<(Place, Place)>) {
        let plan = self.plan;
        let places: std::collections::BTreeSet<Place> = plan.nodes.values().map(|node| plan.place(node)).collect();
        let places: Vec<Place> = places.into_iter().collect();
        let mut longest = (Duration::ZERO, None);
        for (index, a) in places.iter().enumerate() {
            for b in &places[index + 1..] {
                let line = plan.line(a, b);
                let round = (line.latency + line.jitter) * 2;
                if round > longest.0 {
                    longest = (round, Some((a.clone(), b.clone())));
                }
            }
        }
        longest
    }

    /// When the leader falls just as a renewal was due, the node's next one must be answered before its lease ends.
    fn lease_holds(&mut self, (round, between): &(Duration, Option<(Place, Place)>)) {
        let t = &self.plan.timing;
        let rounds = ELECTION_ROUNDS + RENEWAL_ROUNDS;
        let worst = t.heartbeat * 2 + t.election_max + *round * rounds;
        let whole = u128::from(Proportion::WHOLE);
        let usable = u128::from(t.lease.as_nanos()) * whole / (whole + u128::from(t.clock_drift.millionths()));
        let usable = Duration::from_nanos(u64::try_from(usable).unwrap_or(u64::MAX));
        if worst <= usable {
            return;
        }
        let (mut needed, shown) =
            ((worst + Duration::from_millis(1)).stretch(t.clock_drift.millionths().into()), usable);
        needed = Duration::from_millis(needed.as_millis().div_ceil(100) * 100);
        let line = match between {
            Some((a, b)) => format!(" (`{a}` to `{b}` and back)"),
            None => String::new(),
        };
        let message = format!(
            "the worst case does not fit into the lease: 2 x heartbeat {} + election_max {} + {rounds} x round trip \
             {round}{line} = {worst}, and a lease of {} is sure for {} on a clock that is {} fast",
            t.heartbeat,
            t.election_max,
            t.lease,
            in_millis(shown),
            t.clock_drift
        );
        let help = format!(
            "write lease = \"{needed}\" or more, or a shorter heartbeat or election_max; otherwise the loss of the leader \
             alone would stop every service"
        );
        let path = ["lease", "election_max", "heartbeat"].into_iter().find(|key| self.written(key)).unwrap_or("lease");
        let mut diagnostic =
            self.error(Code::LeaseTooShort, message).at(&self.at(&format!("timing.{path}")), "too tight");
        if let Some((a, b)) = between {
            let link = self
                .plan
                .links
                .values()
                .find(|link| link.between == [a.clone(), b.clone()] || link.between == [b.clone(), a.clone()]);
            if let Some(link) = link {
                diagnostic = diagnostic.at(&self.at(&format!("link.{}.latency", link.name)), "the slowest line");
            }
        }
        self.say(diagnostic.help(help));
    }

    fn objectives(&mut self) {
        let plan = self.plan;
        let t = &plan.timing;
        let expiry = t.session_expiry();
        let worst = expiry + t.election_max;
        for service in plan.services.values() {
            let Some(rto) = service.rto else { continue };
            let spot = self.at(&format!("service.{}.rto", service.name));
            let sum = format!(
                "lease {} x (1+d)/(1-d) + grace {}, d = {}, is {}",
                t.lease,
                t.grace,
                t.clock_drift,
                in_millis(expiry)
            );
            let diagnostic = if rto < expiry {
                let message = format!(
                    "service `{}` cannot be back within {rto}: only after {} is it sure that the lost \
                     node acts no more",
                    service.name,
                    in_millis(expiry)
                );
                self.error(Code::ObjectiveTooTight, message)
                    .at(&spot, "too tight")
                    .help(format!("{sum}; add the service's own start, or shorten [timing]"))
            } else if rto < worst {
                let message = format!(
                    "service `{}` is not back within {rto} when the log's leader falls with it: that takes {} and its start",
                    service.name,
                    in_millis(worst)
                );
                self.warning(Code::Weak, message)
                    .at(&spot, "tight")
                    .help(format!("{sum}, and the election takes up to {}", t.election_max))
            } else {
                continue;
            };
            self.say(diagnostic);
        }
    }

    fn written(&self, key: &str) -> bool {
        self.spots.has(&format!("timing.{key}"))
    }

    fn refuse(&mut self, key: &str, message: String, help: String) {
        let diagnostic: Diagnostic =
            self.error(Code::Timing, message).at(&self.at(&format!("timing.{key}")), "out of proportion").help(help);
        self.say(diagnostic);
    }
}

/// Rounded to whole milliseconds, since nobody reads nanoseconds.
fn in_millis(duration: Duration) -> Duration {
    Duration::from_millis(duration.as_millis())
}
