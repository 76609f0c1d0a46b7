//! `docs/plan.schema.json` is what [`tandem_plan::schema`] says now.
//!
//! `UPDATE=1 cargo test -p tandem-plan` writes it anew.

#[test]
fn the_published_schema_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/plan.schema.json");
    if std::env::var_os("UPDATE").is_some() {
        let text = serde_json::to_string_pretty(&tandem_plan::schema()).expect("a schema is JSON");
        std::fs::write(path, text + "\n").expect("docs can be written");
    }
    let text = std::fs::read_to_string(path).expect("docs/plan.schema.json is there");
    let published: serde_json::Value = serde_json::from_str(&text).expect("docs/plan.schema.json is JSON");
    assert_eq!(published, tandem_plan::schema(), "UPDATE=1 cargo test -p tandem-plan writes it anew");
}
