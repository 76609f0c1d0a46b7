//! All connections to peers: calling, accepting, proving, ending.

use std::{
    collections::{BTreeMap, HashMap},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
};
use tandem_base::{Duration, Instant, NodeName};
use tandem_volume::{ConnectionId, Input, Message};

use super::poller::{Poller, Token};
use crate::{
    control::{FromServer, NoteKind},
    peer::{Dialer, Dialing, Identity, Link, LinkError},
};

/// How long a TLS handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Connections that have not proved who they are; for one more the oldest is closed.
const UNKNOWN_MAX: usize = 16;
/// Bytes read from a peer at once.
const READ_BYTES: usize = 256 << 10;

/// What the event loop has to know.
#[derive(Default)]
pub(super) struct News {
    pub(super) inputs: Vec<Input>,
    pub(super) notes: Vec<FromServer>,
}

/// The connections to the group's other replicas.
pub(super) struct Peers {
    node: NodeName,
    identity: Identity,
    links: HashMap<u64, Link>,
    /// By the place in this list, which never shrinks while the server runs.
    dialers: Vec<(NodeName, Dialer)>,
    /// Everybody who may connect.
    known: BTreeMap<NodeName, SocketAddr>,
    current: BTreeMap<NodeName, u64>,
    problems: BTreeMap<NodeName, String>,
    next: u64,
    scratch: Vec<u8>,
}

impl Peers {
    pub(super) fn new(node: NodeName, identity: Identity) -> Self {
        Self {
            node,
            identity,
            links: HashMap::new(),
            dialers: Vec::new(),
            known: BTreeMap::new(),
            current: BTreeMap::new(),
            problems: BTreeMap::new(),
            next: 0,
            scratch: vec![0; READ_BYTES],
        }
    }

    /// Where the peers listen now. Of a pair, the node whose name sorts first calls.
    pub(super) fn set(&mut self, peers: BTreeMap<NodeName, SocketAddr>) {
        self.dialers.iter_mut().for_each(|(name, dialer)| {
            if let Some(address) = peers.get(name) {
                dialer.address = *address;
            }
        });
        for (name, address) in peers.iter().filter(|(name, _)| self.node < **name) {
            if !self.dialers.iter().any(|(known, _)| known == name) {
                self.dialers.push((name.clone(), Dialer::new(*address)));
            }
        }
        self.known = peers;
        self.known.remove(&self.node);
    }

    /// The agent hands over a connection that asks for this group.
    pub(super) fn accept(&mut self, socket: OwnedFd, poller: &Poller, now: Instant) -> Option<FromServer> {
        // Who has been silent for the longest goes: a peer that comes proves itself at once.
        let unknown = || self.links.iter().filter(|(_, link)| link.peer.is_none() && link.called.is_none());
        if unknown().count() >= UNKNOWN_MAX
            && let Some(oldest) =
                unknown().min_by_key(|(number, link)| (link.since, **number)).map(|(number, _)| *number)
        {
            self.links.remove(&oldest);
        }
        let link = self
            .identity
            .accept()
            .map_err(|error| error.to_string())
            .and_then(|tls| Link::new(TcpStream::from(socket), tls, None, now).map_err(|error| error.to_string()));
        match link.and_then(|link| self.add(link, poller)) {
            Ok(()) => None,
            Err(why) => Some(refused(None, why)),
        }
    }

    fn add(&mut self, link: Link, poller: &Poller) -> Result<(), String> {
        let number = self.next;
        self.next += 1;
        poller.add(&link, Token::Peer(number), true, false).map_err(|error| error.to_string())?;
        self.links.insert(number, link);
        Ok(())
    }

    /// Calls whoever is due, gives up what takes too long.
    pub(super) fn tick(&mut self, poller: &Poller, now: Instant) -> News {
        let mut news = News::default();
        for (place, (name, dialer)) in self.dialers.iter_mut().enumerate() {
            if !self.known.contains_key(name) || dialer.due().is_none_or(|due| now < due) {
                continue;
            }
            let failed = match &dialer.state {
                Dialing::Ringing(..) => Some("no answer".into()),
                _ => match dialer.dial(now) {
                    Ok(socket) => poller
                        .add(socket, Token::Dialer(place as u64), false, true)
                        .err()
                        .map(|error| error.to_string()),
                    Err(error) => Some(error.to_string()),
                },
            };
            if let Some(why) = failed {
                dialer.failed(now, format!("{}: {why}", dialer.address));
            }
        }
        let late: Vec<_> = self
            .links
            .iter()
            .filter(|(_, link)| link.peer.is_none() && now >= link.since + HANDSHAKE_MAX)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            self.end(number, "the TLS handshake took too long".into(), now, &mut news);
        }
        news
    }

    /// When [`Peers::tick`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        let calls = self
            .dialers
            .iter()
            .filter(|(name, _)| self.known.contains_key(name))
            .filter_map(|(_, dialer)| dialer.due());
        let handshakes = self.links.values().filter(|link| link.peer.is_none()).map(|link| link.since + HANDSHAKE_MAX);
        calls.chain(handshakes).min()
    }

    /// A call was answered or refused.
    pub(super) fn answered(&mut self, place: u64, poller: &Poller, now: Instant) {
        let Some((name, dialer)) = self.dialers.get_mut(place as usize) else { return };
        let (name, address) = (name.clone(), dialer.address);
        let Some(answer) = dialer.answered() else { return };
        let link = answer.map_err(|error| error.to_string()).and_then(|socket| {
            let tls = self.identity.connect(&name).map_err(|error| error.to_string())?;
            // It was watched for the call; the link watches it anew under its own name.
            poller.remove(&socket).map_err(|error| error.to_string())?;
            Link::new(socket, tls, Some(name.clone()), now).map_err(|error| error.to_string())
        });
        if let Err(why) = link.and_then(|link| self.add(link, poller))
            && let Some((_, dialer)) = self.dialers.get_mut(place as usize)
        {
            dialer.failed(now, format!("{address}: {why}"));
        }
    }

    /// Reads from a connection.
    pub(super) fn receive(&mut self, number: u64, now: Instant) -> News {
        let mut news = News::default();
        let Some(link) = self.links.get_mut(&number) else { return news };
        if let Err(error) = link.receive(&mut self.scratch) {
            // An alert that says why may be ready to go.
            let _ = link.flush();
            self.end(number, words(&error), now, &mut news);
            return news;
        }
        if link.peer.is_none() && !link.tls.is_handshaking() {
            match self.prove(number) {
                Ok(name) => self.connected(number, name, now, &mut news),
                Err(why) => {
                    self.end(number, why, now, &mut news);
                    return news;
                }
            }
        }
        let Some(link) = self.links.get_mut(&number) else { return news };
        let Some(peer) = link.peer.clone() else { return news };
        loop {
            match link.next_message() {
                Ok(Some(message)) => {
                    news.inputs.push(Input::PeerSaid { peer: peer.clone(), connection: ConnectionId(number), message })
                }
                Ok(None) => return news,
                Err(error) => {
                    self.end(number, words(&error), now, &mut news);
                    return news;
                }
            }
        }
    }

    fn prove(&self, number: u64) -> Result<NodeName, String> {
        let link = &self.links[&number];
        let name = self.identity.peer(&link.tls)?;
        match &link.called {
            Some(called) if *called != name => Err(format!("`{called}` was called and `{name}` answered")),
            _ if !self.known.contains_key(&name) => Err(format!("`{name}` holds no replica of this group")),
            None if self.node < name => Err(format!("`{name}` called, but it is this node that calls")),
            _ => Ok(name),
        }
    }

    fn connected(&mut self, number: u64, name: NodeName, now: Instant, news: &mut News) {
        if let Some(older) = self.current.get(&name).copied() {
            self.end(older, "a newer connection replaces it".into(), now, news);
        }
        if let Some((_, dialer)) = self.dialers.iter_mut().find(|(peer, _)| *peer == name) {
            dialer.state = Dialing::Connected;
            dialer.succeeded();
        }
        self.problems.remove(&name);
        self.current.insert(name.clone(), number);
        if let Some(link) = self.links.get_mut(&number) {
            link.peer = Some(name.clone());
        }
        news.notes.push(FromServer::Note {
            kind: NoteKind::PeerConnected,
            node: Some(name.clone()),
            text: format!("connected to `{name}`"),
        });
        news.inputs.push(Input::PeerConnected { peer: name, connection: ConnectionId(number) });
    }

    /// Ends a connection, whatever the reason.
    pub(super) fn end(&mut self, number: u64, why: String, now: Instant, news: &mut News) {
        let Some(link) = self.links.remove(&number) else { return };
        if let Some(name) = &link.called {
            if self.current.get(name).is_none_or(|current| *current == number)
                && let Some((_, dialer)) = self.dialers.iter_mut().find(|(peer, _)| peer == name)
            {
                // A peer that is away is called once a second; that is said once.
                if dialer.problem.is_none() && link.peer.is_none() {
                    news.notes.push(refused(Some(name.clone()), why.clone()));
                }
                dialer.failed(now, why.clone());
            }
        } else if link.peer.is_none() {
            news.notes.push(refused(None, format!("{}: {why}", link.from)));
        }
        let Some(peer) = link.peer else { return };
        if self.current.get(&peer) == Some(&number) {
            self.current.remove(&peer);
            self.problems.insert(peer.clone(), why.clone());
        }
        news.notes.push(FromServer::Note {
            kind: NoteKind::PeerLost,
            node: Some(peer.clone()),
            text: format!("the connection to `{peer}` ended: {why}"),
        });
        news.inputs.push(Input::PeerLost { peer, connection: ConnectionId(number) });
    }

    /// Queues a message; a connection that is gone swallows it.
    pub(super) fn send(&mut self, connection: ConnectionId, message: &Message, now: Instant) -> News {
        let mut news = News::default();
        if let Some(link) = self.links.get_mut(&connection.0)
            && let Err(error) = link.queue(message)
        {
            self.end(connection.0, words(&error), now, &mut news);
        }
        news
    }

    /// Sends what the sockets take.
    pub(super) fn flush(&mut self, poller: &Poller, now: Instant) -> News {
        let mut news = News::default();
        let mut failed = Vec::new();
        for (number, link) in &mut self.links {
            let mut result = if link.has_output() { link.flush() } else { Ok(()) };
            if link.blocked != link.watched {
                let changed = poller.change(&*link, Token::Peer(*number), true, link.blocked);
                link.watched = link.blocked;
                result = result.and(changed.map_err(LinkError::from));
            }
            if let Err(error) = result {
                failed.push((*number, words(&error)));
            }
        }
        for (number, why) in failed {
            self.end(number, why, now, &mut news);
        }
        news
    }

    /// Whether an authenticated connection to `node` stands, and why not.
    pub(super) fn state(&self, node: &NodeName) -> (bool, Option<String>) {
        if self.current.contains_key(node) {
            return (true, None);
        }
        let dialer = self.dialers.iter().find(|(name, _)| name == node).and_then(|(_, dialer)| dialer.problem.clone());
        (false, dialer.or_else(|| self.problems.get(node).cloned()))
    }
}

fn refused(node: Option<NodeName>, why: String) -> FromServer {
    FromServer::Note { kind: NoteKind::PeerRefused, node, text: why }
}

fn words(error: &LinkError) -> String {
    error.to_string()
}
