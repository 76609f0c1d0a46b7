//! I1: an acknowledged write is in the state of every later primary, unless overwritten.
//!
//! Reason: it is promise 1. Checked at the instant a promotion begins to serve, against the image its reads will come
//! from, so that a loss is seen even where nobody happens to read.
//!
//! Only survivable faults are injected for the strict form. Survivable is every sequence of faults in which, at each
//! instant, some member of the in-sync set of the newest committed configuration is still in the open that the
//! configuration names, with its page cache and without a failed disk. When that set has no such member left (every
//! copy of what was not flushed was destroyed: all sites lost power, or the last of them did), the promise is only for
//! writes that were flushed or forced: every one of them must be there, and nothing older in its place.

use crate::{
    invariants::{
        Violation, i3,
        linear::{self, Access, Fault, Value},
    },
    ledger::Sector,
};

/// Judges what a new primary holds in sector `number`: `found`, or a mixture of writes when `None`.
pub(crate) fn check(
    number: usize,
    sector: &Sector,
    found: Option<Value>,
    tick: u64,
    flushed: u64,
    loss: bool,
) -> Result<(), Violation> {
    let Some(found) = found else {
        return Err(Violation::new("I1", format!("sector {number} of the new primary is a mixture of writes")));
    };
    if sector.accesses.is_empty() {
        return if found == sector.settled {
            Ok(())
        } else {
            let settled = sector.settled;
            Err(Violation::new("I1", format!("sector {number} held write {settled}, now {found}; nobody wrote it")))
        };
    }
    i3::check(number, sector)?;
    if loss { check_flushed(number, sector, found, flushed) } else { check_all(number, sector, found, tick) }
}

fn check_all(number: usize, sector: &Sector, found: Value, tick: u64) -> Result<(), Violation> {
    let mut accesses = sector.accesses.clone();
    accesses.push(Access { write: false, value: found, asked: tick, answered: Some(tick) });
    linear::check(sector.settled, &accesses).map_err(|fault| {
        if fault == Fault::TooMany {
            return i3::unjudged(number, sector);
        }
        let story = i3::story(sector);
        Violation::new(
            "I1",
            format!("sector {number} of the new primary holds write {found}, which is lost or stale: {story}"),
        )
    })
}

fn check_flushed(number: usize, sector: &Sector, found: Value, flushed: u64) -> Result<(), Violation> {
    let is_flushed = |index: usize| {
        let access = &sector.accesses[index];
        access.write && access.answered.is_some_and(|answered| answered < flushed || sector.fua[index])
    };
    // The newest flushed write decides: whatever was answered before it was asked is older.
    let floor =
        (0..sector.accesses.len()).filter(|index| is_flushed(*index)).map(|index| sector.accesses[index].asked).max();
    let fits = sector.accesses.iter().any(|access| {
        access.write
            && access.value == found
            && (floor.is_none_or(|floor| access.answered.is_none_or(|end| end >= floor)))
    });
    if fits || (floor.is_none() && found == sector.settled) {
        return Ok(());
    }
    let story = i3::story(sector);
    Err(Violation::new(
        "I1",
        format!(
            "sector {number} of the new primary holds write {found} after a loss of all power, although a later one was flushed (before tick {flushed}): {story}"
        ),
    ))
}
