//! I3: a read returns the latest acknowledged value, or a concurrent one: every sector is linearizable.
//!
//! Reason: a file system on the volume assumes a disk. The instant of an answer is that of the lease check: bytes that
//! a stopped process delivers later are as old as they are.

use crate::{
    invariants::{
        Violation,
        linear::{self, Fault},
    },
    ledger::Sector,
};

/// Judges what was answered on sector `number` during one promotion.
pub(crate) fn check(number: usize, sector: &Sector) -> Result<(), Violation> {
    linear::check(sector.settled, &sector.accesses).map_err(|fault| {
        let what = match fault {
            Fault::At(index) => format!("no order of requests explains {:?}", sector.accesses[index]),
            Fault::TooMany => return unjudged(number, sector),
        };
        Violation::new("I3", format!("sector {number}: {what}: {}", story(sector)))
    })
}

/// So many requests were pending together that their orders cannot be searched: the workload must not ask so.
pub(crate) fn unjudged(number: usize, sector: &Sector) -> Violation {
    Violation::new(
        "world",
        format!("sector {number} cannot be judged, too many orders may have been: {}", story(sector)),
    )
}

/// The accesses of one sector in words.
pub(crate) fn story(sector: &Sector) -> String {
    let mut story = format!("held {}", sector.settled);
    for (access, fua) in sector.accesses.iter().zip(&sector.fua) {
        let verb = if access.write { if *fua { "forced" } else { "write" } } else { "read" };
        let end = access.answered.map_or_else(|| "?".to_owned(), |end| end.to_string());
        story.push_str(&format!("; {verb} {} [{}..{end}]", access.value, access.asked));
    }
    story
}
