//! Plans that are missing, wrong, no text, or no plan at all.

use crate::machine::{cluster::PLAN, said, tandem};
use std::path::Path;

/// What `tandem plan check` says of `path`, which it must refuse.
#[track_caller]
fn refused(path: &Path) -> String {
    let output = tandem().args(["plan", "check"]).arg(path).output().expect("the binary runs");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(path.to_str().expect("the path is text")), "it names the file: {text}");
    text
}

#[test]
fn what_is_no_plan_is_named_with_a_way_out() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let text = refused(&folder.path().join("missing.toml"));
    assert!(text.contains("No such file") && text.contains("hint: give the plan's file"), "{text}");
    let text = refused(folder.path());
    assert!(text.contains("plan.toml: No such file") && text.contains("hint: "), "{text}");

    let path = folder.path().join("plan.toml");
    std::fs::write(&path, "plan = { name = \"x\" }\n# caf\u{e9}\n".chars().map(|c| c as u8).collect::<Vec<_>>())
        .expect("it is ours");
    let text = refused(&path);
    assert!(text.contains("line 2, byte 6: 0xe9 is no UTF-8 text") && text.contains("hint: a plan is UTF-8"), "{text}");

    std::fs::write(&path, "").expect("it is ours");
    let text = refused(&path);
    assert!(text.contains("there is nothing in this plan") && text.contains("help: start from"), "{text}");

    // Much more than anybody reads, and without an end.
    std::fs::write(&path, vec![b'#'; 30 << 20]).expect("it is ours");
    let text = refused(&path);
    assert!(text.contains("longer than 1 MiB") && text.len() < 4096, "{text}");
    let text = refused(Path::new("/dev/zero"));
    assert!(text.contains("longer than 1 MiB") && text.len() < 4096, "{text}");
}

#[test]
fn every_mistake_of_a_plan_is_shown_at_once() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("plan.toml");
    let wrong = PLAN
        .replace("\"b1\"]\nattach", "\"b2\"]\nattach")
        .replace("8 MiB", "8 parsecs")
        .replace("prefer", "prefre")
        .replace("1 ms", "-1 ms");
    std::fs::write(&path, &wrong).expect("it is ours");
    let text = refused(&path);
    for (place, words, help) in [
        ("plan.toml:14:", "`link.wire.latency` cannot be \"-1 ms\"", "write a duration such as"),
        ("plan.toml:17:", "`volume.disk.size` cannot be \"8 parsecs\"", "write a size such as"),
        ("plan.toml:18:", "there is no node `b2`", "did you mean `b1`?"),
        ("plan.toml:23:", "no key `prefre`", "did you mean `prefer`?"),
    ] {
        assert!(text.contains(place) && text.contains(words) && text.contains(help), "{place} {words}: {text}");
    }
    assert!(text.contains("has 4 errors") && text.contains("^^^^"), "{text}");
    // Whoever would act on it says the same, and does nothing.
    for command in [["lab", "up"].as_slice(), &["rehearse"]] {
        let output = tandem().args(command).arg(&path).output().expect("the binary runs");
        assert!(!output.status.success() && said(&output).contains("has 4 errors"), "{}", said(&output));
    }
}
