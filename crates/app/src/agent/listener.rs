//! The one port for peers: each connection goes where its ALPN says, before anything of it is consumed.

use super::{group::Group, node::UNPOISONED, now_and_then::NowAndThen};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    time::Duration,
};
use tandem_base::GroupName;
use tandem_cluster_io::{ALPN_CONTROL, ALPN_JOIN, ControlPlane, alpn};
use tokio::net::{TcpListener, TcpStream};

/// What a peer's volume server asks for is `tandem-volume/1:<group>`.
const ALPN_VOLUME: &[u8] = b"tandem-volume/1:";

/// The groups of this node, shared with whoever starts them.
pub(super) type Groups = Arc<Mutex<BTreeMap<GroupName, Arc<Group>>>>;

/// Connections at once that have not said who they are, of one address and of all: each may take some seconds to say it.
const STRANGERS_MAX: [usize; 2] = [64, 1024];
/// Between two lines about connections that were refused.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// How many connections of each address have not said who they are.
type Entrances = Arc<Mutex<BTreeMap<IpAddr, usize>>>;

/// A place among those who have not said who they are.
struct Entrance {
    entrances: Entrances,
    address: IpAddr,
}

impl Entrance {
    /// `None` where too many wait already.
    fn take(entrances: &Entrances, address: IpAddr) -> Option<Self> {
        let mut waiting = entrances.lock().expect(UNPOISONED);
        let [of_one, of_all] = STRANGERS_MAX;
        if waiting.values().sum::<usize>() >= of_all || waiting.get(&address).is_some_and(|count| *count >= of_one) {
            return None;
        }
        *waiting.entry(address).or_default() += 1;
        Some(Self { entrances: Arc::clone(entrances), address })
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        let mut waiting = self.entrances.lock().expect(UNPOISONED);
        if let Some(count) = waiting.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.address);
            }
        }
    }
}

/// Tells of refused connections.
struct Refusals(Mutex<NowAndThen>);

impl Refusals {
    fn tell(&self, peer: SocketAddr, why: &str) {
        if let Some(more) = self.0.lock().expect(UNPOISONED).due() {
            tracing::info!(%peer, why, more, "connection refused");
        }
    }
}

/// Accepts for ever.
pub(super) async fn listen(listener: TcpListener, control: ControlPlane, groups: Groups) {
    let (entrances, refusals) = (Entrances::default(), Arc::new(Refusals(Mutex::new(NowAndThen::new(TELL_AGAIN)))));
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(entrance) = Entrance::take(&entrances, peer.ip()) else {
                    let why = "too many connections of this address have not said who they are";
                    refusals.tell(peer, why);
                    continue;
                };
                let (control, groups, refusals) = (control.clone(), Arc::clone(&groups), Arc::clone(&refusals));
                tokio::spawn(async move {
                    if let Err(why) = route(stream, &control, &groups, entrance).await {
                        refusals.tell(peer, &why);
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: others end meanwhile.
                tracing::warn!(%error, "cannot accept a peer");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn route(stream: TcpStream, control: &ControlPlane, groups: &Groups, entrance: Entrance) -> Result<(), String> {
    let protocols = alpn::peek(&stream).await.map_err(|error| error.to_string())?;
    for protocol in &protocols {
        if protocol == ALPN_CONTROL {
            control.accept(stream, entrance);
            return Ok(());
        }
        if protocol == ALPN_JOIN {
            control.accept_join(stream, entrance);
            return Ok(());
        }
        if let Some(group) = protocol.strip_prefix(ALPN_VOLUME) {
            let group = std::str::from_utf8(group).ok().and_then(|name| GroupName::new(name).ok());
            let group = group.ok_or("it asks for a group by something that is no name")?;
            let handle = groups.lock().expect(UNPOISONED).get(&group).cloned();
            let handle = handle.ok_or_else(|| format!("this node has no replica of group {group}"))?;
            let stream = stream.into_std().map_err(|error| error.to_string())?;
            handle.give_peer_socket(OwnedFd::from(stream));
            return Ok(());
        }
    }
    Err("it speaks no protocol of ours".into())
}
