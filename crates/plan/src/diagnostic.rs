//! What is wrong with a plan, where, and what to write instead.

use core::ops::Range;
use serde::Serialize;

use crate::Code;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The plan is refused.
    Error,
    /// The plan stands, but somebody should look.
    Warning,
}

/// One thing to say about a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Which rule; its number is stable.
    pub code: Code,
    /// What is wrong, with the values.
    pub message: String,
    /// Where; the first is the place to change, the others show what it clashes with. Empty when no file has it.
    pub labels: Vec<Label>,
    /// What to write instead; may have several lines.
    pub help: Option<String>,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Label {
    /// Index of the file in the slice that was parsed.
    pub file: usize,
    /// Bytes of its text.
    pub span: Range<usize>,
    /// What to say there; may be empty.
    pub text: String,
}

impl Diagnostic {
    pub(crate) fn error(code: Code, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), labels: Vec::new(), help: None }
    }

    pub(crate) fn warning(code: Code, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    pub(crate) fn at(mut self, place: &Spot, text: impl Into<String>) -> Self {
        self.labels.push(Label { file: place.file, span: place.span.clone(), text: text.into() });
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A file and a byte range in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) file: usize,
    pub(crate) span: Range<usize>,
}
