//! What runs on the observer's host: `lab-observe`.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{LabError, error::Doing, network, rehearsal::observer::Observed};

/// From one try to the next.
const PERIOD: Duration = Duration::from_millis(200);
/// A try is given up when nothing comes for so long; longer than any freeze.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a service is read from and written to, just enough to see whether it acknowledges.
#[derive(Debug, Clone, Copy)]
enum Speech {
    Ledger,
    Postgres,
}

#[derive(Debug, Default)]
struct Seen {
    watching: AtomicBool,
    acknowledged: AtomicU64,
    before: AtomicU64,
    tries: AtomicU64,
}

/// Reads from `address` at the Ethernet address `mac` until a line comes on standard input, then tries to write until
/// it ends; then prints what was seen.
pub(crate) fn run(kind: &str, address: &str, mac: &str) -> Result<(), LabError> {
    let speech = if kind == "postgres" { Speech::Postgres } else { Speech::Ledger };
    let address: SocketAddr = address.parse().map_err(io::Error::other).doing("understand the address")?;
    let mut bytes = [0; 6];
    for (byte, text) in bytes.iter_mut().zip(mac.split(':')) {
        *byte = u8::from_str_radix(text, 16).map_err(io::Error::other).doing("understand the Ethernet address")?;
    }
    network::pin(address.ip(), bytes)?;
    let seen = Arc::new(Seen::default());
    let ended = Arc::new(AtomicBool::new(false));
    let (watch, end) = (Arc::clone(&seen), Arc::clone(&ended));
    std::thread::spawn(move || {
        for _ in io::stdin().lines().map_while(Result::ok) {
            watch.watching.store(true, Ordering::SeqCst);
        }
        end.store(true, Ordering::SeqCst);
    });
    while !ended.load(Ordering::SeqCst) {
        let seen = Arc::clone(&seen);
        // Each try in a thread of its own, and none given up early: the frozen node's kernel takes connections and
        // data, which its processes find when they go on.
        std::thread::spawn(move || match converse(speech, address, &seen) {
            Ok(()) => {}
            Err(cause) => tracing::debug!(%cause, "a try ended"),
        });
        std::thread::sleep(PERIOD);
    }
    let observed = Observed {
        acknowledged: seen.acknowledged.load(Ordering::SeqCst),
        before: seen.before.load(Ordering::SeqCst),
        tries: seen.tries.load(Ordering::SeqCst),
    };
    println!("{}", serde_json::to_string(&observed).expect("three numbers"));
    Ok(())
}

/// One connection: reads, and once the observer watches, writes.
fn converse(speech: Speech, address: SocketAddr, seen: &Seen) -> io::Result<()> {
    let watched_from_the_start = seen.watching.load(Ordering::SeqCst);
    if watched_from_the_start {
        seen.tries.fetch_add(1, Ordering::SeqCst);
    }
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    match speech {
        Speech::Ledger => ledger(&mut stream, seen, watched_from_the_start),
        Speech::Postgres => postgres(&mut stream, seen, watched_from_the_start),
    }
}

/// Reads the last number, waits for the watch, then appends the next one.
fn ledger(stream: &mut TcpStream, seen: &Seen, watched: bool) -> io::Result<()> {
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    let mut last = ask_ledger(stream, &mut answers, &mut line)?;
    if !watched && !goes_on(seen) {
        return Ok(());
    }
    loop {
        stream.write_all(format!("APPEND {} observer\n", last + 1).as_bytes())?;
        line.clear();
        if answers.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.starts_with("OK") {
            seen.acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        last = ask_ledger(stream, &mut answers, &mut line)?;
        std::thread::sleep(PERIOD);
    }
}

/// A read was answered. Whether this connection goes on to write: only if the watch began meanwhile; the others have
/// shown what they can.
fn goes_on(seen: &Seen) -> bool {
    if !seen.watching.load(Ordering::SeqCst) {
        seen.before.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(PERIOD);
    }
    seen.watching.load(Ordering::SeqCst)
}

fn ask_ledger(stream: &mut TcpStream, answers: &mut BufReader<TcpStream>, line: &mut String) -> io::Result<u64> {
    stream.write_all(b"LAST\n")?;
    line.clear();
    answers.read_line(line)?;
    let last = line.trim().strip_prefix("LAST ").and_then(|number| number.parse().ok());
    last.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no last number: {line:?}")))
}

/// The same in PostgreSQL's protocol, version 3.0, as far as a trusted user needs it (PostgreSQL 15 documentation,
/// chapter 55.7).
fn postgres(stream: &mut TcpStream, seen: &Seen, watched: bool) -> io::Result<()> {
    let mut startup = vec![0, 3, 0, 0];
    startup.extend_from_slice(b"user\0postgres\0database\0postgres\0\0");
    let length = u32::try_from(startup.len() + 4).expect("a short message");
    stream.write_all(&[&length.to_be_bytes()[..], &startup].concat())?;
    until_ready(stream)?;
    if !watched {
        query(stream, "SELECT 1")?;
        if !goes_on(seen) {
            return Ok(());
        }
    }
    loop {
        // Written and gone with its session's commit: it needs the disk as any other transaction does.
        let tags = query(stream, "CREATE TABLE IF NOT EXISTS tandem_observer (at timestamptz)")?;
        let more = query(stream, "INSERT INTO tandem_observer VALUES (now())")?;
        if tags.iter().chain(&more).any(|tag| tag.starts_with("INSERT")) {
            seen.acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        std::thread::sleep(PERIOD);
    }
}

/// Runs a statement; returns the tags of what was completed.
fn query(stream: &mut TcpStream, statement: &str) -> io::Result<Vec<String>> {
    let length = u32::try_from(statement.len() + 5).expect("a short message");
    stream.write_all(&[b"Q", &length.to_be_bytes()[..], statement.as_bytes(), b"\0"].concat())?;
    until_ready(stream)
}

fn until_ready(stream: &mut TcpStream) -> io::Result<Vec<String>> {
    let mut tags = Vec::new();
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]).saturating_sub(4);
        let mut body = Vec::new();
        stream.take(length.into()).read_to_end(&mut body)?;
        match head[0] {
            b'C' => tags.push(String::from_utf8_lossy(&body).into_owned()),
            b'Z' => return Ok(tags),
            _ => {}
        }
    }
}
