//! Texts of a plan that are filled in on the node where a service runs.

use core::{fmt, net::IpAddr};
use serde::Serialize;
use tandem_base::VolumeName;

/// What a `{word}` in a template stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placeholder {
    /// `{file}` or `{file:VOLUME}`: the path of the file that a volume is attached as.
    File(Option<VolumeName>),
    /// `{socket}` or `{socket:VOLUME}`: the path of the NBD socket of a volume attached as `nbd`.
    Socket(Option<VolumeName>),
    /// `{mount}` or `{mount:VOLUME}`: the directory where a volume is mounted.
    Mount(Option<VolumeName>),
    /// `{address}`: the service's address without its prefix; an IPv6 address comes in brackets when a `:` follows.
    Address,
    /// `{node}`: the name of the node it runs on.
    Node,
    /// `{service}`: the service's name.
    Service,
    /// `{plan_dir}`: the folder of the plan on the node.
    PlanDir,
}

/// A text with placeholders. `{{` and `}}` are the braces themselves.
///
/// Filled in once, never read again: what a placeholder brings in is not searched for placeholders, and no shell sees
/// the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Placeholder(Placeholder),
}

/// Why a text is not a template; with the byte range of the wrong part in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A `{` without its `}`.
    #[error("this `{{` has no `}}`")]
    Open {
        /// Where it is.
        at: usize,
    },
    /// A `}` without its `{`.
    #[error("this `}}` has no `{{`")]
    Close {
        /// Where it is.
        at: usize,
    },
    /// A word that means nothing here.
    #[error("there is no placeholder `{{{word}}}`")]
    Unknown {
        /// Where its `{` is.
        at: usize,
        /// What is between the braces.
        word: String,
    },
}

impl Template {
    /// The words that may stand in braces.
    pub const WORDS: [&str; 7] = ["file", "socket", "mount", "address", "node", "service", "plan_dir"];

    /// Reads a text.
    ///
    /// # Errors
    ///
    /// [`TemplateError`]: a brace alone, or a word that is no placeholder.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(found) = rest.find(['{', '}']) {
            let at = text.len() - rest.len() + found;
            literal.push_str(&rest[..found]);
            let brace = &rest[found..found + 1];
            let after = &rest[found + 1..];
            if let Some(after) = after.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(TemplateError::Close { at });
            }
            let Some((word, after)) = after.split_once('}') else { return Err(TemplateError::Open { at }) };
            let placeholder = placeholder(word).ok_or_else(|| TemplateError::Unknown { at, word: word.to_owned() })?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Placeholder(placeholder));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() || parts.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self(parts))
    }

    /// What it wants filled in, in order.
    pub fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        self.0.iter().filter_map(|part| match part {
            Part::Placeholder(placeholder) => Some(placeholder),
            Part::Text(_) => None,
        })
    }

    /// The finished text: `value` gives what each placeholder stands for, or the first error.
    ///
    /// # Errors
    ///
    /// What `value` returns; a valid plan only has placeholders that its service can fill.
    pub fn fill<E>(&self, mut value: impl FnMut(&Placeholder) -> Result<String, E>) -> Result<String, E> {
        let mut filled = String::new();
        for (index, part) in self.0.iter().enumerate() {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Placeholder(placeholder) => {
                    let text = value(placeholder)?;
                    let port_follows = matches!(self.0.get(index + 1), Some(Part::Text(next)) if next.starts_with(':'));
                    let bracketed = *placeholder == Placeholder::Address
                        && port_follows
                        && matches!(text.parse(), Ok(IpAddr::V6(_)));
                    if bracketed {
                        filled.push('[');
                        filled.push_str(&text);
                        filled.push(']');
                    } else {
                        filled.push_str(&text);
                    }
                }
            }
        }
        Ok(filled)
    }

    /// The text, where it has no placeholder.
    #[must_use]
    pub fn as_plain(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}

fn placeholder(word: &str) -> Option<Placeholder> {
    let (word, volume) = match word.split_once(':') {
        Some((word, volume)) => (word, Some(VolumeName::new(volume).ok()?)),
        None => (word, None),
    };
    Some(match (word, &volume) {
        ("file", _) => Placeholder::File(volume),
        ("socket", _) => Placeholder::Socket(volume),
        ("mount", _) => Placeholder::Mount(volume),
        ("address", None) => Placeholder::Address,
        ("node", None) => Placeholder::Node,
        ("service", None) => Placeholder::Service,
        ("plan_dir", None) => Placeholder::PlanDir,
        _ => return None,
    })
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, volume) = match self {
            Self::File(volume) => ("file", volume.as_ref()),
            Self::Socket(volume) => ("socket", volume.as_ref()),
            Self::Mount(volume) => ("mount", volume.as_ref()),
            Self::Address => ("address", None),
            Self::Node => ("node", None),
            Self::Service => ("service", None),
            Self::PlanDir => ("plan_dir", None),
        };
        match volume {
            Some(volume) => write!(f, "{{{word}:{volume}}}"),
            None => write!(f, "{{{word}}}"),
        }
    }
}

impl fmt::Display for Template {
    /// As the plan writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            match part {
                Part::Text(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}"))?,
                Part::Placeholder(placeholder) => write!(f, "{placeholder}")?,
            }
        }
        Ok(())
    }
}

impl Serialize for Template {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &str, address: &str) -> String {
        let template = Template::parse(text).expect(text);
        assert_eq!(template.to_string(), text);
        template
            .fill(|placeholder| match placeholder {
                Placeholder::Address => Ok::<_, ()>(address.to_owned()),
                _ => Ok("{address}".to_owned()),
            })
            .expect("every placeholder is filled")
    }

    #[test]
    fn placeholders_are_filled_once() {
        assert_eq!(fill("--listen={address}:7000", "10.9.0.10"), "--listen=10.9.0.10:7000");
        assert_eq!(fill("{address}:7000", "fd00::1"), "[fd00::1]:7000");
        assert_eq!(fill("{address}", "fd00::1"), "fd00::1");
        assert_eq!(fill("{file:wal}", ""), "{address}");
        assert_eq!(fill("{{x}}", ""), "{x}");
        assert_eq!(fill("", ""), "");
    }

    #[test]
    fn wrong_braces_are_pointed_at() {
        assert_eq!(Template::parse("a{b"), Err(TemplateError::Open { at: 1 }));
        assert_eq!(Template::parse("é}"), Err(TemplateError::Close { at: 2 }));
        assert_eq!(Template::parse("{adress}"), Err(TemplateError::Unknown { at: 0, word: "adress".into() }));
        assert_eq!(Template::parse("{node:x}"), Err(TemplateError::Unknown { at: 0, word: "node:x".into() }));
    }
}
