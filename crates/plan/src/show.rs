//! The resolved plan, printed with every default visible.

use serde::Serialize;
use serde_json::{Map, Value as Json};
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value};

use crate::{Plan, Service};

impl Plan {
    /// The plan as TOML in the plan's own language, every default filled in. Read again, it gives the same plan.
    #[must_use]
    pub fn show(&self) -> String {
        let mut document = DocumentMut::new();
        for (section, keys) in self.sections() {
            match (section, keys) {
                ("plan" | "timing" | "outside", Json::Object(keys)) => {
                    document.insert(section, Item::Table(table(&keys)));
                }
                (_, Json::Object(things)) if !things.is_empty() => {
                    let mut all = Table::new();
                    all.set_implicit(true);
                    for (name, keys) in &things {
                        if let Json::Object(keys) = keys {
                            all.insert(name, Item::Table(table(keys)));
                        }
                    }
                    document.insert(section, Item::Table(all));
                }
                _ => {}
            }
        }
        document.to_string()
    }

    /// The plan as JSON: the same keys and texts as [`Plan::show`], and `groups`, which follow from the services.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let mut all: Map<String, Json> =
            self.sections().into_iter().map(|(section, keys)| (section.to_owned(), keys)).collect();
        all.insert("groups".to_owned(), json(&self.groups()));
        Json::Object(all)
    }

    fn sections(&self) -> Vec<(&'static str, Json)> {
        let services = self.services.values().map(|service| (service.name.to_string(), shown(service)));
        vec![
            ("plan", serde_json::json!({ "name": self.name })),
            ("site", json(&self.sites)),
            ("power", json(&self.power)),
            ("node", json(&self.nodes)),
            ("link", json(&self.links)),
            ("outside", json(&self.outside)),
            ("volume", json(&self.volumes)),
            ("service", Json::Object(services.collect())),
            ("timing", json(&self.timing)),
        ]
    }
}

impl Serialize for Plan {
    /// As [`Plan::to_json`].
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

fn json(value: &impl Serialize) -> Json {
    serde_json::to_value(value).expect("the parts of a plan have texts as keys, and no number that JSON cannot hold")
}

/// A service, with its mounts as its keys `filesystem` and `mount`.
fn shown(service: &Service) -> Json {
    let mut keys = match json(service) {
        Json::Object(keys) => keys,
        other => return other,
    };
    if let Some(first) = service.mounts.first() {
        keys.insert("filesystem".to_owned(), json(&first.filesystem));
        let mount = match service.mounts.as_slice() {
            [only] => Json::String(only.path.clone()),
            several => {
                several.iter().map(|mount| (mount.volume.to_string(), Json::String(mount.path.clone()))).collect()
            }
        };
        keys.insert("mount".to_owned(), mount);
    }
    Json::Object(keys)
}

fn table(keys: &Map<String, Json>) -> Table {
    let mut table = Table::new();
    for (key, value) in keys {
        if let Some(value) = toml(value) {
            table.insert(key, Item::Value(value));
        }
    }
    table
}

fn toml(json: &Json) -> Option<Value> {
    Some(match json {
        Json::Null => return None,
        Json::Bool(value) => (*value).into(),
        Json::Number(number) => number.as_i64()?.into(),
        Json::String(text) => text.as_str().into(),
        Json::Array(list) => list.iter().filter_map(toml).collect::<Array>().into(),
        Json::Object(keys) => {
            keys.iter().filter_map(|(key, value)| Some((key.as_str(), toml(value)?))).collect::<InlineTable>().into()
        }
    })
}
