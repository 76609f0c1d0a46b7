//! What this node answers to its peers.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use openraft::async_runtime::watch::WatchReceiver;
use tandem_base::{NodeName, RunId};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    control::Core,
    link::{BULK_DEAD_AFTER, DEAD_AFTER, tune},
    raft::Snapshot,
    wire::{
        BULK_FRAME_MAX, CONTROL_FRAME_MAX, HELLO_FRAME_MAX, Hello, Request, Response, VERSION, Welcome, decode, encode,
        read_frame, write_frame,
    },
};

/// How long a peer may take for the TLS handshake and its greeting.
const GREETING_WITHIN: Duration = Duration::from_secs(5);
/// Requests of one peer that are worked on at once.
const AT_ONCE: usize = 256;

/// Serves one incoming connection until it ends.
pub(crate) async fn serve(core: Arc<Core>, stream: TcpStream, entrance: impl Send) {
    let from = stream.peer_addr().map_or_else(|_| "?".into(), |address| address.to_string());
    tune(&stream);
    let greeted = timeout(GREETING_WITHIN, greet(&core, stream)).await;
    drop(entrance);
    match greeted {
        Ok(Ok((stream, peer, hello))) => {
            let _present = Present::enter(&core, &hello);
            core.links.heard_from(hello.raft_id);
            if let Err(error) = answer(&core, stream, hello.bulk).await {
                tracing::debug!(%peer, %error, "a control connection broke");
            }
        }
        Ok(Err(error)) => tracing::warn!(%from, %error, "a control connection was refused"),
        Err(_) => tracing::warn!(%from, "a control connection was refused: no greeting within {GREETING_WITHIN:?}"),
    }
}

async fn greet(core: &Core, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, NodeName, Hello)> {
    let acceptor = TlsAcceptor::from(Arc::clone(&core.server_tls));
    let mut stream = acceptor.accept(stream).await?;
    let peer = core.identity.peer(stream.get_ref().1).map_err(io::Error::other)?;
    let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (_, hello) = read_frame(&mut stream, HELLO_FRAME_MAX).await?.ok_or_else(ended)?;
    let hello: Hello = decode(&hello)?;
    let refusal = refuse(core, &peer, &hello);
    let welcome = refusal.clone().map_or(Welcome::Go, Welcome::No);
    write_frame(&mut stream, 0, &encode(&welcome)?).await?;
    match refusal {
        None => Ok((stream, peer, hello)),
        Some(why) => Err(io::Error::other(format!("{peer}: {why}"))),
    }
}

/// Why `peer` is not listened to, if it is not.
fn refuse(core: &Core, peer: &NodeName, hello: &Hello) -> Option<String> {
    let own = core.about.raft_id;
    if hello.version != VERSION {
        return Some(format!(
            "it speaks version {} of the control protocol, this node version {VERSION}",
            hello.version
        ));
    }
    #[cfg(test)]
    if core.links.dialer.cut.lock().expect("tests do not panic while they hold it").contains(peer) {
        return Some("cut by the test".into());
    }
    if hello.to != own {
        return Some(format!(
            "it means the store {:016x}, this node has {own:016x}: one of them was replaced",
            hello.to
        ));
    }
    if let Some(other) = other_run(&core.present(), hello) {
        tracing::error!(node = %peer, live = %other, second = %hello.run, "two live runs of one node");
        return Some(format!(
            "a second live run of {peer}: run {} greets while run {other} is connected; two machines may use one identity",
            hello.run
        ));
    }
    let applied = core.applied.borrow();
    // A node that is behind may not know the newest store of a peer; one that was replaced for sure is refused.
    let replaced = applied.state.members().get(peer).is_some_and(|member| member.raft_id != hello.raft_id);
    let metrics = core.raft.metrics();
    let member = metrics.borrow_watched().membership_config.get_node(&hello.raft_id).is_some();
    (replaced && !member && core.raft.is_leader())
        .then(|| format!("its store {:016x} was replaced; empty it and join again", hello.raft_id))
}

/// The dialers that are connected: of each store, how many connections each run has.
pub(crate) type Runs = BTreeMap<u64, BTreeMap<RunId, usize>>;

/// A run of the same store that is connected and is not this one. One store must not vote in two places.
fn other_run(runs: &Runs, hello: &Hello) -> Option<RunId> {
    runs.get(&hello.raft_id)?.keys().find(|run| **run != hello.run).copied()
}

/// Stands for one connection among those that are counted.
struct Present<'a> {
    core: &'a Core,
    raft_id: u64,
    run: RunId,
}

impl<'a> Present<'a> {
    fn enter(core: &'a Core, hello: &Hello) -> Self {
        *core.present().entry(hello.raft_id).or_default().entry(hello.run).or_default() += 1;
        Self { core, raft_id: hello.raft_id, run: hello.run }
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        let mut present = self.core.present();
        let Some(runs) = present.get_mut(&self.raft_id) else { return };
        if let Some(count) = runs.get_mut(&self.run) {
            *count -= 1;
        }
        runs.retain(|_, count| *count > 0);
        if runs.is_empty() {
            present.remove(&self.raft_id);
        }
    }
}

async fn answer(core: &Arc<Core>, stream: TlsStream<TcpStream>, bulk: bool) -> io::Result<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    let (sender, mut answers) = mpsc::channel::<(u64, Vec<u8>)>(AT_ONCE);
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let max = if bulk { BULK_FRAME_MAX } else { CONTROL_FRAME_MAX };
    // The other side asks something several times in a second, if only whether this one lives.
    let silent_max = if bulk { BULK_DEAD_AFTER } else { DEAD_AFTER };
    let receive = async {
        let silent = |_| io::Error::other(format!("nothing heard for {silent_max:?}"));
        while let Some((number, body)) = timeout(silent_max, read_frame(&mut from, max)).await.map_err(silent)?? {
            let request: Request = decode(&body)?;
            let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
            let (core, sender) = (Arc::clone(core), sender.clone());
            core.clone().spawn(async move {
                let response = core.serve(request).await;
                match encode(&response) {
                    // The connection may have ended meanwhile.
                    Ok(body) => drop(sender.send((number, body)).await),
                    Err(error) => tracing::error!(%error, "an answer cannot be encoded"),
                }
                drop(slot);
            });
        }
        Ok(())
    };
    let send = async {
        while let Some((number, body)) = answers.recv().await {
            write_frame(&mut to, number, &body).await?;
        }
        Ok(())
    };
    tokio::select! {
        ended = receive => ended,
        ended = send => ended,
    }
}

fn or_failed<T>(result: Result<T, impl ToString>, wrap: impl FnOnce(T) -> Response) -> Response {
    result.map_or_else(|error| Response::Failed(error.to_string()), wrap)
}

impl Core {
    fn present(&self) -> MutexGuard<'_, Runs> {
        self.present.lock().expect("no holder of this lock panics")
    }

    async fn serve(&self, request: Request) -> Response {
        match request {
            Request::Ping => Response::Pong,
            Request::Append(rpc) => or_failed(self.raft.append_entries(rpc).await, Response::Append),
            Request::Vote(rpc) => or_failed(self.raft.vote(rpc).await, Response::Vote),
            Request::PreVote(rpc) => or_failed(self.raft.pre_vote(rpc).await, Response::Vote),
            Request::TransferLeader(rpc) => {
                or_failed(self.raft.handle_transfer_leader(rpc).await, Response::TransferLeader)
            }
            Request::Snapshot { vote, meta, bytes } => {
                let snapshot = Snapshot { meta, snapshot: bytes };
                or_failed(self.raft.install_full_snapshot(vote, snapshot).await, Response::Snapshot)
            }
            Request::Ask { ask, within_ms } => {
                Response::Told(self.answer(ask, Duration::from_millis(within_ms.min(60_000))).await)
            }
            Request::Relay { to, within_ms, request } => {
                self.links.pass_on(to, request, Duration::from_millis(within_ms.min(60_000))).await
            }
        }
    }
}
