//! `cargo xtask sim`.

use std::{
    process::ExitCode,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{Failure, Mutation, Options, Summary, run, told};

const USAGE: &str =
    "usage: cargo xtask sim [--seeds N] [--from S] [--mutation NAME|all|every] [--replicas 2|3] [--threads N] [--failures N] [--trace]

  --seeds N        how many histories (default 1000)
  --from S         the first seed (default 0)
  --mutation NAME  break one rule of the cores and look for the seed that notices; `all`: each in turn that must be
                   noticed; `every`: also those that other rules cover; `list`: names
  --replicas N     2 or 3; without it the seed decides
  --threads N      default: one for each processor
  --failures N     stop after so many failed histories (default 1)
  --trace          print every event of a failed history, or of a single one";

/// Seeds in which a mutation must be noticed.
pub(crate) const MUTATION_SEEDS: u64 = 2_000;

struct Arguments {
    seeds: Option<u64>,
    from: u64,
    mutation: Option<String>,
    replicas: Option<usize>,
    threads: usize,
    failures: usize,
    trace: bool,
}

fn parse(arguments: &[String]) -> Result<Arguments, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut parsed =
        Arguments { seeds: None, from: 0, mutation: None, replicas: None, threads, failures: 1, trace: false };
    let mut rest = arguments.iter().cloned();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} wants a value\n\n{USAGE}"));
        let number = |text: String| {
            text.replace('_', "").parse::<u64>().map_err(|error| format!("`{text}` is no number: {error}\n\n{USAGE}"))
        };
        match argument.as_str() {
            "--seeds" => parsed.seeds = Some(number(value()?)?),
            "--from" => parsed.from = number(value()?)?,
            "--mutation" => parsed.mutation = Some(value()?),
            "--threads" => parsed.threads = (number(value()?)? as usize).max(1),
            "--failures" => parsed.failures = (number(value()?)? as usize).max(1),
            "--replicas" => match number(value()?)? {
                replicas @ 2..=3 => parsed.replicas = Some(replicas as usize),
                other => return Err(format!("--replicas is 2 or 3, not {other}\n\n{USAGE}")),
            },
            "--trace" => parsed.trace = true,
            "--help" | "-h" => return Err(USAGE.to_owned()),
            other => return Err(format!("`{other}` is not known here\n\n{USAGE}")),
        }
    }
    Ok(parsed)
}

/// Plays histories as the arguments say, prints what was found, and returns the exit code: 0 when everything held, 1
/// when something did not, 2 for arguments that make no sense.
pub fn cli(arguments: &[String]) -> ExitCode {
    ExitCode::from(judge(arguments))
}

fn judge(arguments: &[String]) -> u8 {
    let arguments = match parse(arguments) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}");
            return 2;
        }
    };
    let options = Options { replicas: arguments.replicas, ..Options::default() };
    match arguments.mutation.as_deref() {
        None => plain(&arguments, &options),
        Some("list") => {
            Mutation::all().iter().for_each(|mutation| println!("{}", mutation.name));
            0
        }
        Some("every") => mutations(&arguments, &options, &Mutation::all()),
        Some("all") => {
            let must: Vec<_> = Mutation::all().into_iter().filter(Mutation::must_be_noticed).collect();
            mutations(&arguments, &options, &must)
        }
        Some(name) => match Mutation::named(name) {
            Some(mutation) if arguments.trace => plain(&arguments, &Options { mutation: Some(mutation), ..options }),
            Some(mutation) => mutations(&arguments, &options, &[mutation]),
            None => {
                eprintln!("there is no mutation `{name}`; `--mutation list` shows them");
                2
            }
        },
    }
}

/// Every seed must hold.
fn plain(arguments: &Arguments, options: &Options) -> u8 {
    let seeds = arguments.seeds.unwrap_or(1_000);
    let begun = Instant::now();
    let (failures, total) = play(arguments.from, seeds, arguments.threads, options, arguments.failures);
    if arguments.trace {
        let alone = (seeds == 1).then_some(arguments.from);
        for seed in failures.iter().map(|failure| failure.seed).chain(alone.filter(|_| failures.is_empty())) {
            let mut history = Vec::new();
            let again = told(seed, &Options { trace: true, ..options.clone() }, &mut history);
            history.iter().for_each(|line| println!("{line}"));
            if let Err(failure) = again {
                println!("{failure}");
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "sim: {} histories, {} violations, in {seconds:.1} s; {} events, {} writes acknowledged, {} promotions, {} faults, {} total losses, {} stopped, {} h of simulated time",
        total.0,
        failures.len(),
        total.1.events,
        total.1.writes,
        total.1.promotions,
        total.1.faults,
        total.1.losses,
        total.1.stopped,
        total.1.elapsed_ms / 3_600_000,
    );
    u8::from(!failures.is_empty())
}

/// Each mutation must be noticed by some seed.
fn mutations(arguments: &Arguments, options: &Options, which: &[Mutation]) -> u8 {
    let seeds = arguments.seeds.unwrap_or(MUTATION_SEEDS);
    let mut missed = 0;
    for mutation in which {
        let options = Options { mutation: Some(*mutation), ..options.clone() };
        let (failures, (played, _)) = play(arguments.from, seeds, arguments.threads, &options, 1);
        match failures.first() {
            Some(failure) => {
                let seed = failure.seed;
                println!(
                    "{:<40} caught after {played} seeds, by seed {seed}: {}",
                    mutation.name, failure.violation.invariant
                );
            }
            None => {
                missed += 1;
                println!("{:<40} NOT caught in {played} seeds", mutation.name);
            }
        }
    }
    if which.len() > 1 {
        // As a test binary ends, so that whoever counts tests can count these.
        let result = if missed == 0 { "ok" } else { "FAILED" };
        println!("test result: {result}. {} passed; {missed} failed", which.len() - missed);
    }
    u8::from(missed > 0)
}

/// Longest time that one history may take; the usual one takes some hundredths of a second. Its events are counted, but a
/// core that never returns from one of them can only be seen from outside.
const HISTORY_MAX: Duration = Duration::from_secs(300);

/// Ends the whole process when a history does not end.
fn watch(playing: &[Mutex<Option<(u64, Instant)>>], done: &(Mutex<usize>, Condvar), options: &Options) {
    let mut ended = done.0.lock().unwrap_or_else(PoisonError::into_inner);
    while *ended < playing.len() {
        ended = done.1.wait_timeout(ended, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner).0;
        for slot in playing {
            let Some((seed, since)) = *slot.lock().unwrap_or_else(PoisonError::into_inner) else { continue };
            if since.elapsed() > HISTORY_MAX {
                let with = options.mutation.map(|mutation| format!(" --mutation {}", mutation.name));
                eprintln!("seed {seed}: this history never ended: one event takes longer than {HISTORY_MAX:?}");
                eprintln!("replay: cargo xtask sim --from {seed} --seeds 1{}", with.unwrap_or_default());
                std::process::exit(1);
            }
        }
    }
}

/// Plays `seeds` histories from `from` on, until `enough` failed: the failures by seed, and what was played.
pub(crate) fn play(
    from: u64,
    seeds: u64,
    threads: usize,
    options: &Options,
    enough: usize,
) -> (Vec<Failure>, (u64, Summary)) {
    let next = AtomicU64::new(from);
    let failures: Mutex<Vec<Failure>> = Mutex::new(Vec::new());
    let total: Mutex<(u64, Summary)> = Mutex::new((0, Summary::default()));
    // What each thread plays, and since when.
    let playing: Vec<Mutex<Option<(u64, Instant)>>> = (0..threads).map(|_| Mutex::new(None)).collect();
    let done = (Mutex::new(0), Condvar::new());
    std::thread::scope(|scope| {
        scope.spawn(|| watch(&playing, &done, options));
        for slot in &playing {
            let (next, failures, total, done) = (&next, &failures, &total, &done);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from.saturating_add(seeds) {
                        *slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
                        *done.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                        done.1.notify_all();
                        break;
                    }
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some((seed, Instant::now()));
                    match run(seed, options) {
                        Ok(summary) => {
                            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                            total.0 += 1;
                            total.1.add(&summary);
                        }
                        Err(failure) => {
                            total.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
                            if options.mutation.is_none() {
                                // At once: a long run may be watched, or stopped.
                                eprintln!("{failure}");
                            }
                            let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                            failures.push(failure);
                            if failures.len() >= enough {
                                next.store(u64::MAX - 1_000_000, Ordering::Relaxed);
                            }
                        }
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    failures.sort_by_key(|failure| failure.seed);
    (failures, total.into_inner().unwrap_or_else(PoisonError::into_inner))
}
