//! Names of NBD exports: which volume, and of which promotion.

use core::{fmt, str::FromStr};
use tandem_base::{Epoch, NameError, VolumeName};

/// What an initiator asks for by name.
///
/// `<volume>` is whatever promotion is current when the connection is made, for people and tools;
/// `<volume>@<number>.<tag as 16 hex>` is one promotion only, for attachments of services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The volume.
    pub volume: VolumeName,
    /// The promotion the attachment belongs to; `None` takes the current one.
    pub promotion: Option<Epoch>,
}

/// Why a text names no export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The part before `@` is not a volume's name.
    #[error("`{text}` does not start with a volume's name")]
    Volume {
        /// What was given.
        text: String,
        /// The rule it breaks.
        #[source]
        cause: NameError,
    },
    /// The part behind `@` is not a promotion.
    #[error("`{0}` is not a promotion: expected `<number>.<16 hex digits>`")]
    Promotion(String),
}

impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.volume)?;
        match self.promotion {
            Some(Epoch { number, tag }) => write!(f, "@{number}.{tag:016x}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Export {
    type Err = ExportError;

    fn from_str(text: &str) -> Result<Self, ExportError> {
        let (volume, promotion) = match text.split_once('@') {
            Some((volume, promotion)) => (volume, Some(promotion)),
            None => (text, None),
        };
        let volume = VolumeName::new(volume).map_err(|cause| ExportError::Volume { text: shorten(text), cause })?;
        let Some(promotion) = promotion else { return Ok(Self { volume, promotion: None }) };
        let wrong = || ExportError::Promotion(shorten(promotion));
        let (number, tag) = promotion.split_once('.').ok_or_else(wrong)?;
        // `from_str_radix` takes a sign, which no name of ours has.
        if tag.len() != 16 || tag.starts_with('+') || number.starts_with('+') {
            return Err(wrong());
        }
        let number = number.parse().map_err(|_| wrong())?;
        let tag = u64::from_str_radix(tag, 16).map_err(|_| wrong())?;
        Ok(Self { volume, promotion: Some(Epoch { number, tag }) })
    }
}

/// Initiators send up to 4096 bytes; a log line shows the first 80 characters.
fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_they_print() {
        for text in ["ledger", "ledger@7.00000000000000ff", "a@0.0000000000000000"] {
            assert_eq!(text.parse::<Export>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn wrong_names_are_refused() {
        for text in [
            "",
            "@",
            "Ledger",
            "ledger@",
            "ledger@7",
            "ledger@7.ff",
            "ledger@+7.00000000000000ff",
            "a@1.+000000000000000",
        ] {
            assert!(text.parse::<Export>().is_err(), "{text}");
        }
    }
}
