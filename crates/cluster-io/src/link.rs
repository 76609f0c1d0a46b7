//! One outgoing connection to a peer: dialled again and again, never waited for.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::ClientConfig;
use tandem_base::RunId;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    PORT,
    identity::Identity,
    raft::Peer,
    wire::{
        BULK_FRAME_MAX, CONTROL_FRAME_MAX, HELLO_FRAME_MAX, Hello, Request, VERSION, Welcome, decode, encode,
        read_frame, write_frame,
    },
};

/// How long connecting, the TLS handshake and the greeting may take each.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Between two tries, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Between two looks at whether the peer still answers.
const PING_EVERY: Duration = Duration::from_millis(200);
/// A connection without an answer for so long is given up.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(3);
/// The same where a snapshot may be under way.
pub(crate) const BULK_DEAD_AFTER: Duration = Duration::from_secs(60);
/// Requests that may wait for the socket.
const QUEUE: usize = 512;
/// Differentiated services field: class selector 6, network control (RFC 4594, section 3.2), in the upper six bits.
const DSCP_CONTROL: u32 = 48 << 2;

/// Why a request has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CallError {
    /// It did not leave this node.
    #[error("{0}")]
    NotSent(String),
    /// It may have arrived.
    #[error("{0}")]
    Lost(String),
}

struct Call {
    body: Vec<u8>,
    reply: oneshot::Sender<Vec<u8>>,
}

/// Everything a link needs of its node.
pub(crate) struct Dialer {
    pub(crate) identity: Identity,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) raft_id: u64,
    pub(crate) run: RunId,
    /// A peer that answers nothing for so long is gone round.
    pub(crate) silent_after: Duration,
    /// Test only: nodes that cannot be reached.
    #[cfg(test)]
    pub(crate) cut: Mutex<std::collections::BTreeSet<tandem_base::NodeName>>,
}

struct Shared {
    /// Where calls go while a connection stands.
    calls: Mutex<Option<mpsc::Sender<Call>>>,
    answering: watch::Sender<bool>,
    wake: Notify,
    trouble: Mutex<String>,
}

/// One outgoing connection to a peer. Dropping it ends it.
pub(crate) struct Link {
    pub(crate) peer: Peer,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Begins to dial `peer`, whose store is `to`.
    pub(crate) fn open(dialer: Arc<Dialer>, to: u64, peer: Peer, bulk: bool) -> Self {
        let shared = Arc::new(Shared {
            calls: Mutex::default(),
            answering: watch::Sender::new(false),
            wake: Notify::new(),
            trouble: Mutex::new("not connected yet".into()),
        });
        let task = tokio::spawn(keep(dialer, to, peer.clone(), bulk, Arc::clone(&shared)));
        Self { peer, shared, task }
    }

    /// Whether the peer answered what was asked lately.
    pub(crate) fn is_answering(&self) -> bool {
        *self.shared.answering.borrow()
    }

    /// The peer gave a sign of life: dial now.
    pub(crate) fn wake(&self) {
        self.shared.wake.notify_one();
    }

    /// Why there is no connection, in words.
    pub(crate) fn trouble(&self) -> String {
        format!("{} at {}: {}", self.peer.node, self.peer.address, self.why())
    }

    /// The same, without whom it is about.
    pub(crate) fn why(&self) -> String {
        self.shared.trouble.lock().expect("no holder of this lock panics").clone()
    }

    /// Sends a request and waits for its answer, no longer than the peer answers at all.
    pub(crate) async fn call(&self, body: Vec<u8>, within: Duration) -> Result<Vec<u8>, CallError> {
        let sender = self.shared.calls.lock().expect("no holder of this lock panics").clone();
        let Some(sender) = sender else { return Err(CallError::NotSent(self.trouble())) };
        let (reply, answer) = oneshot::channel();
        let busy = |_| CallError::NotSent(format!("too much waits to be sent to {}", self.peer.node));
        sender.try_send(Call { body, reply }).map_err(busy)?;
        let mut answering = self.shared.answering.subscribe();
        let fell_silent = async {
            // Where it was silent before, the request was sent in spite of that.
            let answers = *answering.borrow_and_update();
            if !answers || answering.wait_for(|answering| !answering).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let node = &self.peer.node;
        tokio::select! {
            answer = answer => answer.map_err(|_| CallError::Lost(format!("the connection to {node} broke"))),
            () = fell_silent => Err(CallError::Lost(format!("{node} fell silent"))),
            () = tokio::time::sleep(within) => Err(CallError::Lost(format!("{node} did not answer within {within:?}"))),
        }
    }
}

async fn keep(dialer: Arc<Dialer>, to: u64, peer: Peer, bulk: bool, shared: Arc<Shared>) {
    let mut pause = BACKOFF.0;
    loop {
        let ended = match dial(&dialer, to, &peer, bulk).await {
            Ok(stream) => {
                pause = BACKOFF.0;
                tracing::debug!(peer = %peer.node, address = %peer.address, bulk, "control connection stands");
                carry(&dialer, stream, bulk, &shared).await
            }
            Err(error) => Err(error),
        };
        shared.answering.send_replace(false);
        *shared.calls.lock().expect("no holder of this lock panics") = None;
        let why = ended.err().map_or_else(|| "it closed the connection".to_owned(), |error| error.to_string());
        tracing::debug!(peer = %peer.node, address = %peer.address, bulk, %why, "no control connection");
        let before =
            std::mem::replace(&mut *shared.trouble.lock().expect("no holder of this lock panics"), why.clone());
        if why.starts_with(NOT_ITSELF) && before != why {
            tracing::warn!(peer = %peer.node, address = %peer.address, "{why}");
        }
        // A sign of life makes the next try come soon, but never at once: two nodes must not spin.
        tokio::time::sleep(BACKOFF.0).await;
        let _woken_or_not = timeout(pause, shared.wake.notified()).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// What is said of an address where somebody else answers; the cluster follows.
const NOT_ITSELF: &str = "who answers there is not this node of cluster";

/// Whether a handshake failed because of who showed which certificate.
pub(crate) fn is_about_certificates(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    tls.is_some_and(|error| matches!(error, rustls::Error::InvalidCertificate(_)))
}

async fn within<T, E: ToString>(what: &str, work: impl Future<Output = Result<T, E>>) -> io::Result<T> {
    match timeout(CONNECT_WITHIN, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(io::Error::other(format!("{what}: {}", error.to_string()))),
        Err(_) => Err(io::Error::other(format!("{what}: nothing for {CONNECT_WITHIN:?}"))),
    }
}

/// An address with a port: the usual one where it names none.
pub(crate) fn with_port(address: &str) -> String {
    let bare_v6 = address.matches(':').count() > 1 && !address.starts_with('[');
    if bare_v6 {
        format!("[{address}]:{PORT}")
    } else if address.ends_with(']') || !address.contains(':') {
        format!("{address}:{PORT}")
    } else {
        address.to_owned()
    }
}

/// What every control connection's socket gets. Marks that the kernel refuses are only missed, not needed.
pub(crate) fn tune(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let marked = match stream.peer_addr() {
        Ok(address) if address.is_ipv6() => socket.set_tclass_v6(DSCP_CONTROL),
        _ => socket.set_tos_v4(DSCP_CONTROL),
    };
    if let Err(error) = marked.and_then(|()| stream.set_nodelay(true)) {
        tracing::debug!(%error, "a control connection's socket is not tuned");
    }
}

async fn dial(dialer: &Dialer, to: u64, peer: &Peer, bulk: bool) -> io::Result<TlsStream<TcpStream>> {
    #[cfg(test)]
    if dialer.cut.lock().expect("tests do not panic while they hold it").contains(&peer.node) {
        return Err(io::Error::other("cut by the test"));
    }
    let stream = within("connecting", TcpStream::connect(with_port(&peer.address))).await?;
    tune(&stream);
    let connector = TlsConnector::from(Arc::clone(&dialer.tls));
    let name = dialer.identity.server_name(&peer.node);
    let mut stream =
        match within("TLS handshake", async { Ok::<_, io::Error>(connector.connect(name, stream).await) }).await? {
            Ok(stream) => stream,
            Err(error) if is_about_certificates(&error) => {
                return Err(io::Error::other(format!("{NOT_ITSELF} {}: {error}", dialer.identity.cluster)));
            }
            Err(error) => return Err(io::Error::other(format!("TLS handshake: {error}"))),
        };
    let hello = Hello { version: VERSION, raft_id: dialer.raft_id, run: dialer.run, to, bulk };
    let greet = async {
        write_frame(&mut stream, 0, &encode(&hello)?).await?;
        let (_, welcome) =
            read_frame(&mut stream, HELLO_FRAME_MAX).await?.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
        match decode(&welcome)? {
            Welcome::Go => Ok(()),
            Welcome::No(why) => Err(io::Error::other(why)),
        }
    };
    within("greeting", greet).await?;
    Ok(stream)
}

/// Carries calls until the connection ends.
async fn carry(dialer: &Dialer, stream: TlsStream<TcpStream>, bulk: bool, shared: &Shared) -> io::Result<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    let (sender, mut calls) = mpsc::channel(QUEUE);
    let pending: Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>> = Mutex::default();
    *shared.calls.lock().expect("no holder of this lock panics") = Some(sender.clone());
    shared.answering.send_replace(true);
    let max = if bulk { BULK_FRAME_MAX } else { CONTROL_FRAME_MAX };
    tokio::select! {
        ended = send(&mut calls, &mut to, &pending) => ended,
        ended = receive(&mut from, &pending, max) => ended,
        ended = ping(&sender, shared, dialer.silent_after, bulk) => ended,
    }
}

async fn send(
    calls: &mut mpsc::Receiver<Call>,
    to: &mut (impl AsyncWrite + Unpin),
    pending: &Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>,
) -> io::Result<()> {
    let mut number = 0;
    while let Some(Call { body, reply }) = calls.recv().await {
        number += 1;
        {
            let mut pending = pending.lock().expect("no holder of this lock panics");
            // Those who stopped waiting are forgotten; an answer to them is ignored.
            pending.retain(|_, reply| !reply.is_closed());
            pending.insert(number, reply);
        }
        write_frame(to, number, &body).await?;
    }
    Ok(())
}

async fn receive(
    from: &mut (impl AsyncRead + Unpin),
    pending: &Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>,
    max: usize,
) -> io::Result<()> {
    while let Some((number, body)) = read_frame(from, max).await? {
        let reply = pending.lock().expect("no holder of this lock panics").remove(&number);
        if let Some(reply) = reply {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(body);
        }
    }
    Ok(())
}

async fn ping(calls: &mpsc::Sender<Call>, shared: &Shared, silent_after: Duration, bulk: bool) -> io::Result<()> {
    // A snapshot may keep the line busy for long; nobody is gone round on this one.
    let dead_after = if bulk { BULK_DEAD_AFTER } else { DEAD_AFTER };
    let body = encode(&Request::Ping)?;
    loop {
        tokio::time::sleep(PING_EVERY).await;
        let (reply, mut answer) = oneshot::channel();
        let asked = Instant::now();
        if calls.send(Call { body: body.clone(), reply }).await.is_err() {
            return Ok(());
        }
        let broke = || io::Error::other("the connection broke");
        match timeout(silent_after, &mut answer).await {
            Ok(answered) => {
                answered.map_err(|_| broke())?;
            }
            Err(_) => {
                shared.answering.send_replace(false);
                let left = dead_after.saturating_sub(asked.elapsed());
                let silent = || io::Error::other(format!("nothing heard for {dead_after:?}"));
                timeout(left, answer).await.map_err(|_| silent())?.map_err(|_| broke())?;
            }
        }
        shared.answering.send_if_modified(|answering| !std::mem::replace(answering, true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_usual_port() {
        for (address, whole) in [
            ("10.1.0.11", "10.1.0.11:7400"),
            ("10.1.0.11:99", "10.1.0.11:99"),
            ("w1.example", "w1.example:7400"),
            ("fd00::1", "[fd00::1]:7400"),
            ("[fd00::1]", "[fd00::1]:7400"),
            ("[fd00::1]:99", "[fd00::1]:99"),
        ] {
            assert_eq!(with_port(address), whole);
        }
    }
}
