//! Every plan in `tests/bad` is refused, or warned about, in exactly the words beside it.
//!
//! A folder is a plan of several files. `UPDATE=1 cargo test -p tandem-plan` writes the words anew; read them then.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tandem_plan::{Code, SourceFile, parse, render, to_json};

fn plans() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bad");
    let entries =
        std::fs::read_dir(folder).expect("tests/bad is there").map(|entry| entry.expect("it can be read").path());
    let mut plans: Vec<PathBuf> =
        entries.filter(|path| path.is_dir() || path.extension().is_some_and(|extension| extension == "toml")).collect();
    plans.sort();
    plans
}

fn read(path: &Path) -> Vec<SourceFile> {
    let mut paths = vec![path.to_owned()];
    if path.is_dir() {
        paths = std::fs::read_dir(path)
            .expect("it is a folder")
            .map(|entry| entry.expect("it can be read").path())
            .collect();
        paths.sort();
    }
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let file = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        SourceFile { name: name(path), text }
    };
    paths.iter().map(file).collect()
}

#[test]
fn bad_plans_are_explained() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    let plans = plans();
    assert!(plans.len() >= 25, "only {} plans", plans.len());
    for path in plans {
        let files = read(&path);
        let found = match parse(&files) {
            Ok((_, warnings)) => warnings,
            Err(errors) => errors,
        };
        assert!(!found.is_empty(), "{} has nothing wrong with it", path.display());
        seen.extend(found.iter().map(|diagnostic| diagnostic.code));
        for diagnostic in &found {
            assert!(diagnostic.help.is_some(), "{}: {} has no help", path.display(), diagnostic.code);
        }
        assert_eq!(to_json(&files, &found).as_array().map(Vec::len), Some(found.len()));
        let now = render(&files, &found);
        let words = path.with_extension("stderr");
        if update {
            std::fs::write(&words, &now).expect("tests/bad can be written");
        }
        let expected = std::fs::read_to_string(&words).unwrap_or_default();
        if expected != now {
            wrong.push(format!("{}:\n--- expected\n{expected}\n--- now\n{now}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "UPDATE=1 writes them anew.\n{}", wrong.join("\n"));
    let unseen: Vec<&str> = Code::ALL.iter().filter(|code| !seen.contains(code)).map(|code| code.as_str()).collect();
    // A plan of more than 1 MiB has its own test.
    assert_eq!(unseen, ["T0001"], "no bad plan shows these");
}
