//! The files of a plan: one file, or a directory with `plan.toml` and, if it is there, `plan.d/*.toml`.

use crate::cli::{Failure, hints::AS_ROOT};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};
use tandem_plan::{Plan, SourceFile};

/// A plan that was read, and where it was.
pub(crate) struct Loaded {
    pub(crate) plan: Plan,
    /// What it was read from, in the order it was read.
    pub(crate) files: Vec<SourceFile>,
    /// The folder whose other files the plan's `{plan_dir}` means.
    pub(crate) dir: PathBuf,
}

/// Reads and checks the plan at `path`; prints warnings on standard error.
///
/// # Errors
///
/// The file that cannot be read, or everything that is wrong with the plan, printed in full.
pub(crate) fn load(path: &Path) -> Result<Loaded, Failure> {
    let (files, dir) = read(path)?;
    match tandem_plan::parse(&files) {
        Ok((plan, warnings)) => {
            eprint!("{}", tandem_plan::render(&files, &warnings));
            Ok(Loaded { plan, files, dir })
        }
        Err(wrong) => {
            eprint!("{}", tandem_plan::render(&files, &wrong));
            let errors = wrong.iter().filter(|d| d.severity == tandem_plan::Severity::Error).count();
            let s = if errors == 1 { "" } else { "s" };
            Err(Failure::new(format!("the plan in {} has {errors} error{s}", path.display())))
        }
    }
}

/// The texts of the plan at `path`, and its folder, without a look at what they say.
pub(crate) fn read(path: &Path) -> Result<(Vec<SourceFile>, PathBuf), Failure> {
    let unreadable = |path: &Path, error: &std::io::Error| {
        let failure = Failure::new(format!("cannot read {}: {error}", path.display()));
        match error.kind() {
            std::io::ErrorKind::NotFound => {
                failure.hint("give the plan's file, or the directory that holds its plan.toml; examples/duo is one")
            }
            std::io::ErrorKind::PermissionDenied => {
                failure.hint(format!("let this user read it (chmod, chown), or {AS_ROOT}"))
            }
            std::io::ErrorKind::InvalidData => {
                failure.hint("a plan is UTF-8 text: save it as such, or convert it, as with `iconv -f latin1 -t utf-8`")
            }
            _ => failure,
        }
    };
    let is_dir = fs::metadata(path).map_err(|error| unreadable(path, &error))?.is_dir();
    if !is_dir {
        let text = text(path).map_err(|error| unreadable(path, &error))?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return Ok((vec![SourceFile { name: path.display().to_string(), text }], dir.to_path_buf()));
    }
    let mut paths = vec![path.join("plan.toml")];
    if let Ok(entries) = fs::read_dir(path.join("plan.d")) {
        let mut more: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        more.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
        more.sort();
        paths.extend(more);
    }
    let mut files = Vec::new();
    for file in paths {
        let text = text(&file).map_err(|error| unreadable(&file, &error))?;
        files.push(SourceFile { name: file.display().to_string(), text });
    }
    Ok((files, path.to_path_buf()))
}

/// One byte more than a plan's file may have is enough for the parser to refuse it.
fn text(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(tandem_plan::FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > tandem_plan::FILE_BYTES_MAX {
        // Too long in any case, and perhaps cut in the middle of a character.
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let (good, wrong) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = good.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        let byte = wrong.first().copied().unwrap_or_default();
        let why = format!("line {line}, byte {column}: 0x{byte:02x} is no UTF-8 text");
        std::io::Error::new(std::io::ErrorKind::InvalidData, why)
    })
}

/// The texts as one, for the cluster's log.
pub(crate) fn joined(files: &[SourceFile]) -> String {
    serde_json::to_string(&files.iter().map(|file| (&file.name, &file.text)).collect::<Vec<_>>())
        .expect("names and texts are strings")
}

/// Takes apart what [`joined`] made, and reads it.
///
/// # Errors
///
/// In words: the text is not [`joined`]'s, or this version of the program refuses a plan that an older one took.
pub(crate) fn parse_joined(text: &str) -> Result<Plan, String> {
    let files: Vec<(String, String)> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let files: Vec<SourceFile> = files.into_iter().map(|(name, text)| SourceFile { name, text }).collect();
    match tandem_plan::parse(&files) {
        Ok((plan, _)) => Ok(plan),
        Err(wrong) => Err(tandem_plan::render(&files, &wrong)),
    }
}

/// Keeps the cluster's plan beside its log, for what an agent has to know before it has read the log: the times.
pub(crate) fn remember(data_dir: &Path, joined: &str) -> Result<(), Failure> {
    let path = data_dir.join("plan.json");
    fs::write(&path, joined).map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
}

/// Reads what [`remember`] kept.
pub(crate) fn remembered(data_dir: &Path) -> Result<Plan, Failure> {
    let path = data_dir.join("plan.json");
    let text = fs::read_to_string(&path).map_err(|error| {
        Failure::new(format!("cannot read {}: {error}", path.display()))
            .hint("this machine is no node yet: run `tandem init` on the first machine, `tandem join` on the others")
    })?;
    parse_joined(&text).map_err(|why| Failure::new(format!("the plan in {} is refused: {why}", path.display())))
}
