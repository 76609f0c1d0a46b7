//! A raw packet socket on one interface (packet(7)).

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use std::io::{self, Read};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{Interface, NetError};

/// Which frames a socket receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receive {
    /// None: the socket only sends.
    Nothing,
    /// ARP.
    Arp,
    /// ICMPv6 neighbour advertisements.
    NeighbourAdvertisements,
}

/// Sends and receives whole Ethernet frames. Needs `CAP_NET_RAW`.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    socket: AsyncFd<Socket>,
    interface: String,
}

impl PacketSocket {
    pub(crate) fn open(interface: &Interface, receive: Receive) -> Result<Self, NetError> {
        let failed = |what| move |cause| NetError::Packet { what, interface: interface.name.clone(), cause };
        // Protocol 0 receives nothing until bind names one, so that no frame of another interface gets in between.
        let socket =
            Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0))).map_err(failed("open a packet socket"))?;
        socket.set_nonblocking(true).map_err(failed("open a packet socket"))?;
        if receive == Receive::NeighbourAdvertisements {
            socket.attach_filter(&NEIGHBOUR_ADVERTISEMENTS).map_err(failed("filter packets"))?;
        }
        let ethertype = match receive {
            Receive::Nothing => 0,
            Receive::Arp => libc::ETH_P_ARP,
            Receive::NeighbourAdvertisements => libc::ETH_P_IPV6,
        };
        socket.bind(&link_address(interface.index, ethertype as u16)).map_err(failed("bind a packet socket"))?;
        // SAFETY: `Socket` owns its descriptor, keeps it open until it is dropped, and always returns that one.
        let socket = unsafe { AsyncFd::register(socket) };
        let socket = socket.map_err(|error| failed("watch a packet socket")(error.into()))?;
        Ok(Self { socket, interface: interface.name.clone() })
    }

    pub(crate) async fn send(&self, frame: &[u8]) -> Result<(), NetError> {
        let sent = self.socket.async_io(Interest::WRITABLE, |socket| socket.send(frame)).await;
        sent.map(drop).map_err(|cause| self.failed("send a frame", cause))
    }

    /// One frame, cut to the buffer's size.
    pub(crate) async fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8], NetError> {
        let length = self.socket.async_io(Interest::READABLE, |mut socket| socket.read(buffer)).await;
        match length {
            Ok(length) => Ok(&buffer[..length]),
            Err(cause) => Err(self.failed("receive a frame", cause)),
        }
    }

    fn failed(&self, what: &'static str, cause: io::Error) -> NetError {
        NetError::Packet { what, interface: self.interface.clone(), cause }
    }
}

fn link_address(index: u32, ethertype: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is plain data, every bit pattern of it is valid, and it is smaller than `sockaddr_storage`,
    // whose alignment is at least as strict.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = index as i32;
    // SAFETY: the storage holds a `sockaddr_ll` of this length, its family is set.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

/// Keeps every IPv6 packet but advertisements in the kernel: next header 58 at 14 + 6, type 136 at 14 + 40.
const NEIGHBOUR_ADVERTISEMENTS: [SockFilter; 6] = [
    SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, 20),
    SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 3, 58),
    SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, 54),
    SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, 136),
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0xffff),
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0),
];
