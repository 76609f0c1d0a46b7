//! The client of a rehearsal: writes one record after another and remembers nothing; whoever started it reads along.

use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    io::{self, BufRead, Write},
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};
use tandem_node_io::clock::now;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::target::{Connection, Failed, Kind};

/// The least time between the beginnings of two tries, so that a refused connection is no busy loop.
const TRY_EVERY: Duration = Duration::from_millis(50);
/// The most numbers in a list of `verified`.
const LISTED_MAX: usize = 1_000;

/// `tandem rehearse-client`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ClientArgs {
    /// The kind of service
    #[arg(long)]
    pub(super) kind: Kind,
    /// The service's address and port
    #[arg(long)]
    pub(super) target: SocketAddr,
    /// How long an answer may take before the same record is tried again on a new connection
    #[arg(long, default_value_t = 400)]
    timeout_ms: u64,
    /// How long a connection may take; a dead address swallows what is sent to it
    #[arg(long, default_value_t = 250)]
    pub(super) connect_timeout_ms: u64,
    /// PostgreSQL: the user
    #[arg(long, default_value = "postgres")]
    pub(super) user: String,
    /// PostgreSQL: the database
    #[arg(long, default_value = "postgres")]
    pub(super) dbname: String,
    /// PostgreSQL: the password, if the server asks for one
    #[arg(long, env = "PGPASSWORD", hide_env_values = true)]
    pub(super) password: Option<String>,
    /// Look for the records whose numbers stand on standard input, instead of writing
    #[arg(long)]
    verify: bool,
    /// How long `--verify` waits for the service
    #[arg(long, default_value_t = 30_000)]
    patience_ms: u64,
}

/// Writes until it is stopped, or verifies. Prints one JSON object a line; the module's page lists them.
pub(crate) fn client(args: ClientArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(async { if args.verify { verify(&args).await } else { write(&args).await } }),
        Err(error) => Err(error),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tandem rehearse-client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn say(event: &str, fields: Value) -> io::Result<()> {
    let mut line = json!({ "event": event, "at_ns": now().as_nanos() });
    if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
        line.extend(fields);
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// The same connection for as long as it answers.
struct Writer<'a> {
    args: &'a ClientArgs,
    connection: Option<Connection>,
}

impl Writer<'_> {
    /// One try: connects if need be, asks, and gives the connection up if it failed or was silent.
    async fn attempt<T>(&mut self, what: impl AsyncFnOnce(&mut Connection) -> Result<T, Failed>) -> Result<T, Failed> {
        // Taken out: a try that is cancelled leaves no connection with half an answer in it.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.args).await?,
        };
        let patience = Duration::from_millis(self.args.timeout_ms);
        let done = timeout(patience, what(&mut connection)).await;
        let done = done.unwrap_or_else(|_| Err(Failed::Again(format!("no answer within {} ms", self.args.timeout_ms))));
        if done.is_ok() {
            self.connection = Some(connection);
        }
        done
    }
}

async fn write(args: &ClientArgs) -> io::Result<ExitCode> {
    let mut stop = std::pin::pin!(stop_asked()?);
    let mut last = 0;
    let written = tokio::select! {
        biased;
        _ = &mut stop => Ok(()),
        written = write_on(args, &mut last) => written,
    };
    // What failed here is our own standard output: nobody listens any more.
    written?;
    say("stopped", json!({ "last": last }))?;
    Ok(ExitCode::SUCCESS)
}

async fn write_on(args: &ClientArgs, last: &mut u64) -> io::Result<()> {
    let mut writer = Writer { args, connection: None };
    let mut number = None;
    loop {
        let began = Instant::now();
        let Some(current) = number else {
            match writer.attempt(async |connection| connection.last().await).await {
                Ok(found) => {
                    *last = found;
                    number = Some(found + 1);
                    say("started", json!({ "number": found + 1 }))?;
                }
                Err(failed) => say("error", json!({ "number": 0, "error": failed.to_string() }))?,
            }
            sleep_until(began + TRY_EVERY).await;
            continue;
        };
        match writer.attempt(async |connection| connection.append(current).await).await {
            Ok(()) => {
                let latency_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                say("acked", json!({ "number": current, "latency_us": latency_us }))?;
                *last = current;
                number = Some(current + 1);
            }
            Err(Failed::Again(error)) => {
                say("error", json!({ "number": current, "error": error }))?;
                sleep_until(began + TRY_EVERY).await;
            }
            Err(Failed::Lost { last: found }) => {
                say("lost", json!({ "number": current, "last": found }))?;
                // Whoever reads along stops us.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Resolves at `stop` or the end of standard input, SIGTERM or SIGINT.
fn stop_asked() -> io::Result<impl Future<Output = ()>> {
    let (sender, mut line) = tokio::sync::mpsc::channel(1);
    // A thread of its own: reading standard input cannot be cancelled, and ends with the process.
    std::thread::spawn(move || {
        let mut lines = io::stdin().lock().lines();
        while lines.next().is_some_and(|line| line.is_ok_and(|line| line.trim() != "stop")) {}
        let _ = sender.blocking_send(());
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = line.recv() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn verify(args: &ClientArgs) -> io::Result<ExitCode> {
    let mut expected = BTreeSet::new();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let number = line.trim().parse::<u64>();
        expected.insert(number.map_err(|_| io::Error::other(format!("`{line}` on standard input is no number")))?);
    }
    let deadline = Instant::now() + Duration::from_millis(args.patience_ms);
    let found = loop {
        let read = async { Connection::open(args).await?.all().await };
        match tokio::time::timeout_at(deadline, read).await {
            Ok(Ok(found)) => break found,
            Ok(Err(failed)) if Instant::now() + TRY_EVERY >= deadline => return unanswered(&failed.to_string()),
            Ok(Err(_)) => sleep(TRY_EVERY).await,
            Err(_) => return unanswered(&format!("no answer within {} ms", args.patience_ms)),
        }
    };
    let (missing, damaged) = compare(&expected, &found);
    let listed = |numbers: &[u64]| numbers.iter().take(LISTED_MAX).copied().collect::<Vec<_>>();
    say(
        "verified",
        json!({
            "expected": expected.len(), "found": found.len(),
            "missing_count": missing.len(), "missing": listed(&missing), "damaged": listed(&damaged),
        }),
    )?;
    Ok(if missing.is_empty() && damaged.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn unanswered(error: &str) -> io::Result<ExitCode> {
    say("error", json!({ "number": 0, "error": error }))?;
    Ok(ExitCode::FAILURE)
}

/// What is expected and not there, and what is there but not as it was written, expected or not.
fn compare(expected: &BTreeSet<u64>, found: &std::collections::BTreeMap<u64, bool>) -> (Vec<u64>, Vec<u64>) {
    let missing = expected.iter().filter(|number| !found.contains_key(number)).copied().collect();
    let damaged = found.iter().filter(|(_, whole)| !**whole).map(|(number, _)| *number).collect();
    (missing, damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparing_tells_missing_from_damaged_and_minds_no_surplus() {
        let expected = BTreeSet::from([1, 2, 4]);
        let found = [(1, true), (2, false), (3, true), (5, true)].into();
        assert_eq!(compare(&expected, &found), (vec![4], vec![2]));
    }
}
