//! The cluster's clocks fit each other, the links and the objectives.

use tandem_base::Duration;

use super::Checker;
use crate::diagnostic::{Diagnostic, Spot};
use crate::{Code, Place, Proportion};

/// An address in the kernel expires in whole seconds (`valid_lft`, ip-address(8)), so a lease needs at least two of them.
const LEASE_MIN: Duration = Duration::from_secs(2);
/// Freezing the processes of a service takes the kernel some time on a loaded machine.
const GRACE_MIN: Duration = Duration::from_millis(100);
/// Faster than this, a timer of a busy machine is late more often than not.
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);
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
        for (key, heartbeat) in [("heartbeat", t.heartbeat), ("raft_heartbeat", t.raft_heartbeat)] {
            if heartbeat < HEARTBEAT_MIN {
                self.refuse(
                    key,
                    format!("the {key} is {heartbeat}, less than {HEARTBEAT_MIN}"),
                    format!("more often only burns power; write at least \"{HEARTBEAT_MIN}\""),
                );
            }
        }
        if t.election_max * 2 < t.election_min * 3 {
            self.refuse(
                "election_max",
                format!(
                    "election_max ({}) is not half as long again as election_min ({})",
                    t.election_max, t.election_min
                ),
                format!("voters that stand at the same moment split the votes; write \"{}\"", t.election_min * 2),
            );
        }
        let (round, between) = &round_trip;
        let least = t.raft_heartbeat * 2 + *round;
        if t.election_min < least {
            self.refuse_for_line(
                "election_min",
                between,
                format!(
                    "election_min is {}, less than two heartbeats of the leader and a round trip: 2 x {} + {round} = {least}",
                    t.election_min, t.raft_heartbeat
                ),
                format!("one lost message would start an election; write at least \"{least}\""),
            );
        }
        let least = *round * 2;
        if t.peer_timeout < least {
            self.refuse_for_line(
                "peer_timeout",
                between,
                format!("peer_timeout is {}, less than two round trips: {least}", t.peer_timeout),
                format!("a healthy secondary would be taken out of the in-sync set; write at least \"{least}\""),
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
            "the lease is too short for its worst case: {worst} must fit into {}, which is what a lease of {} is sure for on \
             a clock that is {} fast",
            in_millis(shown),
            t.lease,
            t.clock_drift
        );
        let help = format!(
            "write lease = \"{needed}\" or more, or a shorter heartbeat or election_max\nworst case: 2 x heartbeat {} + \
             election_max {} + {rounds} x round trip {round}{line} = {worst}\notherwise the loss of the log's leader \
             alone would stop every service",
            t.heartbeat, t.election_max
        );
        let key = ["lease", "election_max", "heartbeat"].into_iter().find(|key| self.written(key)).unwrap_or("lease");
        let slowest = self.slowest(between);
        let mut diagnostic = self.error(Code::LeaseTooShort, message);
        if self.written(key) || slowest.is_none() {
            diagnostic = diagnostic.at(&self.at(&format!("timing.{key}")), "too tight");
        }
        if let Some(spot) = slowest {
            diagnostic = diagnostic.at(&spot, "the slowest line");
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

    /// Where the latency between two places was written.
    fn slowest(&self, between: &Option<(Place, Place)>) -> Option<Spot> {
        let (a, b) = between.as_ref()?;
        let ends = [[a.clone(), b.clone()], [b.clone(), a.clone()]];
        let path = match self.plan.links.values().find(|link| ends.contains(&link.between)) {
            Some(link) => format!("link.{}.latency", link.name),
            None => "outside.latency".to_owned(),
        };
        self.spots.has(&path).then(|| self.at(&path))
    }

    /// Refuses a timing that a line is too slow for: points at the timing if it was written, else at the line.
    fn refuse_for_line(&mut self, key: &str, between: &Option<(Place, Place)>, message: String, help: String) {
        let slowest = if self.written(key) { None } else { self.slowest(between) };
        match slowest {
            None => self.refuse(key, message, help),
            Some(spot) => {
                let diagnostic = self.error(Code::Timing, message).at(&spot, "the slowest line");
                self.say(diagnostic.help(format!("{help}: [timing] {key} = ...")));
            }
        }
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
