//! Gives a host its network: a TAP device with a fixed Ethernet address, its own addresses, and everything on link.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};

use futures_util::TryStreamExt;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, new_connection};
use rustix::{
    fs::{Mode, OFlags, open},
    process::Pid,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{LabError, error::Doing, tap};

/// The one network device of every host.
const DEVICE: &str = "eth0";

/// Makes the network of the host whose first process is `pid`, and returns the switch's end of its cable.
///
/// Addresses have no prefix and the default route is on link, so that a host asks with ARP or neighbour discovery for
/// every address: a service address works at any site and moves by its announcement alone.
pub(crate) fn connect(pid: Pid, mac: [u8; 6], addresses: &[IpAddr]) -> Result<OwnedFd, LabError> {
    // A thread of its own, as the namespace is a thread's; it ends right after.
    std::thread::scope(|scope| {
        scope
            .spawn(|| connect_here(pid, mac, addresses))
            .join()
            .unwrap_or_else(|_| Err(LabError::Refused("setting a host's network up ended in a panic".into())))
    })
}

fn connect_here(pid: Pid, mac: [u8; 6], addresses: &[IpAddr]) -> Result<OwnedFd, LabError> {
    let path = format!("/proc/{}/ns/net", pid.as_raw_nonzero());
    let namespace = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).doing(format!("open {path}"))?;
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network))
        .doing("enter a host's network namespace")?;
    // Nobody else can have an address that the plan gives to one host, so that the test for duplicates would only
    // keep IPv6 addresses unusable for a second. A kernel without IPv6 lacks the file.
    for device in ["all", "default"] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/accept_dad"), "0");
    }
    let tap = tap::create(DEVICE)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build().doing("start a runtime for netlink")?.block_on(
        async {
            let (connection, handle, _) = new_connection().doing("open a netlink socket")?;
            tokio::spawn(connection);
            configure(&handle, mac, addresses).await
        },
    )?;
    Ok(tap)
}

/// In the calling process's network: whatever anybody announces, `address` is at `mac`.
pub(crate) fn pin(address: IpAddr, mac: [u8; 6]) -> Result<(), LabError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().doing("start a runtime for netlink")?.block_on(
        async {
            let (connection, handle, _) = new_connection().doing("open a netlink socket")?;
            tokio::spawn(connection);
            let device = index(&handle, DEVICE).await?;
            // Permanent by default (rtnetlink's `NeighbourAddRequest`): no announcement changes it.
            let request = handle.neighbours().add(device, address).link_layer_address(&mac).replace();
            netlink(request.execute().await, || format!("pin {address}"))
        },
    )
}

async fn configure(handle: &Handle, mac: [u8; 6], addresses: &[IpAddr]) -> Result<(), LabError> {
    let lo = index(handle, "lo").await?;
    up(handle, lo, None).await?;
    let device = index(handle, DEVICE).await?;
    up(handle, device, Some(mac)).await?;
    for address in addresses {
        let length = if address.is_ipv4() { 32 } else { 128 };
        netlink(handle.address().add(device, *address, length).execute().await, || {
            format!("add the address {address}")
        })?;
    }
    let route = |family: &'static str| move || format!("add the {family} default route");
    if addresses.iter().any(IpAddr::is_ipv4) {
        let message = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(device).scope(LINK_SCOPE).build();
        netlink(handle.route().add(message).execute().await, route("IPv4"))?;
    }
    if addresses.iter().any(IpAddr::is_ipv6) {
        let message = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(device).build();
        netlink(handle.route().add(message).execute().await, route("IPv6"))?;
    }
    Ok(())
}

/// A route without gateway (rtnetlink(7)).
const LINK_SCOPE: rtnetlink::packet_route::route::RouteScope = rtnetlink::packet_route::route::RouteScope::Link;

async fn index(handle: &Handle, name: &str) -> Result<u32, LabError> {
    let found = handle.link().get().match_name(name).execute().try_next().await;
    let link = netlink(found, || format!("find the device {name}"))?;
    link.map(|link| link.header.index).ok_or_else(|| LabError::Refused(format!("the device {name} is missing")))
}

async fn up(handle: &Handle, index: u32, mac: Option<[u8; 6]>) -> Result<(), LabError> {
    let mut message = LinkUnspec::new_with_index(index).up();
    if let Some(mac) = mac {
        message = message.address(mac.to_vec());
    }
    netlink(handle.link().set(message.build()).execute().await, || format!("bring device {index} up"))
}

fn netlink<T>(result: Result<T, rtnetlink::Error>, doing: impl FnOnce() -> String) -> Result<T, LabError> {
    result.map_err(|cause| LabError::System { doing: doing(), cause: std::io::Error::other(cause) })
}
