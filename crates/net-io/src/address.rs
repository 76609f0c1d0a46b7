//! A service address: an address of this node for as long as its lease, and not longer.
//!
//! The kernel takes the address away by itself when its `valid_lft` runs out, whatever became of the agent. It counts
//! whole seconds, and it may be late, for two reasons. `check_lifetime` in `net/ipv4/devinet.c` (and
//! `addrconf_verify_rtnl` for IPv6) rounds its timer up to a whole second when that costs less than
//! `ADDRCONF_TIMER_FUZZ`, a quarter of a second. And the timer wheel (`kernel/time/timer.c`) is the coarser the longer
//! the time: it rounds up by at most 8/63 of it, 256 ms for two seconds at 250 Hz. So the lifetime given is the largest
//! number of whole seconds that ends within the lease with both added. What remains beyond that is inside the grace that
//! the cluster waits: the kernel looks at most once a second (`ADDRCONF_TIMER_FUZZ_MAX`), which delays an expiry only
//! when another address changed in the second before it, and its worker has to wait for its turn on a busy machine.
//!
//! The kernel counts in jiffies, which stand still while the machine is suspended. After a resume the address can be
//! there although the lease is over; nothing of the machine runs in between, and the agent removes it first of all.

use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, CacheInfo};
use rustix::time::{ClockId, clock_gettime};
use tandem_base::{Duration, Instant};

use crate::{Cidr, Interface, NetError, Network, link::refused};

/// How late the kernel may set its timer: `ADDRCONF_TIMER_FUZZ`, HZ / 4.
const TIMER_FUZZ: Duration = Duration::from_millis(250);
/// The part of a time by which the kernel's timer wheel may be late, 8/63, rounded up: one in so many.
const WHEEL_GRAIN: u64 = 7;

/// An address under which users reach a service, as the plan declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAddress {
    /// The address and its network.
    pub cidr: Cidr,
    /// Where to put it; `None` lets [`Network::interface_for`] choose on each node.
    pub interface: Option<String>,
}

/// A service address that was put on an interface.
///
/// Call [`Network::extend`] after each renewal of the lease, [`Network::remove`] at the end. Nothing is undone on drop:
/// an agent's restart must not take an address away, and the kernel does when the lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The address and its network.
    pub cidr: Cidr,
    /// Where it is.
    pub interface: Interface,
}

/// What an extension found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extended {
    /// It was there and lives on.
    Present,
    /// It had vanished and is back: announce it.
    Restored,
    /// Too little is left of the lease to extend it by a whole second; it ends when it was going to.
    Unchanged,
}

impl Network {
    /// Puts a service address on its interface until the lease ends at `until` (`CLOCK_BOOTTIME`), and sets nothing
    /// else: call [`Network::announce`] next. One that is there already gets the new lifetime.
    ///
    /// The clock is read here and once more afterwards: if this process was stopped in between and the address would
    /// outlive the lease, it is removed again.
    ///
    /// IPv6 addresses skip duplicate address detection (`IFA_F_NODAD`), which would hold them back for a second: that
    /// nobody else has the address is what the lease says.
    ///
    /// # Errors
    ///
    /// [`NetError::LeaseTooShort`] below a second and the slack; [`NetError::NoInterfaceFor`],
    /// [`NetError::NoSuchInterface`], [`NetError::Refused`].
    pub async fn install(&self, address: &ServiceAddress, until: Instant) -> Result<Installed, NetError> {
        let interface = match &address.interface {
            Some(name) => self.interface(name).await?,
            None => self.interface_for(address.cidr.address()).await?,
        };
        let installed = Installed { cidr: address.cidr, interface };
        self.set_lifetime(&installed, until).await?;
        Ok(installed)
    }

    /// Makes an installed address last until the renewed lease ends at `until`.
    ///
    /// # Errors
    ///
    /// [`NetError::LeaseTooShort`] when the lease is over; [`NetError::Refused`].
    pub async fn extend(&self, installed: &Installed, until: Instant) -> Result<Extended, NetError> {
        let present = self.present(installed).await?;
        match self.set_lifetime(installed, until).await {
            Ok(()) => Ok(if present { Extended::Present } else { Extended::Restored }),
            Err(NetError::LeaseTooShort { left_ms, .. }) if present && left_ms > 0 => Ok(Extended::Unchanged),
            Err(error) => Err(error),
        }
    }

    /// Takes an address away. One that is gone already is no error.
    ///
    /// # Errors
    ///
    /// [`NetError::Refused`].
    pub async fn remove(&self, installed: &Installed) -> Result<(), NetError> {
        self.remove_from(installed.interface.index, installed.cidr).await
    }

    /// Whether the address is on its interface now.
    ///
    /// # Errors
    ///
    /// [`NetError::Refused`].
    pub async fn present(&self, installed: &Installed) -> Result<bool, NetError> {
        Ok(self.addresses().await?.contains(&(installed.interface.index, installed.cidr)))
    }

    /// Removes `planned` addresses from whatever interface has them; for an agent that starts without a lease. Returns
    /// those that were there.
    ///
    /// # Errors
    ///
    /// [`NetError::Refused`]; the rest is left as it is.
    pub async fn remove_leftovers(&self, planned: &[Cidr]) -> Result<Vec<Cidr>, NetError> {
        let mut removed = Vec::new();
        for (index, cidr) in self.addresses().await? {
            if planned.contains(&cidr) {
                self.remove_from(index, cidr).await?;
                removed.push(cidr);
            }
        }
        Ok(removed)
    }

    async fn set_lifetime(&self, installed: &Installed, until: Instant) -> Result<(), NetError> {
        let Installed { cidr, interface } = installed;
        let address = cidr.address();
        let left = until.since(now());
        let seconds = lifetime(left).ok_or(NetError::LeaseTooShort { address, left_ms: left.as_millis() })?;
        let mut request = self.handle.address().add(interface.index, address, cidr.prefix()).replace();
        let mut life = CacheInfo::default();
        life.ifa_valid = seconds;
        life.ifa_preferred = seconds;
        let attributes = &mut request.message_mut().attributes;
        attributes.push(AddressAttribute::CacheInfo(life));
        if address.is_ipv6() {
            attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let what = format!("put {cidr} on `{}` for {seconds} s", interface.name);
        request.execute().await.map_err(|cause| refused(&what, cause))?;
        if now() + Duration::from_secs(seconds.into()) > until {
            self.remove(installed).await?;
            return Err(NetError::LeaseTooShort { address, left_ms: until.since(now()).as_millis() });
        }
        Ok(())
    }

    async fn remove_from(&self, index: u32, cidr: Cidr) -> Result<(), NetError> {
        let mut request = self.handle.address().add(index, cidr.address(), cidr.prefix());
        let message = request.message_mut().clone();
        let done = self.handle.address().del(message).execute().await;
        match done.map_err(|cause| refused(&format!("remove {cidr}"), cause)) {
            Err(error) if error.is_errno(libc::EADDRNOTAVAIL) || error.is_errno(libc::ENODEV) => Ok(()),
            other => other,
        }
    }
}

/// The whole seconds after which the kernel takes the address away before `left` is over, late as it may be; `None` if
/// not even one does.
fn lifetime(left: Duration) -> Option<u32> {
    let punctual = left.saturating_sub(Duration::from_nanos(left.as_nanos().div_ceil(WHEEL_GRAIN + 1)));
    let seconds = punctual.saturating_sub(TIMER_FUZZ).as_secs();
    // u32::MAX would mean for ever (INFINITY_LIFE_TIME).
    (seconds > 0).then(|| u32::try_from(seconds).unwrap_or(u32::MAX).min(u32::MAX - 1))
}

/// The clock of leases.
fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    // Neither is negative: the clock starts at 0 when the machine does (clock_gettime(2)).
    Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_never_rounds_up_nor_becomes_for_ever() {
        let seconds = |millis| lifetime(Duration::from_millis(millis));
        assert_eq!(seconds(0), None);
        assert_eq!(seconds(1_428), None);
        assert_eq!(seconds(1_429), Some(1));
        assert_eq!(seconds(2_571), Some(1));
        assert_eq!(seconds(2_572), Some(2));
        assert_eq!(seconds(3_000), Some(2));
        assert_eq!(lifetime(Duration::MAX), Some(u32::MAX - 1));
    }
}
