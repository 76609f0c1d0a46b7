//! Random identities. Each is drawn once, by whoever it names, and compared for ever after.

use core::fmt;
use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $type:ident($number:ty), $width:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $type(pub $number);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $width, "x}"), self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({:0", $width, "x})"), self.0)
            }
        }
    };
}

id!(/// Names one cluster for ever; in every handshake and every superblock.
    ClusterId(u128), "32");
id!(/// Names one run of a volume server: durable in the superblock before the register learns of it.
    OpenId(u64), "16");
id!(/// Names one session of a node: what a lease is granted to. A session that expired never comes back.
    SessionId(u64), "16");
id!(/// Names one run of an agent process, so that two live runs of one identity are seen.
    RunId(u64), "16");
