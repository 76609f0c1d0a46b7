//! Service addresses in a network namespace of their own, on a TAP whose other end is this test. Needs root.

use etherparse::{ArpOperation, NetSlice, SlicedPacket};
use rustix::thread::UnshareFlags;
use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::fd::AsRawFd,
};
use tandem_base::{Duration, Instant};
use tandem_net_io::{ANNOUNCE_AFTER_MS, Cidr, Extended, NetError, Network, ServiceAddress};
use tokio::io::unix::AsyncFd;

/// Runs `test` on a thread in a fresh network namespace, which ends with the thread.
fn in_namespace(test: impl AsyncFnOnce(Network) + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // SAFETY: only the network namespace changes, on which no memory depends.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("namespaces need root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { test(Network::open().expect("netlink is there")).await });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The other end of a TAP: frames that the kernel sends are read here, frames written here are received by it.
struct Tap(AsyncFd<File>);

impl Tap {
    async fn up(network: &Network, name: &str, address: Option<&str>) -> Self {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("there is /dev/net/tun");
        // SAFETY: all zeroes is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as _;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as _;
        // SAFETY: the request lives across the call, which reads and writes it only.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
        assert_eq!(made, 0, "a TAP needs CAP_NET_ADMIN");
        rustix::io::ioctl_fionbio(&file, true).expect("it is open");
        network.set_link_up(name).await.expect("it is there");
        if let Some(address) = address {
            network.add_address(name, address.parse().expect("an address")).await.expect("it is there");
        }
        // SAFETY: a `File` keeps its descriptor open until it is dropped, and always returns that one.
        Self(unsafe { AsyncFd::register(file) }.expect("the runtime lives"))
    }

    async fn frame(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 2048];
        let length = self.0.async_io_mut(tokio::io::Interest::READABLE, |file| file.read(&mut buffer)).await;
        buffer.truncate(length.expect("it is open"));
        buffer
    }

    async fn send(&mut self, frame: &[u8]) {
        let sent = self.0.async_io_mut(tokio::io::Interest::WRITABLE, |file| file.write(frame)).await;
        assert_eq!(sent.expect("it is open"), frame.len());
    }

    /// The next gratuitous ARP packet: operation, sender's hardware address, sender's and target's address.
    async fn gratuitous(&mut self) -> (ArpOperation, Vec<u8>, Vec<u8>) {
        loop {
            let frame = self.frame().await;
            if let Some(NetSlice::Arp(arp)) = SlicedPacket::from_ethernet(&frame).ok().and_then(|packet| packet.net)
                && arp.sender_protocol_addr() == arp.target_protocol_addr()
            {
                return (arp.operation(), arp.sender_hw_addr().to_vec(), arp.sender_protocol_addr().to_vec());
            }
        }
    }
}

fn now() -> Instant {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

fn service(cidr: &str) -> ServiceAddress {
    ServiceAddress { cidr: cidr.parse().expect("an address"), interface: None }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn an_address_vanishes_by_itself_before_its_lease_is_over() {
    in_namespace(async |network| {
        let _tap = Tap::up(&network, "tap0", Some("10.9.0.2/24")).await;
        for cidr in ["10.9.0.10/24", "fd00::10/64"] {
            let mut address = service(cidr);
            address.interface = Some("tap0".into());
            let until = now() + Duration::from_secs(3);
            let installed = network.install(&address, until).await.expect("the lease is long enough");
            assert!(network.present(&installed).await.expect("netlink answers"), "{cidr}");
            loop {
                let asked = now();
                if !network.present(&installed).await.expect("netlink answers") {
                    break;
                }
                assert!(asked < until, "{cidr} outlived its lease");
                tokio::task::yield_now().await;
            }
            let restored = network.extend(&installed, now() + MINUTE).await.expect("a new lease");
            assert_eq!(restored, Extended::Restored, "{cidr}");
        }
    });
}

#[test]
fn a_renewal_extends_and_a_short_rest_changes_nothing() {
    in_namespace(async |network| {
        let _tap = Tap::up(&network, "tap0", Some("10.9.0.2/24")).await;
        let address = service("10.9.0.10/24");
        let short = network.install(&address, now() + Duration::from_millis(1_200)).await;
        assert!(matches!(short, Err(NetError::LeaseTooShort { .. })), "{short:?}");
        let over = network.install(&address, Instant::ZERO).await;
        assert!(matches!(over, Err(NetError::LeaseTooShort { left_ms: 0, .. })), "{over:?}");
        let installed = network.install(&address, now() + MINUTE).await.expect("the lease is long enough");
        assert_eq!(installed.interface.name, "tap0");
        assert_eq!(network.extend(&installed, now() + MINUTE).await.expect("a lease"), Extended::Present);
        let rest = network.extend(&installed, now() + Duration::from_millis(900)).await;
        assert_eq!(rest.expect("a lease"), Extended::Unchanged);
        assert!(network.extend(&installed, Instant::ZERO).await.is_err(), "an extension by a lease that is over");
        network.remove(&installed).await.expect("it is there");
        network.remove(&installed).await.expect("it is gone, which is what was asked");
        assert!(!network.present(&installed).await.expect("netlink answers"));
    });
}

#[test]
fn an_announcement_is_heard_in_both_forms_and_repeated_while_the_address_stands() {
    in_namespace(async |network| {
        let mut tap = Tap::up(&network, "tap0", Some("10.9.0.2/24")).await;
        let installed = network.install(&service("10.9.0.10/24"), now() + MINUTE).await.expect("a lease");
        network.announce(&installed).await.expect("the interface is up");
        let mac = installed.interface.mac.expect("a TAP has one").0.to_vec();
        for _repetition in 0..3 {
            for operation in [ArpOperation::REQUEST, ArpOperation::REPLY] {
                assert_eq!(tap.gratuitous().await, (operation, mac.clone(), vec![10, 9, 0, 10]));
            }
        }
        network.remove(&installed).await.expect("it is there");
        let rest = std::time::Duration::from_millis(ANNOUNCE_AFTER_MS[4] + 500);
        let silent = tokio::time::timeout(rest, tap.gratuitous()).await;
        assert!(silent.is_err(), "what was lost is not announced: {silent:?}");
    });
}

#[test]
fn an_ipv6_address_is_usable_at_once_and_advertised() {
    in_namespace(async |network| {
        let mut tap = Tap::up(&network, "tap0", Some("fd00::2/64")).await;
        let installed = network.install(&service("fd00::10/64"), now() + MINUTE).await.expect("a lease");
        // A tentative address cannot be bound.
        std::net::UdpSocket::bind("[fd00::10]:0").expect("no duplicate address detection");
        network.announce(&installed).await.expect("the interface is up");
        let target = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
        loop {
            let frame = tap.frame().await;
            // ICMPv6 type 136 with our address as its target.
            if frame.get(54) == Some(&136) && frame.get(62..78) == Some(&target) {
                assert_eq!(frame[58] & 0x20, 0x20, "it overrides what neighbours knew");
                assert_eq!(frame[80..86], installed.interface.mac.expect("a TAP has one").0);
                break;
            }
        }
    });
}

#[test]
fn another_machine_that_claims_the_address_is_noticed() {
    in_namespace(async |network| {
        let mut tap = Tap::up(&network, "tap0", Some("10.9.0.2/24")).await;
        let installed = network.install(&service("10.9.0.10/24"), now() + MINUTE).await.expect("a lease");
        let mut watch = network.watch_claims(&installed).expect("the interface is up");
        network.announce(&installed).await.expect("the interface is up");
        let claim = |sender: [u8; 4], mac: [u8; 6]| {
            let mut frame = vec![0xff; 6];
            frame.extend(mac);
            frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend(mac);
            frame.extend(sender);
            frame.extend([0; 6]);
            frame.extend([10, 9, 0, 10]);
            frame
        };
        let other = [2, 0, 0, 0, 0, 0x99];
        let ours = installed.interface.mac.expect("a TAP has one").0;
        // Somebody asks for us, somebody probes, our own comes back, and a runt: none of them claims it.
        tap.send(&claim([10, 9, 0, 77], other)).await;
        tap.send(&claim([0; 4], other)).await;
        tap.send(&claim([10, 9, 0, 10], ours)).await;
        tap.send(&claim([10, 9, 0, 10], other)[..20]).await;
        tap.send(&claim([10, 9, 0, 10], [2, 0, 0, 0, 0, 0x55])).await;
        assert_eq!(watch.next().await.expect("the interface is up").mac.0, [2, 0, 0, 0, 0, 0x55]);
    });
}

#[test]
fn the_interface_is_chosen_by_network_then_by_default_route_then_by_order() {
    in_namespace(async |network| {
        let address: std::net::IpAddr = "10.9.0.10".parse().expect("an address");
        network.set_up_loopback().await.expect("there is lo");
        let none = network.interface_for(address).await;
        assert!(matches!(none, Err(NetError::NoInterfaceFor(_))), "the loopback serves nobody: {none:?}");
        let _first = Tap::up(&network, "tap0", None).await;
        let _second = Tap::up(&network, "tap1", Some("10.7.0.1/24")).await;
        let _third = Tap::up(&network, "tap2", Some("10.9.0.1/24")).await;
        let chosen = async |address: &str| {
            network.interface_for(address.parse().expect("an address")).await.expect("there is one").name
        };
        assert_eq!(chosen("10.9.0.10").await, "tap2");
        assert_eq!(chosen("10.8.0.10").await, "tap0");
        network.add_onlink_default_route("tap1", None).await.expect("it is up");
        assert_eq!(chosen("10.8.0.10").await, "tap1");
        network
            .add_onlink_default_route("tap2", Some("192.0.2.1".parse().expect("an address")))
            .await
            .expect("it is up");
        assert!(matches!(network.interface("eth7").await, Err(NetError::NoSuchInterface(_))));
        assert!(matches!(network.set_link_up("eth7").await, Err(NetError::NoSuchInterface(_))));
    });
}

#[test]
fn leftovers_are_removed_wherever_they_are_and_nothing_else_is() {
    in_namespace(async |network| {
        let _tap = Tap::up(&network, "tap0", Some("10.9.0.2/24")).await;
        network.install(&service("10.9.0.10/24"), now() + MINUTE).await.expect("a lease");
        let planned: Vec<Cidr> = ["10.9.0.10/24", "10.9.0.11/24"].map(|text| text.parse().expect("an address")).into();
        assert_eq!(network.remove_leftovers(&planned).await.expect("netlink answers"), planned[..1]);
        assert!(network.remove_leftovers(&planned).await.expect("netlink answers").is_empty());
        let own: Cidr = "10.9.0.2/24".parse().expect("an address");
        assert_eq!(network.remove_leftovers(&[own]).await.expect("netlink answers"), [own], "it was left alone before");
    });
}
