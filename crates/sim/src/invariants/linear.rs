//! Whether the operations on one sector can be put into one order that respects real time.
//!
//! Two ways that agree: by zones where it is known which write each read saw (Gibbons and Korach, "Testing Shared
//! Memories", 1997: fast), and by just-in-time linearization (Lowe, "Testing for linearizability", 2017: its cost grows
//! with the writes that are pending together). Writes have values of their own, except zeroes. Where a read may have seen
//! one of several, zones judge two guesses first: an order that explains a guess explains what was seen. Only what neither
//! explains is searched.

use std::collections::{BTreeMap, HashSet};

/// What a sector holds, as one number: which write put it there; 0 for zeroes.
pub(crate) type Value = u64;

/// One operation on one sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    /// Whether it wrote `value`, or else read it.
    pub write: bool,
    pub value: Value,
    /// When it was asked, in ticks that never repeat.
    pub asked: u64,
    /// When it was answered; a write without an answer may have happened or not.
    pub answered: Option<u64>,
}

/// Why accesses were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No order explains this access, by its index.
    At(usize),
    /// More orders may have been than can be looked at.
    TooMany,
}

/// Whether `accesses`, in any order, are linearizable from `initial`. Reads without an answer are ignored.
pub(crate) fn check(initial: Value, accesses: &[Access]) -> Result<(), Fault> {
    // Every write by its value, then by when it was asked; number 0 is what was there before, the others count from 1.
    let mut writes: Vec<(Value, u64, usize)> = Vec::with_capacity(accesses.len() + 1);
    writes.push((initial, 0, 0));
    writes.extend(numbered(accesses, true).map(|(number, access)| (access.value, access.asked, number)));
    writes.sort_unstable();
    // Which write each read saw: at first the youngest that it can have seen.
    let mut seen = vec![0; accesses.len() + 1];
    let mut certain = true;
    for (number, read) in numbered(accesses, false) {
        let Some(answered) = read.answered else { continue };
        let (from, to) = candidates(&writes, read.value, answered);
        if from == to {
            return Err(Fault::At(number - 1));
        }
        seen[number] = writes[to - 1].2;
        certain &= to - from == 1;
    }
    match by_zones(accesses, &seen) {
        Err(index) if certain => return Err(Fault::At(index)),
        Err(_) => {}
        Ok(()) => return Ok(()),
    }
    // Then the youngest that was asked before the read was.
    for (number, read) in numbered(accesses, false).filter(|(_, read)| read.answered.is_some()) {
        let (from, to) = candidates(&writes, read.value, read.asked);
        if from < to {
            seen[number] = writes[to - 1].2;
        }
    }
    if by_zones(accesses, &seen).is_ok() { Ok(()) } else { in_time(initial, accesses) }
}

/// Writes or reads, counted from 1.
fn numbered(accesses: &[Access], write: bool) -> impl Iterator<Item = (usize, &Access)> {
    (1..).zip(accesses).filter(move |(_, access)| access.write == write)
}

/// The writes of `value` that were asked before `before`.
fn candidates(writes: &[(Value, u64, usize)], value: Value, before: u64) -> (usize, usize) {
    let from = writes.partition_point(|(other, ..)| *other < value);
    (from, from + writes[from..].partition_point(|(other, asked, _)| *other == value && *asked < before))
}

/// Every write and the reads that saw it must lie together in the order. They reach at least from the first answer among
/// them to the last question (a forward zone), or fit anywhere between the last question and the first answer (a backward
/// zone). An order exists when forward zones do not overlap and no backward zone lies within a forward one.
fn by_zones(accesses: &[Access], seen: &[usize]) -> Result<(), usize> {
    #[derive(Clone, Copy)]
    struct Zone {
        first_answer: u64,
        last_question: u64,
        needed: bool,
        index: usize,
    }
    let before = Zone { first_answer: 0, last_question: 0, needed: true, index: 0 };
    let mut zones = vec![before; accesses.len() + 1];
    for (number, access) in (1..).zip(accesses) {
        zones[number] = Zone {
            first_answer: access.answered.unwrap_or(u64::MAX),
            last_question: access.asked,
            // A write without an answer that nobody saw need not have happened.
            needed: access.write && access.answered.is_some(),
            index: number - 1,
        };
    }
    for (number, read) in numbered(accesses, false) {
        let Some(answered) = read.answered else { continue };
        let zone = &mut zones[seen[number]];
        zone.first_answer = zone.first_answer.min(answered);
        zone.last_question = zone.last_question.max(read.asked);
        zone.needed = true;
        zone.index = number - 1;
    }
    let needed = || zones.iter().filter(|zone| zone.needed);
    let mut forward: Vec<&Zone> = needed().filter(|zone| zone.first_answer < zone.last_question).collect();
    forward.sort_unstable_by_key(|zone| zone.first_answer);
    if let Some(pair) = forward.windows(2).find(|pair| pair[1].first_answer < pair[0].last_question) {
        return Err(pair[1].index);
    }
    for zone in needed().filter(|zone| zone.first_answer >= zone.last_question) {
        let at = forward.partition_point(|other| other.first_answer < zone.last_question);
        if at > 0 && zone.first_answer < forward[at - 1].last_question {
            return Err(zone.index);
        }
    }
    Ok(())
}

/// One order that may have been: what the sector holds, and which of the pending operations are in the order already.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Order {
    value: Value,
    done: u128,
}

/// Most orders that are looked at for one answer.
const ORDERS_MAX: usize = 200_000;

/// Writes of one value without an answer that are told apart.
const UNANSWERED_MAX: usize = 3;

fn in_time(initial: Value, accesses: &[Access]) -> Result<(), Fault> {
    // A write without an answer that nobody saw need not have happened.
    let seen =
        |value| accesses.iter().any(|access| !access.write && access.answered.is_some() && access.value == value);
    let mut unanswered: BTreeMap<Value, Vec<usize>> = BTreeMap::new();
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(accesses.len() * 2);
    for (index, access) in accesses.iter().enumerate() {
        match access.answered {
            Some(answered) => {
                events.push((access.asked, false, index));
                events.push((answered, true, index));
            }
            // Many such writes of one value (zeroes, asked again and again) stand for "at any time": the first of them may
            // then happen more than once, which keeps the number of orders small and forgives next to nothing.
            None if access.write && seen(access.value) => {
                let open: &mut Vec<usize> = unanswered.entry(access.value).or_default();
                if open.len() < UNANSWERED_MAX {
                    open.push(index);
                    events.push((access.asked, false, index));
                }
            }
            None => {}
        }
    }
    events.sort_unstable();
    let mut slots: [Option<usize>; 128] = [None; 128];
    let mut slot_of = vec![usize::MAX; accesses.len()];
    let again: Vec<usize> =
        unanswered.into_values().filter(|open| open.len() == UNANSWERED_MAX).map(|open| open[0]).collect();
    let mut orders = vec![Order { value: initial, done: 0 }];
    for (_, answer, index) in events {
        let access = accesses[index];
        if !answer {
            let slot = slots.iter().position(Option::is_none).ok_or(Fault::TooMany)?;
            slots[slot] = Some(index);
            slot_of[index] = slot;
            if !access.write {
                for order in orders.iter_mut().filter(|order| order.value == access.value) {
                    order.done |= 1 << slot;
                }
            }
            continue;
        }
        let bit = 1u128 << slot_of[index];
        orders = extend(orders, bit, &slots, accesses, &again)?;
        if orders.is_empty() {
            return Err(Fault::At(index));
        }
        slots[slot_of[index]] = None;
        for order in &mut orders {
            order.done &= !bit;
        }
    }
    Ok(())
}

/// Every order in which the operation of `bit` has happened, reached by letting pending writes happen.
fn extend(
    orders: Vec<Order>,
    bit: u128,
    slots: &[Option<usize>; 128],
    accesses: &[Access],
    again: &[usize],
) -> Result<Vec<Order>, Fault> {
    let mut found = HashSet::new();
    let mut visited: HashSet<Order> = HashSet::new();
    let mut waiting = orders;
    while let Some(order) = waiting.pop() {
        if order.done & bit != 0 {
            found.insert(order);
            continue;
        }
        if !visited.insert(order) {
            continue;
        }
        if visited.len() > ORDERS_MAX {
            return Err(Fault::TooMany);
        }
        for (slot, index) in slots.iter().enumerate() {
            let Some(index) = *index else { continue };
            let access = accesses[index];
            if !access.write || order.done & (1 << slot) != 0 {
                continue;
            }
            let once = if again.contains(&index) { 0 } else { 1 << slot };
            let mut next = Order { value: access.value, done: order.done | once };
            for (slot, index) in slots.iter().enumerate() {
                if index.is_some_and(|index| !accesses[index].write && accesses[index].value == access.value) {
                    next.done |= 1 << slot;
                }
            }
            waiting.push(next);
        }
    }
    Ok(found.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: Value, asked: u64, answered: u64) -> Access {
        Access { write: true, value, asked, answered: (answered > 0).then_some(answered) }
    }
    fn read(value: Value, asked: u64, answered: u64) -> Access {
        Access { write: false, ..write(value, asked, answered) }
    }

    #[test]
    fn orders_that_can_be_are_found() {
        assert_eq!(check(0, &[read(0, 1, 2), write(1, 3, 4), read(1, 5, 6)]), Ok(()));
        // Concurrent writes in either order.
        assert_eq!(check(0, &[write(1, 1, 10), write(2, 2, 9), read(1, 11, 12)]), Ok(()));
        assert_eq!(check(0, &[write(1, 1, 10), write(2, 2, 9), read(2, 11, 12)]), Ok(()));
        // A write without an answer, seen late.
        assert_eq!(check(0, &[write(1, 1, 0), read(0, 2, 3), read(1, 4, 5), read(1, 6, 7)]), Ok(()));
        // Zero twice.
        assert_eq!(check(0, &[write(1, 1, 2), write(0, 3, 4), read(0, 5, 6), write(2, 7, 8), read(2, 9, 10)]), Ok(()));
    }

    #[test]
    fn orders_that_cannot_be_are_refused() {
        // A stale read, a lost write, a read of something older than what was read before, a value from nowhere.
        assert!(check(0, &[write(1, 1, 2), read(0, 3, 4)]).is_err());
        assert!(check(0, &[write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)]).is_err());
        assert!(check(0, &[write(1, 1, 0), read(1, 2, 3), read(0, 4, 5)]).is_err());
        assert!(check(0, &[read(7, 1, 2)]).is_err());
        // Two concurrent writes cannot be seen in both orders.
        let both = [write(1, 1, 10), write(2, 2, 9), read(1, 11, 12), read(2, 13, 14)];
        assert!(check(0, &both).is_err());
    }

    #[test]
    fn both_ways_agree() {
        let (mut possible, mut impossible) = (0, 0);
        for seed in 0..20_000 {
            let mut rng = tandem_base::Rng::new(seed);
            let count = rng.between(2, 7);
            let mut ticks: Vec<u64> = (1..=2 * count).collect();
            for at in (1..ticks.len()).rev() {
                ticks.swap(at, rng.below(at as u64 + 1) as usize);
            }
            let accesses: Vec<Access> = (0..count as usize)
                .map(|index| {
                    let (a, b) = (ticks[2 * index], ticks[2 * index + 1]);
                    let write = rng.chance(1, 2);
                    // In every other history some writes are zeroes, as what was there before.
                    let zero = seed % 2 == 0 && rng.chance(1, 3);
                    let value = if !write { rng.below(count + 1) } else { (index as u64 + 1) * u64::from(!zero) };
                    let answered = (!write || rng.chance(4, 5)).then_some(a.max(b));
                    Access { write, value, asked: a.min(b), answered }
                })
                .collect();
            let (both, in_time) = (check(0, &accesses), in_time(0, &accesses));
            assert_eq!(both.is_ok(), in_time.is_ok(), "{accesses:?}");
            if both.is_ok() { possible += 1 } else { impossible += 1 }
        }
        assert!(possible > 500 && impossible > 500, "{possible} {impossible}");
    }
}
