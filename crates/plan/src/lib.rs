//! The continuity plan: text to [`Plan`], with diagnostics.
//!
//! Pure: takes the files' texts, touches no file. [`parse`] reads them, [`render`] prints what is wrong with them, and
//! [`Plan::show`] prints the result with every default visible. The language is described in `docs/plan.md`.

mod check;
mod code;
mod diagnostic;
mod model;
mod nearest;
mod proportion;
mod read;
mod render;
mod schema;
mod show;
mod template;

pub use code::Code;
pub use diagnostic::{Diagnostic, Label, Severity};
pub use model::*;
pub use proportion::Proportion;
pub use render::{Style, render, render_in, to_json};
pub use schema::schema;
pub use template::{Placeholder, Template, TemplateError};

/// One file of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// As diagnostics name it; usually its path as the user gave it.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// Most bytes that one file of a plan may have: 1 MiB.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Reads a plan that is spread over `files`; their order does not matter.
///
/// Returns the plan with warnings.
///
/// # Errors
///
/// Everything that is wrong, warnings included, in the order of the files and lines.
pub fn parse(files: &[SourceFile]) -> Result<(Plan, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut draft = read::read(files);
    check::check(&mut draft);
    let read::Draft { plan, mut diagnostics, .. } = draft;
    diagnostics.sort_by_key(|diagnostic| {
        let place = diagnostic.labels.first().map(|label| (label.file, label.span.start));
        (place, diagnostic.code)
    });
    if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        return Err(diagnostics);
    }
    Ok((plan, diagnostics))
}
