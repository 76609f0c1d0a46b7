//! All outgoing connections of a node, and the way round through a third node where one is missing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use crate::{
    link::{CallError, Dialer, Link},
    raft::Peer,
    wire::{Request, Response, decode, encode},
};

/// All outgoing connections of a node.
pub(crate) struct Links {
    pub(crate) dialer: Arc<Dialer>,
    control: Mutex<BTreeMap<u64, Arc<Link>>>,
    bulk: Mutex<BTreeMap<u64, Arc<Link>>>,
}

impl Links {
    pub(crate) fn new(dialer: Dialer) -> Self {
        Self { dialer: Arc::new(dialer), control: Mutex::default(), bulk: Mutex::default() }
    }

    fn control(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Link>>> {
        self.control.lock().expect("no holder of this lock panics")
    }

    fn get(&self, to: u64) -> Option<Arc<Link>> {
        self.control().get(&to).cloned()
    }

    /// These are the peers now: dials new ones, and those whose address changed, and forgets the others.
    pub(crate) fn learn(&self, peers: &BTreeMap<u64, Peer>) {
        let mut control = self.control();
        control.retain(|id, link| peers.get(id).is_some_and(|peer| *peer == link.peer));
        for (id, peer) in peers {
            if *id != self.dialer.raft_id && !control.contains_key(id) {
                control.insert(*id, Arc::new(Link::open(Arc::clone(&self.dialer), *id, peer.clone(), false)));
            }
        }
        drop(control);
        self.bulk.lock().expect("no holder of this lock panics").retain(|id, link| peers.get(id) == Some(&link.peer));
    }

    /// Dials `to` unless that is done already.
    pub(crate) fn ensure(&self, to: u64, peer: &Peer) {
        let mut control = self.control();
        if to != self.dialer.raft_id && control.get(&to).is_none_or(|link| link.peer != *peer) {
            control.insert(to, Arc::new(Link::open(Arc::clone(&self.dialer), to, peer.clone(), false)));
        }
    }

    /// `from` dialled this node, so it can be dialled.
    pub(crate) fn heard_from(&self, from: u64) {
        if let Some(link) = self.get(from)
            && !link.is_answering()
        {
            link.wake();
        }
    }

    /// Why `node` is not reached on a connection of its own; `None` while it is, or where nobody dials it.
    pub(crate) fn trouble(&self, node: &tandem_base::NodeName) -> Option<String> {
        let control = self.control();
        let link = control.values().find(|link| link.peer.node == *node)?;
        (!link.is_answering()).then(|| link.why())
    }

    /// Every peer, those that answer first.
    pub(crate) fn peers(&self) -> Vec<u64> {
        let control = self.control();
        let (mut answering, silent): (Vec<_>, Vec<_>) = control.iter().partition(|(_, link)| link.is_answering());
        answering.extend(silent);
        answering.into_iter().map(|(id, _)| *id).collect()
    }

    /// Whether `to` answers on its own connection.
    pub(crate) fn is_answering(&self, to: u64) -> bool {
        self.get(to).is_some_and(|link| link.is_answering())
    }

    /// Test only: drops connections to peers that were cut meanwhile.
    #[cfg(test)]
    pub(crate) fn drop_cut(&self) {
        let cut = self.dialer.cut.lock().expect("tests do not panic while they hold it").clone();
        let mut control = self.control();
        for (id, link) in control.iter_mut() {
            if cut.contains(&link.peer.node) {
                *link = Arc::new(Link::open(Arc::clone(&self.dialer), *id, link.peer.clone(), false));
            }
        }
    }

    /// Asks `to`: directly, or through another node where the direct way is broken or silent.
    pub(crate) async fn call(&self, to: u64, request: &Request, within: Duration) -> Result<Response, CallError> {
        let failed = |error: std::io::Error| CallError::NotSent(error.to_string());
        let body = encode(request).map_err(failed)?;
        let direct = self.get(to).ok_or_else(|| CallError::NotSent(format!("no peer has the store {to:016x}")))?;
        let answer = if direct.is_answering() {
            direct.call(body, within).await?
        } else {
            self.relay(to, &direct, body, within).await?
        };
        decode(&answer).map_err(|error| CallError::Lost(error.to_string()))
    }

    /// Passes on a relayed request; only directly, so that no message goes further than one node round.
    pub(crate) async fn pass_on(&self, to: u64, body: Vec<u8>, within: Duration) -> Response {
        match self.get(to) {
            Some(link) if link.is_answering() => match link.call(body, within).await {
                Ok(answer) => Response::Relayed(answer),
                Err(CallError::NotSent(why)) => Response::NoWay(why),
                Err(CallError::Lost(why)) => Response::Failed(why),
            },
            Some(link) => Response::NoWay(link.trouble()),
            None => Response::NoWay(format!("no peer has the store {to:016x}")),
        }
    }

    async fn relay(&self, to: u64, direct: &Link, body: Vec<u8>, within: Duration) -> Result<Vec<u8>, CallError> {
        let helpers: Vec<Arc<Link>> = {
            let control = self.control();
            control
                .iter()
                .filter(|(id, link)| **id != to && link.is_answering())
                .map(|(_, link)| Arc::clone(link))
                .collect()
        };
        let failed = |error: std::io::Error| CallError::NotSent(error.to_string());
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let relayed = encode(&Request::Relay { to, within_ms, request: body.clone() }).map_err(failed)?;
        let mut tried = vec![direct.trouble()];
        for helper in helpers {
            match helper.call(relayed.clone(), within).await {
                Ok(answer) => match decode(&answer) {
                    Ok(Response::Relayed(answer)) => return Ok(answer),
                    Ok(Response::NoWay(why)) => tried.push(format!("through {}: {why}", helper.peer.node)),
                    Ok(Response::Failed(why)) => {
                        return Err(CallError::Lost(format!("through {}: {why}", helper.peer.node)));
                    }
                    Ok(_) | Err(_) => return Err(CallError::Lost(format!("{} relays wrongly", helper.peer.node))),
                },
                Err(CallError::NotSent(why)) => tried.push(why),
                Err(lost) => return Err(lost),
            }
        }
        // The direct connection may only be slow: better late than never, where nobody helps.
        match direct.call(body, within).await {
            Err(CallError::NotSent(_)) => Err(CallError::NotSent(tried.join("; "))),
            other => other,
        }
    }

    /// Asks `to` on a connection of its own, where what is long delays nothing.
    pub(crate) async fn call_bulk(
        &self,
        to: u64,
        peer: &Peer,
        request: &Request,
        within: Duration,
    ) -> Result<Response, CallError> {
        let link = {
            let mut bulk = self.bulk.lock().expect("no holder of this lock panics");
            let open = || Arc::new(Link::open(Arc::clone(&self.dialer), to, peer.clone(), true));
            Arc::clone(bulk.entry(to).or_insert_with(open))
        };
        let body = encode(request).map_err(|error| CallError::NotSent(error.to_string()))?;
        let answer = link.call(body, within).await?;
        decode(&answer).map_err(|error| CallError::Lost(error.to_string()))
    }
}
