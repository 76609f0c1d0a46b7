//! The one port for peers: each connection goes where its ALPN says, before anything of it is consumed.

use super::{group::Group, node::UNPOISONED};
use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
};
use tandem_base::GroupName;
use tandem_cluster_io::{ALPN_CONTROL, ALPN_JOIN, ControlPlane, alpn};
use tokio::net::{TcpListener, TcpStream};

/// What a peer's volume server asks for is `tandem-volume/1:<group>`.
const ALPN_VOLUME: &[u8] = b"tandem-volume/1:";

/// The groups of this node, shared with whoever starts them.
pub(super) type Groups = Arc<Mutex<BTreeMap<GroupName, Arc<Group>>>>;

/// Accepts for ever.
pub(super) async fn listen(listener: TcpListener, control: ControlPlane, groups: Groups) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (control, groups) = (control.clone(), Arc::clone(&groups));
                tokio::spawn(async move {
                    if let Err(why) = route(stream, &control, &groups).await {
                        tracing::info!(%peer, why, "connection refused");
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

async fn route(stream: TcpStream, control: &ControlPlane, groups: &Groups) -> Result<(), String> {
    let protocols = alpn::peek(&stream).await.map_err(|error| error.to_string())?;
    for protocol in &protocols {
        if protocol == ALPN_CONTROL {
            control.accept(stream);
            return Ok(());
        }
        if protocol == ALPN_JOIN {
            control.accept_join(stream);
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
