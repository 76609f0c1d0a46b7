//! Noticing that another machine claims an address of ours.

use crate::{
    Installed, MacAddress, NetError, Network,
    frame::claimant,
    packet_socket::{PacketSocket, Receive},
};

/// Another machine said that the address is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Its hardware address.
    pub mac: MacAddress,
}

/// Listens for claims on one address; ends when dropped.
#[derive(Debug)]
pub struct ClaimWatch {
    socket: PacketSocket,
    installed: Installed,
}

impl Network {
    /// Starts to listen for other machines that claim `installed`.
    ///
    /// # Errors
    ///
    /// [`NetError::Packet`].
    pub fn watch_claims(&self, installed: &Installed) -> Result<ClaimWatch, NetError> {
        let receive = if installed.cidr.address().is_ipv4() { Receive::Arp } else { Receive::NeighbourAdvertisements };
        Ok(ClaimWatch { socket: PacketSocket::open(&installed.interface, receive)?, installed: installed.clone() })
    }
}

impl ClaimWatch {
    /// The next claim: an ARP packet or a neighbour advertisement that names the address with a hardware address that
    /// is not ours. While we hold the lease, answer with [`Network::announce`] and tell the operator. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`NetError::Packet`], also when the interface goes down.
    pub async fn next(&mut self) -> Result<Claim, NetError> {
        let mut buffer = [0; 256];
        loop {
            let frame = self.socket.receive(&mut buffer).await?;
            if let Some(mac) = claimant(frame, self.installed.cidr.address())
                && Some(mac) != self.installed.interface.mac
            {
                return Ok(Claim { mac });
            }
        }
    }
}
