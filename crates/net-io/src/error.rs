//! Why an operation on the network failed.

use std::{io, net::IpAddr};

/// What failed and where; the system's reason is in `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// No connection to the kernel's routing tables.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel refused a request.
    #[error("cannot {what}")]
    Refused {
        /// The request, with its values.
        what: String,
        /// The kernel's answer.
        #[source]
        cause: rtnetlink::Error,
    },
    /// An interface that was named is not there.
    #[error("there is no interface `{0}`")]
    NoSuchInterface(String),
    /// No interface suits an address: none has its network, there is no default route, and only `lo` is up.
    #[error("no interface for {0}: none has its network, a default route or is up")]
    NoInterfaceFor(IpAddr),
    /// The lease is over, or so nearly that the kernel's whole seconds cannot hold what is left.
    #[error("the lease has {left_ms} ms left, too little to hold {address}")]
    LeaseTooShort {
        /// The address.
        address: IpAddr,
        /// What was left, in milliseconds.
        left_ms: u64,
    },
    /// A raw packet socket failed.
    #[error("cannot {what} on `{interface}`")]
    Packet {
        /// The operation.
        what: &'static str,
        /// The interface.
        interface: String,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
}

impl NetError {
    /// One thing the operator can try, printed as `hint:`.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused { cause: rtnetlink::Error::NetlinkError(error), .. }
                if error.raw_code() == -libc::EPERM || error.raw_code() == -libc::EACCES =>
            {
                Some("CAP_NET_ADMIN is needed to change addresses")
            }
            Self::Packet { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied => {
                Some("CAP_NET_RAW is needed to announce addresses")
            }
            Self::NoSuchInterface(_) | Self::NoInterfaceFor(_) => Some("name the interface in the plan; see `ip link`"),
            _ => None,
        }
    }

    /// Whether the kernel answered with the error number `errno`.
    pub(crate) fn is_errno(&self, errno: i32) -> bool {
        matches!(self, Self::Refused { cause: rtnetlink::Error::NetlinkError(error), .. } if error.raw_code() == -errno)
    }
}
