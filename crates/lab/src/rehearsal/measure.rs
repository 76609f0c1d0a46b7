//! From acknowledgements to figures. Pure.

use std::collections::BTreeSet;

/// One acknowledged write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    /// When the client had it, in nanoseconds of `CLOCK_BOOTTIME`.
    pub(crate) at_ns: u64,
    /// Its number.
    pub(crate) number: u64,
}

/// What a client's run shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) acknowledged: u64,
    pub(crate) lost: u64,
    /// Age of the oldest lost write at the last acknowledgement before the fault; 0 when nothing is lost, at least 1
    /// otherwise.
    pub(crate) rpo_ms: u64,
    /// The longest time without an acknowledgement, from the last one before the fault on; rounded up.
    pub(crate) rto_ms: u64,
}

/// Measures `acks` (in the order in which they came) of a client that ran until `end_ns`, with the first fault at
/// `fault_ns` and the numbers in `missing` not found afterwards.
pub(crate) fn measure(acks: &[Ack], fault_ns: u64, end_ns: u64, missing: &[u64]) -> Figures {
    let missing: BTreeSet<u64> = missing.iter().copied().collect();
    let before = acks.iter().rev().find(|ack| ack.at_ns <= fault_ns).map_or(fault_ns, |ack| ack.at_ns);
    let oldest = acks.iter().find(|ack| missing.contains(&ack.number));
    let mut last = before;
    let mut longest = 0;
    for at in acks.iter().map(|ack| ack.at_ns).filter(|at| *at > before).chain([end_ns.max(before)]) {
        // A write that was under way when the client was told to stop is acknowledged after `end_ns`.
        longest = longest.max(at.saturating_sub(last));
        last = last.max(at);
    }
    Figures {
        acknowledged: acks.len() as u64,
        lost: acks.iter().filter(|ack| missing.contains(&ack.number)).count() as u64,
        rpo_ms: oldest.map_or(0, |ack| (before.saturating_sub(ack.at_ns) / 1_000_000).max(1)),
        rto_ms: longest.div_ceil(1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn acks(at_ms: &[u64]) -> Vec<Ack> {
        at_ms.iter().zip(1..).map(|(ms, number)| Ack { at_ns: ms * MS, number }).collect()
    }

    #[test]
    fn the_gap_around_the_fault_counts() {
        let acks = acks(&[10, 20, 30, 4_030, 4_040]);
        let figures = measure(&acks, 35 * MS, 4_050 * MS, &[]);
        assert_eq!(figures, Figures { acknowledged: 5, lost: 0, rpo_ms: 0, rto_ms: 4_000 });
    }

    #[test]
    fn a_gap_long_before_the_fault_does_not_count() {
        let acks = acks(&[10, 9_000, 9_010, 9_500]);
        assert_eq!(measure(&acks, 9_020 * MS, 9_510 * MS, &[]).rto_ms, 490);
    }

    #[test]
    fn silence_until_the_end_is_a_gap() {
        assert_eq!(measure(&acks(&[10, 20]), 25 * MS, 30_000 * MS, &[]).rto_ms, 29_980);
        assert_eq!(measure(&[], 25 * MS, 30_000 * MS, &[]).rto_ms, 29_975);
    }

    #[test]
    fn a_write_acknowledged_while_the_client_stops_is_no_gap() {
        assert_eq!(measure(&acks(&[10, 20, 110]), 25 * MS, 100 * MS, &[]).rto_ms, 90);
    }

    #[test]
    fn the_oldest_lost_write_gives_the_loss_its_age() {
        let acks = acks(&[1_000, 2_000, 3_000, 8_000]);
        let figures = measure(&acks, 3_100 * MS, 8_100 * MS, &[2, 3]);
        assert_eq!((figures.lost, figures.rpo_ms), (2, 1_000));
        // Acknowledged at the last moment and lost is a loss, however young.
        assert_eq!(measure(&acks, 3_100 * MS, 8_100 * MS, &[3]).rpo_ms, 1);
        // A number that nobody acknowledged is no loss.
        assert_eq!(measure(&acks, 3_100 * MS, 8_100 * MS, &[77]).lost, 0);
    }
}
