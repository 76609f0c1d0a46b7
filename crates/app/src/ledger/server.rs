//! The service: a thread for each connection, and one that writes.

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use std::{
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use super::{
    format::{PAYLOAD_MAX, Record},
    store::{BATCH_MAX, Reader, Store},
};

/// The most bytes of a request's line.
pub(super) const LINE_MAX: u64 = 1024;
/// The most connections at once. A client that tries again twice a second leaves that many behind in a stall of minutes.
const CONNECTIONS_MAX: usize = 256;
/// The most records of one `READ`.
const READ_MAX: u64 = 100_000;
/// A connection that says nothing for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// `tandem ledger-serve`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ServeArgs {
    /// The volume's raw file or device; its size is the ledger's capacity
    #[arg(long)]
    file: PathBuf,
    /// Where to listen; the address need not be on this machine yet
    #[arg(long)]
    listen: SocketAddr,
}

/// Serves until it is ended, or the volume fails.
pub(crate) fn serve(args: ServeArgs) -> ExitCode {
    match Server::start(&args) {
        Ok(server) => {
            println!("{}", server.ready());
            server.run()
        }
        Err(error) => {
            eprintln!("tandem ledger-serve: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

struct Append {
    record: Record,
    answer: mpsc::SyncSender<Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Durable,
    Full,
    Gap { last: u64 },
    Conflict,
    Io,
}

/// What the connections share.
struct Shared {
    appends: mpsc::SyncSender<Append>,
    /// The last durable record; written by the writer alone.
    last: AtomicU64,
    capacity: u64,
    reader: Reader,
    connections: AtomicUsize,
}

struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
    store: Store,
    appends: mpsc::Receiver<Append>,
}

impl Server {
    fn start(args: &ServeArgs) -> Result<Self, Box<dyn std::error::Error>> {
        let store = Store::open(&args.file)?;
        let listener = listen_at(args.listen).map_err(|error| format!("cannot listen at {}: {error}", args.listen))?;
        let (sender, appends) = mpsc::sync_channel(BATCH_MAX);
        let shared = Shared {
            appends: sender,
            last: AtomicU64::new(store.last()),
            capacity: store.capacity(),
            reader: store.reader()?,
            connections: AtomicUsize::new(0),
        };
        Ok(Self { listener, shared: Arc::new(shared), store, appends })
    }

    fn ready(&self) -> String {
        let listen = self.listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string());
        serde_json::json!({ "ready": true, "listen": listen, "last": self.store.last() }).to_string()
    }

    /// Writes on this thread; returns only when the file failed. Connections are then cut by the end of the process.
    fn run(self) -> ExitCode {
        let Self { listener, shared, store, appends } = self;
        let accepting = shared.clone();
        std::thread::spawn(move || accept(&listener, &accepting));
        let error = write(store, &appends, &shared.last);
        eprintln!("tandem ledger-serve: the volume failed: {error}");
        ExitCode::FAILURE
    }
}

/// Listens with `IP_FREEBIND`: a service may be started before its address is installed, and keeps its listener when
/// the address leaves and comes back.
fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv4() {
        sockopt::set_ip_freebind(&socket, true)?;
    } else {
        sockopt::set_ipv6_freebind(&socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, 128)?;
    Ok(TcpListener::from(socket))
}

/// Gathers what waits, up to a batch, makes it durable with one sync, then answers: group commit.
fn write(mut store: Store, appends: &mpsc::Receiver<Append>, last: &AtomicU64) -> io::Error {
    loop {
        // The accepting thread holds a sender for as long as the process lives.
        let first = appends.recv().expect("somebody can always still append");
        let mut batch = Vec::new();
        let mut waiting = Vec::new();
        for append in std::iter::once(first).chain(appends.try_iter().take(BATCH_MAX - 1)) {
            match place(&store, &batch, &append.record) {
                Ok(Place::Next) => {
                    batch.push(append.record);
                    waiting.push(append.answer);
                }
                Ok(Place::InBatch) => waiting.push(append.answer),
                // One that does not wait for its answer is gone.
                Ok(Place::Answered(answer)) => drop(append.answer.send(answer)),
                Err(error) => {
                    let _ = append.answer.send(Answer::Io);
                    return error;
                }
            }
        }
        let written = if batch.is_empty() { Ok(()) } else { store.append(&batch) };
        let answer = if written.is_ok() { Answer::Durable } else { Answer::Io };
        last.store(store.last(), Ordering::Release);
        for waiting in waiting {
            let _ = waiting.send(answer);
        }
        if let Err(error) = written {
            return error;
        }
    }
}

enum Place {
    Next,
    InBatch,
    Answered(Answer),
}

/// Where a record belongs: behind the batch, in it already, or nowhere.
fn place(store: &Store, batch: &[Record], record: &Record) -> io::Result<Place> {
    let next = store.last() + batch.len() as u64 + 1;
    if record.number > next {
        return Ok(Place::Answered(Answer::Gap { last: store.last() }));
    }
    if record.number == next {
        return Ok(if next > store.capacity() { Place::Answered(Answer::Full) } else { Place::Next });
    }
    if record.number > store.last() {
        let index = (record.number - store.last() - 1) as usize;
        return Ok(if batch[index] == *record { Place::InBatch } else { Place::Answered(Answer::Conflict) });
    }
    let same = store.reader()?.read(record.number)?.as_ref() == Some(record);
    Ok(Place::Answered(if same { Answer::Durable } else { Answer::Conflict }))
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: others end, then it goes on.
                eprintln!("tandem ledger-serve: cannot accept: {error}");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if shared.connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
            let _ = (&stream).write_all(b"ERR busy\n");
            continue;
        }
        let shared = shared.clone();
        std::thread::spawn(move || {
            // How a connection ends is the client's business.
            let _ = converse(&stream, &shared);
            shared.connections.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn converse(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_write_timeout(Some(IDLE_MAX))?;
    let mut input = BufReader::new(stream);
    let mut output = BufWriter::new(stream);
    let mut line = Vec::new();
    let mut client = 0;
    loop {
        line.clear();
        let length = input.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(());
        }
        if line.pop_if(|last| *last == b'\n').is_none() {
            // Too long, or cut short by the client's end: neither can be answered for what it is.
            output.write_all(b"ERR bad the line is too long or unfinished\n")?;
            return output.flush();
        }
        line.pop_if(|last| *last == b'\r');
        respond(&line, &mut client, shared, &mut output)?;
        output.flush()?;
    }
}

fn respond(line: &[u8], client: &mut u64, shared: &Shared, output: &mut impl Write) -> io::Result<()> {
    let (word, rest) = split_word(line);
    match word {
        b"APPEND" => {
            let (number, payload) = split_word(rest);
            let Some(number) = parse(number).filter(|number| *number > 0) else {
                return output.write_all(b"ERR bad number\n");
            };
            if payload.len() > PAYLOAD_MAX {
                return writeln!(output, "ERR bad payload: {} bytes, at most {PAYLOAD_MAX}", payload.len());
            }
            let record = Record { number, client: *client, payload: payload.to_vec() };
            let (answer, wait) = mpsc::sync_channel(1);
            // If the writer is gone the process ends.
            let asked = shared.appends.send(Append { record, answer });
            match asked.ok().and_then(|()| wait.recv().ok()).unwrap_or(Answer::Io) {
                Answer::Durable => writeln!(output, "OK {number}"),
                Answer::Full => output.write_all(b"ERR full\n"),
                Answer::Gap { last } => writeln!(output, "ERR gap {last}"),
                Answer::Conflict => output.write_all(b"ERR conflict\n"),
                Answer::Io => output.write_all(b"ERR io\n"),
            }
        }
        b"READ" => {
            let (from, count) = split_word(rest);
            let (Some(from), Some(count)) = (parse(from).filter(|from| *from > 0), parse(count)) else {
                return output.write_all(b"ERR bad range\n");
            };
            let end = from.saturating_add(count.min(READ_MAX)).min(shared.last.load(Ordering::Acquire) + 1);
            for number in from..end {
                let Some(record) = shared.reader.read(number)? else {
                    return writeln!(output, "ERR damaged {number}");
                };
                write!(output, "REC {number} ")?;
                output.write_all(&record.payload)?;
                output.write_all(b"\n")?;
            }
            writeln!(output, "END {}", end.max(from))
        }
        b"LAST" => writeln!(output, "LAST {}", shared.last.load(Ordering::Acquire)),
        b"STATUS" => {
            let (last, capacity) = (shared.last.load(Ordering::Acquire), shared.capacity);
            writeln!(output, "STATUS {}", serde_json::json!({ "last": last, "capacity": capacity }))
        }
        b"CLIENT" => match std::str::from_utf8(rest).ok().and_then(|text| u64::from_str_radix(text, 16).ok()) {
            Some(id) => {
                *client = id;
                output.write_all(b"OK\n")
            }
            None => output.write_all(b"ERR bad client\n"),
        },
        _ => output.write_all(b"ERR bad request\n"),
    }
}

fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|byte| *byte == b' ') {
        Some(space) => (&line[..space], &line[space + 1..]),
        None => (line, &[]),
    }
}

fn parse(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ledger::store::tests::file;

    /// A server in this process, until the process ends.
    pub(in super::super) fn start(file: &std::path::Path) -> SocketAddr {
        let listen = "127.0.0.1:0".parse().expect("an address");
        let server = Server::start(&ServeArgs { file: file.into(), listen }).expect("the file is a ledger");
        let address = server.listener.local_addr().expect("it is bound");
        std::thread::spawn(move || server.run());
        address
    }

    struct Client(BufReader<TcpStream>);

    impl Client {
        fn connect(address: SocketAddr) -> Self {
            Self(BufReader::new(TcpStream::connect(address).expect("it listens")))
        }

        fn send(&mut self, bytes: &[u8]) {
            self.0.get_mut().write_all(bytes).expect("it reads");
        }

        fn line(&mut self) -> String {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("it answers");
            line
        }

        fn ask(&mut self, line: &str) -> String {
            self.send(format!("{line}\n").as_bytes());
            self.line()
        }
    }

    #[test]
    fn a_session() {
        let file = file(4);
        let mut client = Client::connect(start(file.path()));
        for (ask, answer) in [
            ("LAST", "LAST 0\n"),
            ("APPEND 2 too early", "ERR gap 0\n"),
            ("APPEND 1 one", "OK 1\n"),
            ("APPEND 1 one", "OK 1\n"),
            ("APPEND 1 other", "ERR conflict\n"),
            ("APPEND 2", "OK 2\n"),
            ("APPEND 3 a b  c", "OK 3\n"),
            ("APPEND 4 four", "OK 4\n"),
            ("APPEND 5 five", "ERR full\n"),
            ("APPEND 4 four", "OK 4\n"),
            ("STATUS", "STATUS {\"capacity\":4,\"last\":4}\n"),
            ("READ 3 1", "REC 3 a b  c\n"),
        ] {
            assert_eq!(client.ask(ask), answer, "{ask}");
        }
        assert_eq!(client.line(), "END 4\n");
        assert_eq!(client.ask("READ 9 9"), "END 9\n");
        let mut again = Client::connect(start(file.path()));
        assert_eq!(again.ask("LAST"), "LAST 4\n", "another server on the same file");
    }

    #[test]
    fn garbage_is_answered_or_cut_and_the_service_goes_on() {
        let file = file(16);
        let address = start(file.path());
        for garbage in [
            "",
            "NONSENSE",
            "APPEND",
            "APPEND 0 x",
            "APPEND x y",
            "APPEND -1 x",
            "READ",
            "READ 0 1",
            "READ 1 x",
            "CLIENT zz",
        ] {
            assert!(Client::connect(address).ask(garbage).starts_with("ERR bad"), "{garbage}");
        }
        let mut binary = Client::connect(address);
        binary.send(&[0xff; 2048]);
        assert!(binary.line().starts_with("ERR bad"));
        let mut long = Client::connect(address);
        assert!(long.ask(&format!("APPEND 1 {}", "x".repeat(PAYLOAD_MAX + 1))).starts_with("ERR bad payload"));
        let mut half = Client::connect(address);
        half.send(b"APPEND 1 half");
        drop(half);
        let mut client = Client::connect(address);
        assert_eq!(client.ask(&format!("APPEND 1 {}", "x".repeat(PAYLOAD_MAX))), "OK 1\n", "half a line is no record");
    }

    #[test]
    fn many_clients_append_one_record_each_and_all_are_acknowledged_once() {
        let file = file(1_000);
        let address = start(file.path());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut client = Client::connect(address);
                    for number in 1..=50 {
                        // All write the same, so whoever comes second finds it there.
                        while client.ask(&format!("APPEND {number} same {number}")) != format!("OK {number}\n") {}
                    }
                });
            }
        });
        assert_eq!(Client::connect(address).ask("LAST"), "LAST 50\n");
    }
}
