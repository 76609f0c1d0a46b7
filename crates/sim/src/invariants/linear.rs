//! Whether the operations on one sector can be put into one order that respects real time: just-in-time linearization
//! (Lowe, "Testing for linearizability", 2017) of a register whose reads are known.

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

/// One order that may have been: what the sector holds, and which of the pending operations are in the order already.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Order {
    value: Value,
    done: u128,
}

/// Whether `accesses`, in any order, are linearizable from `initial`. Reads without an answer are ignored.
///
/// At the fault: the index of the first access that no order explains.
pub(crate) fn check(initial: Value, accesses: &[Access]) -> Result<(), usize> {
    // A write without an answer that nobody saw need not have happened.
    let seen =
        |value| accesses.iter().any(|access| !access.write && access.answered.is_some() && access.value == value);
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(accesses.len() * 2);
    for (index, access) in accesses.iter().enumerate() {
        match access.answered {
            Some(answered) => {
                events.push((access.asked, false, index));
                events.push((answered, true, index));
            }
            None if access.write && seen(access.value) => events.push((access.asked, false, index)),
            None => {}
        }
    }
    events.sort_unstable();
    let mut slots: [Option<usize>; 128] = [None; 128];
    let mut slot_of = vec![usize::MAX; accesses.len()];
    let mut orders = vec![Order { value: initial, done: 0 }];
    for (_, answer, index) in events {
        let access = accesses[index];
        if !answer {
            let slot = slots.iter().position(Option::is_none).expect("the workload keeps far fewer requests pending");
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
        orders = extend(orders, bit, &slots, accesses);
        if orders.is_empty() {
            return Err(index);
        }
        slots[slot_of[index]] = None;
        for order in &mut orders {
            order.done &= !bit;
        }
    }
    Ok(())
}

/// Every order in which the operation of `bit` has happened, reached by letting pending writes happen.
fn extend(orders: Vec<Order>, bit: u128, slots: &[Option<usize>; 128], accesses: &[Access]) -> Vec<Order> {
    let mut found = Vec::new();
    let mut visited: Vec<Order> = Vec::new();
    let mut waiting = orders;
    while let Some(order) = waiting.pop() {
        if order.done & bit != 0 {
            if !found.contains(&order) {
                found.push(order);
            }
            continue;
        }
        if visited.contains(&order) {
            continue;
        }
        visited.push(order);
        for (slot, index) in slots.iter().enumerate() {
            let Some(index) = *index else { continue };
            let access = accesses[index];
            if !access.write || order.done & (1 << slot) != 0 {
                continue;
            }
            let mut next = Order { value: access.value, done: order.done | 1 << slot };
            for (slot, index) in slots.iter().enumerate() {
                if index.is_some_and(|index| !accesses[index].write && accesses[index].value == access.value) {
                    next.done |= 1 << slot;
                }
            }
            waiting.push(next);
        }
    }
    found
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
        assert_eq!(check(0, &[write(1, 1, 2), read(0, 3, 4)]), Err(1));
        assert_eq!(check(0, &[write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)]), Err(2));
        assert_eq!(check(0, &[write(1, 1, 0), read(1, 2, 3), read(0, 4, 5)]), Err(2));
        assert_eq!(check(0, &[read(7, 1, 2)]), Err(0));
        // Two concurrent writes cannot be seen in both orders.
        let both = [write(1, 1, 10), write(2, 2, 9), read(1, 11, 12), read(2, 13, 14)];
        assert_eq!(check(0, &both), Err(3));
    }
}
