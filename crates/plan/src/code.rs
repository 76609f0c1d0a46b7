//! The numbers of the rules.

use core::fmt;
use serde::Serialize;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal,)+) => {
        /// Which rule a plan breaks. A number is never used again for another rule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Code {
            /// Every rule, by number.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The number as it is printed, `T0201`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => concat!("T", $number),)+
                }
            }

            /// The rule in one line.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc,)+).trim_ascii(),)+
                }
            }
        }
    };
}

codes! {
    /// The file is larger than 1 MiB.
    FileTooLarge = "0001",
    /// The file is not TOML.
    Syntax = "0002",
    /// No file was given, or none says anything.
    Empty = "0003",
    /// The key is not one of the plan's.
    UnknownKey = "0101",
    /// A key that must be there is not.
    MissingKey = "0102",
    /// The value has another type than its key wants.
    WrongType = "0103",
    /// The name is not made of `a-z`, `0-9` and `-`, or is reserved.
    BadName = "0104",
    /// Two files say the same thing, or a list names something twice.
    Duplicate = "0105",
    /// Two keys that exclude each other, or one that means nothing here.
    Conflict = "0106",
    /// The value cannot be read, or lies outside what is possible.
    BadValue = "0201",
    /// The size is zero or not a multiple of 4 KiB.
    BadSize = "0202",
    /// The placeholder is unknown, or its service has nothing to put there.
    BadPlaceholder = "0203",
    /// The name is not declared.
    UnknownName = "0301",
    /// Things wait for each other in a circle.
    Cycle = "0302",
    /// Two volumes, services or nodes claim what only one can have.
    Claimed = "0303",
    /// A witness could fall together with data it must outlive.
    WitnessNotApart = "0401",
    /// The loss of one site, node or power source would leave no majority.
    NoMajority = "0402",
    /// An objective asks for two sites, the replicas stand in one.
    OneSite = "0403",
    /// Writes acknowledged from memory could be lost with one power source.
    SharedPower = "0404",
    /// The service is preferred where it cannot run.
    NotRunnableThere = "0405",
    /// The volumes of one service are not kept alike.
    UnlikeVolumes = "0406",
    /// The worst heartbeat, election, relay and round trip do not fit into the lease.
    LeaseTooShort = "0501",
    /// A timing is out of proportion to another, or to the links.
    Timing = "0502",
    /// The objective is shorter than the timings allow.
    ObjectiveTooTight = "0503",
    /// The plan asks for what this version does not carry out.
    NotYet = "0601",
    /// Nobody uses what is declared.
    Unused = "0901",
    /// The plan stands, but is weaker than it looks.
    Weak = "0902",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
