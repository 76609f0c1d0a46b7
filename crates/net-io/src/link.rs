//! Interfaces, and what a fresh network namespace needs before it can be used.

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        address::AddressAttribute,
        link::{LinkAttribute, LinkFlags, LinkMessage},
        route::{RouteAttribute, RouteScope},
    },
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Cidr, MacAddress, NetError};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// As in `ip link`.
    pub name: String,
    /// The kernel's number for it.
    pub index: u32,
    /// Its hardware address; `None` on one without, such as a tunnel.
    pub mac: Option<MacAddress>,
    /// Whether it was set up.
    pub up: bool,
    /// Whether it is the loopback.
    pub loopback: bool,
}

/// The kernel's network configuration in one network namespace, by rtnetlink. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {
    pub(crate) handle: Handle,
}

impl Network {
    /// Opens the network namespace of the calling thread. Must be called inside a tokio runtime, which then carries
    /// the netlink connection.
    ///
    /// # Errors
    ///
    /// [`NetError::Open`].
    pub fn open() -> Result<Self, NetError> {
        let (connection, handle, _messages) = rtnetlink::new_connection().map_err(NetError::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Every interface, in the kernel's order.
    ///
    /// # Errors
    ///
    /// [`NetError::Refused`].
    pub async fn interfaces(&self) -> Result<Vec<Interface>, NetError> {
        let links: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|cause| refused("list interfaces", cause))?;
        Ok(links.iter().map(interface).collect())
    }

    /// The interface called `name`.
    ///
    /// # Errors
    ///
    /// [`NetError::NoSuchInterface`], [`NetError::Refused`].
    pub async fn interface(&self, name: &str) -> Result<Interface, NetError> {
        let mut all = self.interfaces().await?;
        let found = all.iter().position(|one| one.name == name);
        found.map(|index| all.swap_remove(index)).ok_or_else(|| NetError::NoSuchInterface(name.into()))
    }

    /// The interface that `address` belongs on: the one that has its network, else the one of the default route, else
    /// the first that is up and not the loopback.
    ///
    /// # Errors
    ///
    /// [`NetError::NoInterfaceFor`], [`NetError::Refused`].
    pub async fn interface_for(&self, address: IpAddr) -> Result<Interface, NetError> {
        let all = self.interfaces().await?;
        let usable = |index: u32| all.iter().find(|one| one.index == index && !one.loopback).cloned();
        for (index, cidr) in self.addresses().await? {
            if cidr.contains(address)
                && cidr.prefix() > 0
                && let Some(found) = usable(index)
            {
                return Ok(found);
            }
        }
        if let Some(found) = self.default_route(address).await?.and_then(usable) {
            return Ok(found);
        }
        let up = all.into_iter().find(|one| one.up && !one.loopback && one.mac.is_some());
        up.ok_or(NetError::NoInterfaceFor(address))
    }

    /// Sets `lo` up.
    ///
    /// # Errors
    ///
    /// As [`Network::set_link_up`].
    pub async fn set_up_loopback(&self) -> Result<(), NetError> {
        self.set_link_up("lo").await
    }

    /// Sets an interface up.
    ///
    /// # Errors
    ///
    /// [`NetError::NoSuchInterface`], [`NetError::Refused`].
    pub async fn set_link_up(&self, name: &str) -> Result<(), NetError> {
        let index = self.interface(name).await?.index;
        let up = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(up).execute().await.map_err(|cause| refused(&format!("set `{name}` up"), cause))
    }

    /// Gives an interface an address for good. An address that is there already is no error.
    ///
    /// # Errors
    ///
    /// [`NetError::NoSuchInterface`], [`NetError::Refused`].
    pub async fn add_address(&self, name: &str, cidr: Cidr) -> Result<(), NetError> {
        let index = self.interface(name).await?.index;
        let request = self.handle.address().add(index, cidr.address(), cidr.prefix()).replace();
        request.execute().await.map_err(|cause| refused(&format!("add {cidr} to `{name}`"), cause))
    }

    /// Sends everything without a better route out of an interface: to `gateway` if given, taken as reachable there
    /// whatever the addresses say (`onlink`), else straight to neighbours, who are asked for by ARP.
    ///
    /// # Errors
    ///
    /// [`NetError::NoSuchInterface`], [`NetError::Refused`].
    pub async fn add_onlink_default_route(&self, name: &str, gateway: Option<IpAddr>) -> Result<(), NetError> {
        let index = self.interface(name).await?.index;
        let message = match gateway {
            Some(IpAddr::V4(gateway)) => {
                RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).onlink().output_interface(index).build()
            }
            Some(IpAddr::V6(gateway)) => {
                RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).onlink().output_interface(index).build()
            }
            None => RouteMessageBuilder::<Ipv4Addr>::new().scope(RouteScope::Link).output_interface(index).build(),
        };
        let request = self.handle.route().add(message).replace();
        request.execute().await.map_err(|cause| refused(&format!("route everything out of `{name}`"), cause))
    }

    /// Every address with the index of its interface.
    pub(crate) async fn addresses(&self) -> Result<Vec<(u32, Cidr)>, NetError> {
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|cause| refused("list addresses", cause))?;
        Ok(messages
            .iter()
            .filter_map(|message| {
                // On a point-to-point link IFA_ADDRESS is the peer and IFA_LOCAL is ours; elsewhere they are the same,
                // and IPv6 sends IFA_ADDRESS only.
                let local = message.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Local(address) => Some(*address),
                    _ => None,
                });
                let address = message.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                });
                let cidr = Cidr::new(local.or(address)?, message.header.prefix_len).ok()?;
                Some((message.header.index, cidr))
            })
            .collect())
    }

    async fn default_route(&self, family: IpAddr) -> Result<Option<u32>, NetError> {
        let query = match family {
            IpAddr::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpAddr::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        let routes: Vec<_> = self
            .handle
            .route()
            .get(query)
            .execute()
            .try_collect()
            .await
            .map_err(|cause| refused("list routes", cause))?;
        Ok(routes.iter().filter(|route| route.header.destination_prefix_length == 0).find_map(|route| {
            route.attributes.iter().find_map(|a| match a {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            })
        }))
    }
}

pub(crate) fn refused(what: &str, cause: rtnetlink::Error) -> NetError {
    NetError::Refused { what: what.into(), cause }
}

fn interface(message: &LinkMessage) -> Interface {
    let mut found = Interface {
        name: String::new(),
        index: message.header.index,
        mac: None,
        up: message.header.flags.contains(LinkFlags::Up),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::Address(bytes) => found.mac = bytes.as_slice().try_into().ok().map(MacAddress),
            _ => {}
        }
    }
    found
}
