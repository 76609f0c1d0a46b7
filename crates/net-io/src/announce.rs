//! Telling the neighbours where an address is now.

use core::time::Duration;

use crate::{
    Installed, NetError, Network,
    frame::announcements,
    packet_socket::{PacketSocket, Receive},
};

/// When an announcement is repeated, in milliseconds after the first: a switch or a neighbour that was just starting,
/// or lost a frame, hears a later one.
pub const ANNOUNCE_AFTER_MS: [u64; 5] = [0, 100, 300, 1_000, 3_000];

impl Network {
    /// Announces an address that was just installed, thawed, restored or claimed by another: gratuitous ARP in both
    /// forms for IPv4, unsolicited neighbour advertisements for IPv6.
    ///
    /// Returns after the first frames left; the repetitions follow in the background, each only if the address is
    /// still on the interface then, so that a node never announces what it lost. An interface without a hardware
    /// address has no neighbours to tell.
    ///
    /// # Errors
    ///
    /// [`NetError::Packet`] if the first frames could not be sent.
    pub async fn announce(&self, installed: &Installed) -> Result<(), NetError> {
        let Some(mac) = installed.interface.mac.filter(|_| !installed.interface.loopback) else { return Ok(()) };
        let socket = PacketSocket::open(&installed.interface, Receive::Nothing)?;
        let frames = announcements(installed.cidr.address(), mac);
        for frame in &frames {
            socket.send(frame).await?;
        }
        let (network, installed) = (self.clone(), installed.clone());
        tokio::spawn(async move {
            let mut passed = 0;
            for after in &ANNOUNCE_AFTER_MS[1..] {
                tokio::time::sleep(Duration::from_millis(after - passed)).await;
                passed = *after;
                let repeated = async {
                    if network.present(&installed).await? {
                        for frame in &frames {
                            socket.send(frame).await?;
                        }
                    }
                    Ok::<(), NetError>(())
                };
                if let Err(error) = repeated.await {
                    tracing::warn!(address = %installed.cidr, error = &error as &dyn std::error::Error, "an announcement was not repeated");
                }
            }
        });
        Ok(())
    }
}
