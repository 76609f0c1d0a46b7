//! One direction between two places, as a queue in front of a line.

use tandem_base::{Duration, Instant, Rng};

use crate::shaper::Quality;

/// A queue holds this long at the line's rate, or [`QUEUE_BYTES_MIN`] where that is more: about what a modem's does.
const QUEUE_TIME: Duration = Duration::from_millis(100);
/// So that a slow line still takes four of the largest frames that a kernel hands over in one piece.
const QUEUE_BYTES_MIN: u64 = 256 * 1024;

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives then.
    Arrives(Instant),
    /// The line lost it.
    Lost,
    /// The queue was full.
    Overflowed,
}

/// The model of one direction: frames wait, are sent one after another at the line's rate, and travel.
///
/// Call [`offer`](Self::offer) once per frame, with `now` never going backwards. Frames arrive in the order in which
/// they were offered.
#[derive(Debug)]
pub(crate) struct Pipe {
    quality: Quality,
    rng: Rng,
    /// When the line has sent everything accepted so far.
    idle_at: Instant,
    last_arrival: Instant,
}

impl Pipe {
    pub(crate) fn new(quality: Quality, seed: u64) -> Self {
        Self { quality, rng: Rng::new(seed), idle_at: Instant::ZERO, last_arrival: Instant::ZERO }
    }

    pub(crate) fn quality_mut(&mut self) -> &mut Quality {
        &mut self.quality
    }

    /// Offers a frame of `bytes` bytes on the wire.
    pub(crate) fn offer(&mut self, now: Instant, bytes: u64) -> Fate {
        if self.quality.loss_per_million > 0 && self.rng.chance(self.quality.loss_per_million.into(), 1_000_000) {
            return Fate::Lost;
        }
        let start = self.idle_at.max(now);
        let sent = match self.quality.bandwidth {
            None => start,
            Some(rate) => {
                let waiting = bytes_in(start.since(now), rate.bits_per_second());
                let limit = bytes_in(QUEUE_TIME, rate.bits_per_second()).max(QUEUE_BYTES_MIN);
                // An empty queue takes any frame, else one larger than the queue could never pass.
                if waiting > 0 && waiting + bytes > limit {
                    return Fate::Overflowed;
                }
                start + time_for(bytes, rate.bits_per_second())
            }
        };
        self.idle_at = sent;
        let jitter = match self.quality.jitter.as_nanos() {
            0 => Duration::ZERO,
            nanos => Duration::from_nanos(self.rng.between(0, nanos - 1)),
        };
        self.last_arrival = self.last_arrival.max(sent + self.quality.latency + jitter);
        Fate::Arrives(self.last_arrival)
    }
}

fn bytes_in(time: Duration, bits_per_second: u64) -> u64 {
    let bytes = u128::from(time.as_nanos()) * u128::from(bits_per_second) / 8 / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn time_for(bytes: u64, bits_per_second: u64) -> Duration {
    let nanos = u128::from(bytes) * 8 * 1_000_000_000 / u128::from(bits_per_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_base::BitRate;

    fn pipe(latency_ms: u64, rate: Option<u64>) -> Pipe {
        let quality = Quality {
            latency: Duration::from_millis(latency_ms),
            bandwidth: rate.map(BitRate::from_bits_per_second),
            ..Quality::LOCAL
        };
        Pipe::new(quality, 1)
    }

    fn at_us(us: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(us)
    }

    #[test]
    fn latency_delays_and_does_not_queue() {
        let mut pipe = pipe(12, None);
        assert_eq!(pipe.offer(at_us(0), 1_500), Fate::Arrives(at_us(12_000)));
        assert_eq!(pipe.offer(at_us(1), 1_500), Fate::Arrives(at_us(12_001)));
    }

    #[test]
    fn frames_wait_for_those_before_them() {
        // 1,000 bytes at 8 Mbit/s take 1 ms.
        let mut pipe = pipe(10, Some(8_000_000));
        assert_eq!(pipe.offer(at_us(0), 1_000), Fate::Arrives(at_us(11_000)));
        assert_eq!(pipe.offer(at_us(0), 1_000), Fate::Arrives(at_us(12_000)));
        // An idle line starts afresh.
        assert_eq!(pipe.offer(at_us(50_000), 1_000), Fate::Arrives(at_us(61_000)));
    }

    #[test]
    fn the_rate_is_kept_over_a_second_and_the_excess_is_dropped() {
        // Twice of what 100 Mbit/s can carry, offered over one second.
        let mut pipe = pipe(0, Some(100_000_000));
        let (mut carried, mut dropped) = (0, 0);
        for frame in 0..16_667u64 {
            match pipe.offer(at_us(frame * 60), 1_500) {
                Fate::Arrives(at) if at <= at_us(1_000_000) => carried += 1_500 * 8,
                Fate::Arrives(_) => {}
                Fate::Overflowed => dropped += 1,
                Fate::Lost => panic!("this line loses nothing"),
            }
        }
        assert!((99_000_000..=100_000_000).contains(&carried), "{carried}");
        assert!(dropped > 7_000, "{dropped}");
    }

    #[test]
    fn a_full_queue_drops_and_an_empty_one_takes_any_frame() {
        let mut pipe = pipe(0, Some(1_000_000));
        assert!(matches!(pipe.offer(at_us(0), 2 * QUEUE_BYTES_MIN), Fate::Arrives(_)));
        assert_eq!(pipe.offer(at_us(0), 60), Fate::Overflowed);
    }

    #[test]
    fn loss_is_about_what_was_asked_and_repeats_with_its_seed() {
        let lose = || {
            let mut pipe = Pipe::new(Quality { loss_per_million: 100_000, ..Quality::LOCAL }, 42);
            (0..10_000).map(|i| pipe.offer(at_us(i), 100) == Fate::Lost).collect::<Vec<_>>()
        };
        let lost = lose().into_iter().filter(|lost| *lost).count();
        assert!((800..1_200).contains(&lost), "{lost}");
        assert_eq!(lose(), lose());
    }

    #[test]
    fn jitter_never_reorders() {
        let quality = Quality { latency: Duration::from_millis(5), jitter: Duration::from_millis(5), ..Quality::LOCAL };
        let mut pipe = Pipe::new(quality, 3);
        let mut last = Instant::ZERO;
        let mut later = 0;
        for i in 0..1_000 {
            let Fate::Arrives(at) = pipe.offer(at_us(i * 10), 100) else { panic!("nothing is dropped here") };
            assert!(at >= last);
            assert!(at >= at_us(i * 10 + 5_000) && at < at_us(i * 10 + 10_000).max(last + Duration::from_nanos(1)));
            later += u32::from(at > last);
            last = at;
        }
        assert!(later > 1, "jitter must spread arrivals");
    }
}
