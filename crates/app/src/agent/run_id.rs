//! This boot of the node, as sessions name it.

use crate::cli::Failure;
use std::{io::Read, path::Path};
use tandem_base::RunId;

/// The id of this boot: drawn once, kept in the run directory, which does not outlive the boot. An agent that starts
/// again on the same boot finds it, and its session goes on; a second machine with this node's identity draws another.
///
/// # Errors
///
/// The file cannot be read or written.
pub(super) fn of_this_boot(run_dir: &Path) -> Result<RunId, Failure> {
    let path = run_dir.join("run-id");
    let trouble = |error: std::io::Error| Failure::new(format!("cannot use {}: {error}", path.display()));
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            if let Ok(id) = u64::from_str_radix(text.trim(), 16) {
                return Ok(RunId(id));
            }
            // Torn while it was written: the agent that wrote it never used it.
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(trouble(error)),
    }
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom").and_then(|mut urandom| urandom.read_exact(&mut bytes)).map_err(trouble)?;
    let id = RunId(u64::from_ne_bytes(bytes));
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, format!("{id}\n")).and_then(|()| std::fs::rename(&fresh, &path)).map_err(trouble)?;
    Ok(id)
}
