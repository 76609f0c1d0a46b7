//! Garbage, half requests, wrong ranges, silence and wrong certificates: the connection ends, and the volume goes on.

use crate::machine::{
    Machine,
    cluster::{Cluster, SIZE},
    nbd::{self, FLUSH, Nbd, READ, WRITE},
    said, tls, wait_for,
};
use std::{
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// An initiator that writes and reads all the while, and wants every byte back.
struct Good {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Good {
    fn start(socket: PathBuf) -> Self {
        let (stop, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            let mut nbd = Nbd::connect_when_served(&socket, "disk");
            let mut round = 0u64;
            while !stopped.load(Ordering::Relaxed) {
                let offset = (round % 64) * 65_536;
                let data = vec![(round % 251) as u8 + 1; 16_384];
                nbd.write(offset, &data).expect("the volume goes on");
                if round.is_multiple_of(8) {
                    nbd.flush().expect("the volume goes on");
                }
                assert!(nbd.read(offset, 16_384).expect("the volume goes on") == data, "round {round}");
                round += 1;
                counted.store(round, Ordering::Relaxed);
            }
        });
        Self { stop, rounds, thread: Some(thread) }
    }

    /// Waits until it wrote and read some more.
    #[track_caller]
    fn goes_on(&self) {
        let before = self.rounds.load(Ordering::Relaxed);
        wait_for("the good initiator goes on", || {
            assert!(!self.thread.as_ref().is_some_and(JoinHandle::is_finished), "the good initiator failed");
            self.rounds.load(Ordering::Relaxed) > before + 4
        });
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it runs").join().expect("the good initiator saw nothing wrong");
    }
}

impl Drop for Good {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends `bytes`, ends its own side where `ends`, and expects the other side to end too; what it said before.
fn thrown_out(mut stream: UnixStream, bytes: &[u8], ends: bool) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    tls::send(&mut stream, bytes);
    if ends {
        let _ = stream.shutdown(Shutdown::Write);
    }
    tls::rest(&mut stream)
}

#[test]
fn initiators_that_break_the_protocol_hurt_nobody() {
    let cluster = Cluster::up(|_| ());
    let socket = cluster.a1.nbd_socket();
    let good = Good::start(socket.clone());
    good.goes_on();
    let connect = || UnixStream::connect(&socket).expect("it listens");
    let flags = 3u32.to_be_bytes().to_vec();

    // Before an export is chosen.
    let huge =
        [flags.clone(), b"IHAVEOPT".to_vec(), 7u32.to_be_bytes().to_vec(), u32::MAX.to_be_bytes().to_vec()].concat();
    let long_name = [flags.clone(), nbd::option(7, &nbd::go(&"x".repeat(5000)))].concat();
    for (what, bytes, ends) in [
        ("another protocol", b"GET / HTTP/1.0\r\n\r\n".to_vec(), false),
        ("noise", vec![0xff; 100_000], false),
        ("an option of 4 GiB", huge, false),
        ("a name that is too long", long_name, true),
        ("nothing", Vec::new(), true),
        ("half of its flags", flags[..2].to_vec(), true),
        ("half an option", [flags.clone(), nbd::option(7, &nbd::go("disk"))[..20].to_vec()].concat(), true),
    ] {
        let answer = thrown_out(connect(), &bytes, ends);
        assert!(answer.len() < 8192, "{what}: {} bytes", answer.len());
        good.goes_on();
    }
    assert!(Nbd::connect(&socket, "other").is_err_and(|error| error.to_string().contains("no volume `other`")));

    // After it.
    let chosen = || Nbd::connect(&socket, "disk").expect("it is served");
    for (what, bytes, ends) in [
        ("no request", vec![0x55; 4096], false),
        ("half a request", nbd::request(WRITE, 1, 0, 4096, &[])[..15].to_vec(), true),
        ("a write without its data", nbd::request(WRITE, 1, 0, 4096, &[7; 100]), true),
        ("a write of 4 GiB", nbd::request(WRITE, 1, 0, u32::MAX, &[7; 100]), false),
        ("requests nobody waits for", nbd::request(READ, 1, 0, 1 << 20, &[]).repeat(100), true),
    ] {
        let _ = thrown_out(chosen().stream, &bytes, ends);
        good.goes_on();
        let _ = what;
    }
    // Wrong ranges and unknown requests are answered, and the connection stays.
    let mut nbd = chosen();
    const INVALID: u32 = 22;
    const NO_SPACE: u32 = 28;
    for (kind, offset, length, wanted) in [
        (READ, SIZE, 4096, INVALID),
        (READ, SIZE - 512, 1024, INVALID),
        (READ, u64::MAX, 4096, INVALID),
        (READ, 0, 0, INVALID),
        (WRITE, SIZE, 512, NO_SPACE),
        (WRITE, u64::MAX - 511, 512, NO_SPACE),
        (77, 0, 4096, INVALID),
    ] {
        let data = vec![9; if kind == WRITE { length as usize } else { 0 }];
        let (error, _) = nbd.ask(kind, offset, length, &data).expect("it is answered");
        assert_eq!(error, wanted, "request {kind} at {offset}, {length} bytes");
    }
    assert_eq!(nbd.ask(FLUSH, 0, 0, &[]).expect("it is answered").0, 0);
    assert_eq!(nbd.read(SIZE - 4096, 4096).expect("it is served"), vec![0; 4096], "nothing was written past the end");

    // Many who say nothing: they are bounded in number, whoever speaks gets in, and they are bounded in time.
    let silent: Vec<_> = (0..300).map(|_| UnixStream::connect(&socket)).filter_map(Result::ok).collect();
    let began = Instant::now();
    let mut late = chosen();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    late.read(0, 4096).expect("it is served");
    good.goes_on();
    for mut stream in silent {
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let _ = tls::rest(&mut stream);
    }
    good.goes_on();
    good.end();
    assert!(cluster.a1.is_well());
}

/// Another cluster's identity for the same node.
fn other_identity(folder: &Path) -> PathBuf {
    let other = Machine::new(folder, "other");
    let plan = folder.join("plan.toml");
    let init = other.run(&["init", "--node", "a1", "--plan", plan.to_str().expect("the path is text")]);
    assert!(init.status.success(), "{}", said(&init));
    other.data_dir().join("identity")
}

const CONTROL: &[u8] = b"tandem-control/1";
const VOLUME: &[u8] = b"tandem-volume/1:disk";
const B1: &str = "10.77.1.2:7400";

#[test]
fn strangers_at_the_port_for_peers_hurt_nobody() {
    let cluster = Cluster::up(|_| ());
    let good = Good::start(cluster.a1.nbd_socket());
    good.goes_on();
    let (other, witness) = (other_identity(cluster.folder.path()), cluster.w1.data_dir().join("identity"));

    // Wrong certificates: none, another authority's, and one of this cluster that has no business here.
    for alpn in [CONTROL, VOLUME] {
        for identity in [None, Some(other.as_path())] {
            let mut stream = match tls::connect(B1, alpn, identity) {
                Ok(stream) => stream,
                Err(error) => {
                    assert!(!error.to_string().contains("timed out"), "{error}");
                    continue;
                }
            };
            tls::send(&mut stream, &[0xff; 64]);
            assert!(tls::rest(&mut stream).is_empty(), "a stranger hears nothing");
        }
    }
    let mut stream = tls::connect(B1, VOLUME, Some(&witness)).expect("the handshake itself works");
    tls::send(&mut stream, &[0xff; 64]);
    assert!(tls::rest(&mut stream).is_empty(), "it hears nothing");
    wait_for("the journal tells of it", || {
        let events = said(&cluster.a1.run(&["events"]));
        events.contains("group disk: peer refused: 10.77.1.")
    });
    wait_for("b1 tells which", || cluster.b1.log().contains("`w1` holds no replica of this group"));
    assert!(
        ["TLS: peer sent no certificates", "TLS: invalid peer certificate: UnknownIssuer"]
            .iter()
            .all(|why| cluster.b1.log().contains(why)),
        "{}",
        cluster.b1.log()
    );
    good.goes_on();

    // A group that nobody has, a protocol that is none, and bytes that are no TLS at all.
    for alpn in [b"tandem-volume/1:nothing".as_slice(), b"tandem-volume/1:\xff", b"h2", b"tandem-control/9"] {
        assert!(tls::connect(B1, alpn, Some(&witness)).is_err(), "{}", String::from_utf8_lossy(alpn));
    }
    for (bytes, ends) in [
        (b"GET / HTTP/1.0\r\n\r\n".to_vec(), false),
        (vec![0xff; 100_000], false),
        (vec![0x16, 3, 1, 0x40, 0, 1], true),
        (Vec::new(), true),
    ] {
        let mut stream = TcpStream::connect(B1).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        tls::send(&mut stream, &bytes);
        if ends {
            let _ = stream.shutdown(Shutdown::Write);
        }
        assert!(tls::rest(&mut stream).len() < 64, "at most an alert");
        good.goes_on();
    }

    // Many who say nothing, or a piece of a first message and nothing more: all are gone in a bounded time, and
    // meanwhile whoever is known gets in.
    let mut silent: Vec<_> = (0..200).map(|_| TcpStream::connect(B1)).filter_map(Result::ok).collect();
    for stream in silent.iter_mut().step_by(2) {
        tls::send(stream, &[0x16, 3, 1, 2, 0, 1, 0]);
    }
    good.goes_on();
    let began = Instant::now();
    for mut stream in silent {
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let _ = tls::rest(&mut stream);
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    good.goes_on();

    // Known, and then garbage: a1's own certificate takes a1's place for a moment, and a1 comes back.
    for (protocol, length) in [(VOLUME, 4096), (CONTROL, 64)] {
        for bytes in [vec![0xff; length], vec![0; length], b"half".to_vec()] {
            let identity = cluster.a1.data_dir().join("identity");
            let mut stream = tls::connect(B1, protocol, Some(&identity)).expect("it is known");
            tls::send(&mut stream, &bytes);
            let _ = stream.sock.shutdown(Shutdown::Write);
            let _ = tls::rest(&mut stream);
            good.goes_on();
        }
    }
    good.end();
    cluster.wait_well();
    // None of this filled the cluster's journal.
    let events = cluster.a1.says(&["events"]);
    assert!(events.lines().filter(|line| line.contains("peer refused")).count() < 10, "{events}");
}
