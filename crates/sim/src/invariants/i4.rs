//! I4: after faults and writes cease, replicas become identical byte for byte and the in-sync set is whole again, in
//! bounded time.
//!
//! Reason: a replica that stays behind, or differs where nobody reads, is the loss at the next failover.

use crate::{
    disk::SECTOR,
    invariants::Violation,
    ledger::value_of,
    queue::{MS, Time},
};

/// How long the world may take after the last fault: a session's expiry and an election, every process started again, a
/// resync of the small volume, and that again for what a first attempt tripped over.
pub(crate) const BOUND: Time = 40_000 * MS;

/// Compares the images of all replicas with the first one's.
pub(crate) fn check_images<'a>(images: impl Iterator<Item = (usize, &'a [u8])>) -> Result<(), Violation> {
    let mut images = images;
    let Some((first, expected)) = images.next() else { return Ok(()) };
    for (node, image) in images {
        if image == expected {
            continue;
        }
        let sector = (0..image.len() / SECTOR)
            .find(|sector| {
                image[sector * SECTOR..(sector + 1) * SECTOR] != expected[sector * SECTOR..(sector + 1) * SECTOR]
            })
            .unwrap_or_default();
        let at = |image: &[u8]| value_of(&image[sector * SECTOR..(sector + 1) * SECTOR]);
        let (here, there) = (at(expected), at(image));
        let what = format!(
            "replicas differ though in sync: sector {sector} holds {here:?} on node {first}, {there:?} on node {node}"
        );
        return Err(Violation::new("I4", what));
    }
    Ok(())
}

/// The in-sync set was not whole in time.
pub(crate) fn late(why: &str) -> Violation {
    Violation::new("I4", format!("not whole again {} s after the last fault: {why}", BOUND / MS / 1_000))
}
