//! `docs/plan.md` lists every code with its rule, every key, and its example is a plan.

use tandem_plan::{Code, SourceFile, parse, schema};

const DOCS: &str = include_str!("../../../docs/plan.md");

#[test]
fn every_code_is_listed() {
    for code in Code::ALL {
        let row = format!("| {code} | {} |", code.meaning());
        assert!(DOCS.contains(&row), "docs/plan.md lacks: {row}");
    }
}

#[test]
fn every_key_is_described() {
    let schema = schema();
    for (section, object) in schema["$defs"].as_object().expect("a schema has definitions") {
        for (key, _) in object["properties"].as_object().into_iter().flatten() {
            assert!(DOCS.contains(&format!("`{key}`")), "docs/plan.md does not say what `{key}` of {section} is");
        }
    }
}

#[test]
fn the_example_is_a_plan() {
    let text = DOCS.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("it has an example");
    let files = [SourceFile { name: "docs/plan.md".to_owned(), text: text.to_owned() }];
    let (_, warnings) = parse(&files).unwrap_or_else(|wrong| panic!("{}", tandem_plan::render(&files, &wrong)));
    assert_eq!(warnings, []);
}
