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
