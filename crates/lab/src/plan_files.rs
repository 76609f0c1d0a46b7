//! A plan's files: what stands beside it goes where it goes, as plans name files beside them.

use std::path::Path;

use crate::{LabError, error::Doing};

/// A larger file is no part of a plan.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Copies the plan `from` (a file, or a directory with `plan.toml` or `plan.d`) into the directory `to`.
///
/// A plan in a file of another name becomes `plan.toml`. Directories other than `plan.d` are not followed.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), LabError> {
    let meta = std::fs::metadata(from).doing(format!("find the plan {}", from.display()))?;
    if meta.is_dir() {
        return copy_directory(from, to, true);
    }
    let beside = match from.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    copy_directory(beside, to, true)?;
    std::fs::copy(from, to.join("plan.toml")).doing(format!("copy {}", from.display()))?;
    Ok(())
}

fn copy_directory(from: &Path, to: &Path, parts: bool) -> Result<(), LabError> {
    std::fs::create_dir_all(to).doing(format!("make {}", to.display()))?;
    for entry in std::fs::read_dir(from).doing(format!("read {}", from.display()))? {
        let entry = entry.doing(format!("read {}", from.display()))?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let meta = std::fs::metadata(&path).doing(format!("look at {}", path.display()))?;
        if meta.is_file() && meta.len() <= FILE_BYTES_MAX {
            std::fs::copy(&path, &target).doing(format!("copy {}", path.display()))?;
        } else if meta.is_dir() && parts && entry.file_name() == "plan.d" {
            copy_directory(&path, &target, false)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_brings_what_stands_beside_it() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let (from, to) = (base.path().join("from"), base.path().join("to"));
        std::fs::create_dir_all(from.join("plan.d")).expect("made");
        std::fs::create_dir_all(from.join("other")).expect("made");
        for (name, text) in
            [("shop.toml", "the plan"), ("start.sh", "#!"), ("plan.d/more.toml", "more"), ("other/x", "")]
        {
            std::fs::write(from.join(name), text).expect("written");
        }
        copy(&from.join("shop.toml"), &to).expect("copied");
        assert_eq!(std::fs::read_to_string(to.join("plan.toml")).expect("there"), "the plan");
        assert_eq!(std::fs::read_to_string(to.join("plan.d/more.toml")).expect("there"), "more");
        assert!(to.join("start.sh").exists());
        assert!(!to.join("other").exists());
        assert!(copy(&from.join("missing.toml"), &to).is_err());
    }
}
