//! What the workload asked and was told: the only thing a user of the volume can hold against us.

use std::collections::BTreeMap;

use tandem_base::Epoch;

use crate::{
    disk::SECTOR,
    invariants::{
        Violation, i1, i2,
        linear::{Access, Value},
    },
};

/// The bytes of a sector that holds `value`.
pub(crate) fn fill(value: Value, sectors: usize) -> Vec<u8> {
    value.to_le_bytes().repeat(sectors * SECTOR / 8)
}

/// What a sector holds, or `None` when it holds a mixture.
pub(crate) fn value_of(sector: &[u8]) -> Option<Value> {
    let (words, _) = sector.as_chunks::<8>();
    let first = words[0];
    words.iter().all(|word| *word == first).then(|| Value::from_le_bytes(first))
}

/// What was asked of a range of sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Read,
    Write { value: Value, fua: bool },
    Flush,
}

/// A request on its way.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub what: What,
    pub promotion: Epoch,
    pub first: usize,
    pub count: usize,
    pub tick: u64,
}

/// One sector since its content was last certain.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sector {
    /// What it held when the present promotion began to serve.
    pub settled: Value,
    pub accesses: Vec<Access>,
    /// For each access, whether it was a write that forced unit access.
    pub fua: Vec<bool>,
}

/// All requests of the present promotion, by sector, and those without an answer.
pub(crate) struct Ledger {
    pub tick: u64,
    pub sectors: Vec<Sector>,
    pub open: BTreeMap<u64, Asked>,
    /// Every write that was answered before this tick was flushed: the question time of the latest answered flush.
    pub flushed: u64,
    pub acknowledgements: i2::Acknowledgements,
    pub writes_acknowledged: u64,
    pub answers: u64,
    /// Requests of promotions that were followed by another one.
    over: std::collections::BTreeSet<u64>,
    /// Requests of the present promotion without an answer, abandoned ones too.
    asked_now: Vec<u64>,
}

impl Ledger {
    pub(crate) fn new(sectors: usize) -> Self {
        Self {
            tick: 0,
            sectors: vec![Sector::default(); sectors],
            open: BTreeMap::new(),
            flushed: 0,
            acknowledgements: i2::Acknowledgements::default(),
            writes_acknowledged: 0,
            answers: 0,
            over: std::collections::BTreeSet::new(),
            asked_now: Vec::new(),
        }
    }

    /// Whether a later promotion has served since this was asked.
    pub(crate) fn is_over(&self, request: u64) -> bool {
        self.over.contains(&request)
    }

    /// `node` begins to serve `promotion`.
    pub(crate) fn served(&mut self, node: usize, promotion: Epoch) -> Result<(), Violation> {
        self.acknowledgements.check(node, promotion, 0)
    }

    fn next_tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    pub(crate) fn asked(&mut self, request: u64, promotion: Epoch, what: What, first: usize, count: usize) {
        let tick = self.next_tick();
        if let What::Write { value, fua } = what {
            for sector in &mut self.sectors[first..first + count] {
                sector.accesses.push(Access { write: true, value, asked: tick, answered: None });
                sector.fua.push(fua);
            }
        }
        self.asked_now.push(request);
        self.open.insert(request, Asked { what, promotion, first, count, tick });
    }

    /// The request succeeded; `data` for a read.
    pub(crate) fn answered(&mut self, request: u64, node: usize, data: Option<&[u8]>) -> Result<(), Violation> {
        let Some(asked) = self.open.remove(&request) else {
            return Err(i2::after_the_end(node, request));
        };
        self.asked_now.retain(|asked| *asked != request);
        self.acknowledgements.check(node, asked.promotion, request)?;
        self.answers += 1;
        let answered = Some(self.next_tick());
        match asked.what {
            What::Flush => self.flushed = self.flushed.max(asked.tick),
            What::Write { value, .. } => {
                self.writes_acknowledged += 1;
                for sector in &mut self.sectors[asked.first..asked.first + asked.count] {
                    let access =
                        sector.accesses.iter_mut().rev().find(|access| access.asked == asked.tick && access.write);
                    let access = access.expect("the write was noted when it was asked");
                    debug_assert_eq!(access.value, value);
                    access.answered = answered;
                }
            }
            What::Read => {
                let data = data.unwrap_or_default();
                if data.len() != asked.count * SECTOR {
                    return Err(Violation::new(
                        "I3",
                        format!("a read of {} sectors returned {} bytes", asked.count, data.len()),
                    ));
                }
                for (index, bytes) in data.chunks_exact(SECTOR).enumerate() {
                    let number = asked.first + index;
                    let value = value_of(bytes).ok_or_else(|| {
                        Violation::new("I3", format!("a read of sector {number} returned a mixture of writes"))
                    })?;
                    let sector = &mut self.sectors[number];
                    sector.accesses.push(Access { write: false, value, asked: asked.tick, answered });
                    sector.fua.push(false);
                }
            }
        }
        Ok(())
    }

    /// The request was refused, or its attachment is gone: it will not be answered, and may have happened.
    pub(crate) fn abandoned(&mut self, request: u64) {
        self.open.remove(&request);
    }

    /// A promotion begins to serve, over `image`: whatever is in it now is what every later read must agree with.
    /// `loss`: every copy of what was not flushed was destroyed. `under_way`: writes of the promotion before that its
    /// disk has not finished; reads wait for them, so that each either shows from the first read on, or never.
    pub(crate) fn settle(
        &mut self,
        image: &[u8],
        loss: bool,
        under_way: &[(usize, usize, Value)],
    ) -> Result<(), Violation> {
        let tick = self.next_tick();
        let flushed = self.flushed;
        for (number, sector) in self.sectors.iter_mut().enumerate() {
            let bytes = &image[number * SECTOR..(number + 1) * SECTOR];
            let found = value_of(bytes);
            i1::check(number, sector, found, tick, flushed, loss)?;
            sector.settled = found.expect("checked just now");
            sector.accesses.clear();
            sector.fua.clear();
        }
        for (first, count, value) in under_way {
            for sector in &mut self.sectors[*first..first + count] {
                sector.accesses.push(Access { write: true, value: *value, asked: tick, answered: None });
                sector.fua.push(false);
            }
        }
        self.over.extend(self.asked_now.drain(..));
        self.open.clear();
        Ok(())
    }
}
