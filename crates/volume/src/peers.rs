//! Connections to the other replicas, from hello to lost.

use alloc::{format, string::String, vec::Vec};
use tandem_base::{Epoch, Instant, NodeName, OpenId};

use crate::{
    ConnectionId, Event, Message, Output, Replica, VERSION, message::Hello, meta::Chapter, primary::resync::Resync,
    wire::SPANS_MAX,
};

/// Another replica.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) node: NodeName,
    pub(crate) link: Option<Link>,
    /// When it was last heard.
    pub(crate) heard: Instant,
    /// The run that said its disk failed, and how.
    pub(crate) failed: Option<(OpenId, String)>,
    /// It is being brought in sync by this primary.
    pub(crate) resync: Option<Resync>,
    /// No resync begins before this: after a stall the next try comes later.
    pub(crate) resync_after: Instant,
    /// Resyncs in a row that stalled.
    pub(crate) stalls: u32,
}

/// The newest connection to a peer.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: ConnectionId,
    /// The peer's run, once it said hello.
    pub(crate) open: Option<OpenId>,
    /// The promotion that this primary asked it to follow here.
    pub(crate) led: Option<Epoch>,
    /// The promotion that it promised to follow here.
    pub(crate) following: Option<Epoch>,
    /// The history that it told with that.
    pub(crate) history: Vec<Chapter>,
    /// Everything that it received of that promotion up to here is durable there.
    pub(crate) durable: u64,
    /// When it was last pinged, and with which watermark.
    pub(crate) pinged: (Instant, u64),
}

impl Peer {
    pub(crate) fn new(node: NodeName, now: Instant) -> Self {
        Self { node, link: None, heard: now, failed: None, resync: None, resync_after: now, stalls: 0 }
    }

    /// Its run, while connected.
    pub(crate) fn open(&self) -> Option<OpenId> {
        self.link.as_ref().and_then(|link| link.open)
    }

    /// Whether it promised on this connection to follow `promotion`.
    pub(crate) fn follows(&self, promotion: Epoch) -> bool {
        self.link.as_ref().is_some_and(|link| link.following == Some(promotion))
    }
}

impl Replica {
    pub(crate) fn peer_index(&self, node: &NodeName) -> Option<usize> {
        self.peers.binary_search_by(|peer| peer.node.cmp(node)).ok()
    }

    pub(crate) fn send(&mut self, peer: usize, message: Message) {
        let peer = &self.peers[peer];
        if let Some(link) = &peer.link {
            let (peer, connection) = (peer.node.clone(), link.connection);
            self.outputs.push_back(Output::Send { peer, connection, message });
        }
    }

    pub(crate) fn peer_connected(&mut self, node: NodeName, connection: ConnectionId) {
        let Some(index) = self.peer_index(&node) else {
            let why = format!("{node} holds no replica of this group");
            self.outputs.push_back(Output::Disconnect { peer: node, connection, why });
            return;
        };
        if let Some(old) = self.peers[index].link.as_ref().map(|link| link.connection) {
            if old == connection {
                return;
            }
            let why = String::from("replaced by a later connection");
            self.outputs.push_back(Output::Disconnect { peer: node, connection: old, why });
            self.link_gone(index);
        }
        let (open, led, following, history) = (None, None, None, Vec::new());
        let link = Link { connection, open, led, following, history, durable: 0, pinged: (self.now, 0) };
        self.peers[index].link = Some(link);
        if self.opened {
            self.say_hello(index);
        }
    }

    /// Said only once this run is durable: a peer must not learn of a run that may never have been.
    pub(crate) fn say_hello(&mut self, peer: usize) {
        let hello = Hello {
            version: VERSION,
            cluster: self.config.cluster,
            generation: self.config.generation,
            group: self.config.group.clone(),
            node: self.config.node.clone(),
            open: self.open,
            promised: self.promised,
            volumes: self.config.volumes.clone(),
        };
        self.send(peer, Message::Hello(hello));
        if let Some(why) = self.failed.clone() {
            self.send(peer, Message::Failed { why });
        }
    }

    pub(crate) fn peer_lost(&mut self, node: &NodeName, connection: ConnectionId) {
        if let Some(index) = self.peer_index(node)
            && self.peers[index].link.as_ref().is_some_and(|link| link.connection == connection)
        {
            self.link_gone(index);
        }
    }

    /// Ends a connection because the peer broke a rule.
    pub(crate) fn refuse(&mut self, peer: usize, why: String) {
        let node = self.peers[peer].node.clone();
        self.outputs.push_back(Output::Note(Event::PeerRefused { node, why: why.clone() }));
        self.disconnect(peer, why);
    }

    pub(crate) fn disconnect(&mut self, peer: usize, why: String) {
        if let Some(link) = &self.peers[peer].link {
            let (connection, peer) = (link.connection, self.peers[peer].node.clone());
            self.outputs.push_back(Output::Disconnect { peer, connection, why });
        }
        self.link_gone(peer);
    }

    fn link_gone(&mut self, peer: usize) {
        self.peers[peer].link = None;
        if self.follower.leader.is_some_and(|(leader, _)| leader == peer) {
            self.follower.leader = None;
        }
        self.joiner_lost(peer);
    }

    pub(crate) fn peer_said(&mut self, node: &NodeName, connection: ConnectionId, message: Message) {
        let Some(peer) = self.peer_index(node) else { return };
        let Some(link) = &self.peers[peer].link else { return };
        if link.connection != connection {
            return;
        }
        let greeted = link.open.is_some();
        self.peers[peer].heard = self.now;
        match message {
            Message::Hello(hello) if !greeted => self.greeted(peer, hello),
            Message::Hello(_) => self.refuse(peer, "a second hello".into()),
            _ if !greeted => self.refuse(peer, "a message before hello".into()),
            // This replica has not said hello itself: nobody can have anything to ask of it.
            _ if !self.opened => self.refuse(peer, "a message before this side's hello".into()),
            // To a follower.
            Message::Lead { promotion } => self.lead_asked(peer, promotion),
            Message::Write(write) => self.write_received(peer, write),
            Message::Flush { promotion, flush, committed } => self.flush_asked(peer, promotion, flush, committed),
            Message::Compare { promotion, chunk, span, written } => {
                self.hashes_asked(peer, promotion, chunk, span, written);
            }
            Message::Fork { promotion, after } => self.fork_told(peer, promotion, after),
            Message::Settled { promotion, history } => self.settled_told(peer, promotion, history),
            Message::Ping { promotion, committed } => {
                if self.follows(peer, promotion) {
                    self.unsettled.settle(promotion, committed);
                }
                self.send(peer, Message::Pong);
            }
            // To a primary.
            Message::Promised { promotion, unsettled, .. } if unsettled.len() > SPANS_MAX => {
                self.refuse(peer, format!("{} unsettled ranges in {promotion}", unsettled.len()));
            }
            Message::Promised { promotion, unsettled, history } => {
                self.peer_promised(peer, promotion, unsettled, history);
            }
            Message::Changed { spans, .. } if spans.len() > SPANS_MAX => {
                self.refuse(peer, format!("{} changed ranges at once", spans.len()));
            }
            Message::Changed { promotion, spans, last } => self.peer_changed(peer, promotion, &spans, last),
            Message::Stored { promotion, sequence } => self.peer_stored(peer, promotion, sequence),
            Message::Flushed { promotion, flush } => self.peer_flushed(peer, promotion, flush),
            Message::Durable { promotion, sequence } => self.peer_durable(peer, promotion, sequence),
            Message::Hashes { promotion, chunk, hashes } => self.peer_hashed(peer, promotion, chunk, hashes),
            Message::Adopted { promotion } => self.peer_adopted(peer, promotion),
            Message::Failed { why } => self.peer_failed(peer, why),
            // The register will say so too; until then this primary simply gets no acknowledgement.
            Message::NotYours { .. } | Message::Pong => {}
        }
    }

    fn greeted(&mut self, peer: usize, hello: Hello) {
        let config = &self.config;
        let wrong = if hello.version != VERSION {
            Some(format!("it speaks version {} and this replica {VERSION}", hello.version))
        } else if hello.cluster != config.cluster {
            Some(format!("it belongs to cluster {} and this replica to {}", hello.cluster, config.cluster))
        } else if hello.generation != config.generation {
            let (there, here) = (hello.generation, config.generation);
            Some(format!("it is of generation {there} of the cluster and this replica of {here}"))
        } else if hello.group != config.group {
            Some(format!("it serves group {} and this replica {}", hello.group, config.group))
        } else if hello.node != self.peers[peer].node {
            Some(format!("it calls itself {}, its certificate says {}", hello.node, self.peers[peer].node))
        } else if hello.volumes != config.volumes {
            Some(format!("its volumes differ: {:?} there, {:?} here", hello.volumes, config.volumes))
        } else {
            None
        };
        if let Some(why) = wrong {
            self.refuse(peer, why);
            return;
        }
        let other = &mut self.peers[peer];
        if other.failed.as_ref().is_some_and(|(open, _)| *open != hello.open) {
            other.failed = None;
        }
        if let Some(link) = &mut other.link {
            link.open = Some(hello.open);
        }
        self.lead(peer);
    }

    fn peer_failed(&mut self, peer: usize, why: String) {
        if let Some(open) = self.peers[peer].open() {
            self.peers[peer].failed = Some((open, why.clone()));
            self.abandon_resync(peer, &format!("its disk failed: {why}"));
            self.look_at_members();
        }
    }
}
