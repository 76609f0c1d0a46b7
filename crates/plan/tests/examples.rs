//! The examples that ship with Tandem are plans without a warning.

use tandem_plan::{SourceFile, parse};

fn check(name: &str) -> tandem_plan::Plan {
    let path = format!("{}/../../examples/{name}/plan.toml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let (plan, warnings) =
        parse(&[SourceFile { name: path.clone(), text }]).unwrap_or_else(|wrong| panic!("{wrong:#?}"));
    assert_eq!(warnings, []);
    plan
}

#[test]
fn duo() {
    let plan = check("duo");
    assert_eq!(plan.name.as_str(), "duo");
    assert_eq!(plan.voters().count(), 3);
    let service = plan.services.values().next().expect("duo has a service");
    assert_eq!(plan.group_of(service).map(|group| group.to_string()).as_deref(), Some("ledger"));
    let candidates: Vec<String> = plan.candidates(service).iter().map(ToString::to_string).collect();
    assert_eq!(candidates, ["r1", "h1"]);
}

#[test]
fn postgres() {
    let plan = check("postgres");
    let service = plan.services.values().next().expect("postgres has a service");
    let mount = service.mounts.first().expect("its volume is mounted");
    assert_eq!((mount.path.as_str(), mount.filesystem.as_str()), ("/srv/pg", "ext4"));
}

/// What `plan show` prints is the same plan, and says every default.
#[test]
fn a_shown_plan_reads_as_itself() {
    for name in ["duo", "postgres"] {
        let plan = check(name);
        let shown = plan.show();
        assert!(shown.contains("lease = \"3 s\"") && shown.contains("ack = \"memory\""), "{shown}");
        let files = [SourceFile { name: "shown".into(), text: shown }];
        let (again, _) = parse(&files).unwrap_or_else(|wrong| panic!("{}", tandem_plan::render(&files, &wrong)));
        assert_eq!(again, plan);
        assert_eq!(plan.to_json()["service"]["ledger"]["rto"], again.to_json()["service"]["ledger"]["rto"]);
    }
}
