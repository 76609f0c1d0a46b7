//! Names of the things a plan declares.

use alloc::sync::Arc;
use core::{fmt, str::FromStr};
use serde::{Deserialize, Serialize};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing was given.
    #[error("a name cannot be empty")]
    Empty,
    /// More bytes than a DNS label may have: 63.
    #[error("a name has at most {LENGTH_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// A character outside `a-z`, `0-9` and `-`, or a `-` at an end.
    #[error("a name is made of a-z, 0-9 and `-`, and starts and ends with a letter or digit; `{0}` does not fit")]
    Character(char),
}

/// Bytes in the longest name: a DNS label (RFC 1035, section 2.3.4), so that every name can be one.
pub(crate) const LENGTH_MAX: usize = 63;

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > LENGTH_MAX {
        return Err(NameError::TooLong(text.len()));
    }
    if let Some(wrong) = text.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')) {
        return Err(NameError::Character(wrong));
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::Character('-'));
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        ///
        /// 1 to 63 characters of `a-z`, `0-9` and `-`; cheap to clone.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "alloc::string::String", into = "alloc::string::String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks `text` and makes it a name.
            ///
            /// # Errors
            ///
            /// [`NameError`] says which rule the text breaks.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $type {
            type Error = NameError;
            fn try_from(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<alloc::string::String> for $type {
            type Error = NameError;
            fn try_from(text: alloc::string::String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$type> for alloc::string::String {
            fn from(name: $type) -> Self {
                Self::from(name.as_str())
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

name!(/// A continuity plan.
    PlanName);
name!(/// A source of power, or a UPS.
    PowerName);
name!(/// A machine that runs the agent.
    NodeName);
name!(/// A place whose machines can fall together.
    SiteName);
name!(/// A replicated virtual disk.
    VolumeName);
name!(/// Volumes that share one epoch, one in-sync set and one order of writes.
    GroupName);
name!(/// What users reach.
    ServiceName);
name!(/// A connection between two sites.
    LinkName);
