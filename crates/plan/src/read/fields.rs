//! Tables of a plan and their keys, with where each was written.

use std::collections::BTreeMap;
use toml_edit::{Document, Item, TableLike, Value};

use super::Reader;
use crate::Code;
use crate::diagnostic::{Diagnostic, Spot};
use crate::nearest::{among, nearest};

/// A key with its value, or an element of a list.
#[derive(Clone)]
pub(crate) struct Found<'t> {
    /// From the top: `node.r1.address`.
    pub(crate) path: String,
    pub(crate) name: &'t str,
    pub(crate) key: Spot,
    pub(crate) value: Spot,
    pub(crate) node: Node<'t>,
}

#[derive(Clone, Copy)]
pub(crate) enum Node<'t> {
    Table(&'t dyn TableLike),
    Value(&'t Value),
    /// `[[name]]`, which no key of a plan wants.
    Tables,
}

impl<'t> Found<'t> {
    pub(crate) fn root(file: usize, document: &'t Document<&str>) -> Self {
        let spot = Spot { file, span: 0..0 };
        let (key, value) = (spot.clone(), spot);
        Self { path: String::new(), name: "", key, value, node: Node::Table(document.as_table()) }
    }

    fn of_item(path: String, name: &'t str, key: Spot, item: &'t Item) -> Self {
        let node = match item {
            Item::Table(table) => Node::Table(table),
            Item::Value(Value::InlineTable(table)) => Node::Table(table),
            Item::Value(value) => Node::Value(value),
            Item::ArrayOfTables(_) | Item::None => Node::Tables,
        };
        // The span of `[volume.pgdata]` is its header; a table made by dotted keys has none.
        let span = item.span().filter(|_| !item.is_table()).unwrap_or_else(|| key.span.clone());
        let value = Spot { file: key.file, span };
        Self { path, name, key, value, node }
    }

    pub(crate) fn of_value(path: String, name: &'t str, file: usize, value: &'t Value) -> Self {
        let spot = Spot { file, span: value.span().unwrap_or_default() };
        let node = match value {
            Value::InlineTable(table) => Node::Table(table),
            _ => Node::Value(value),
        };
        Self { path, name, key: spot.clone(), value: spot, node }
    }

    pub(crate) fn table(&self) -> Option<&'t dyn TableLike> {
        match self.node {
            Node::Table(table) => Some(table),
            _ => None,
        }
    }

    pub(crate) fn is_empty_table(&self) -> bool {
        self.table().is_some_and(TableLike::is_empty)
    }

    /// What it is, in TOML's words.
    pub(crate) fn kind(&self) -> &'static str {
        match self.node {
            Node::Table(_) => "a table",
            Node::Tables => "a list of tables",
            Node::Value(Value::String(_)) => "a text",
            Node::Value(Value::Integer(_)) => "a number without a unit",
            Node::Value(Value::Float(_)) => "a number without a unit",
            Node::Value(Value::Boolean(_)) => "true or false",
            Node::Value(Value::Datetime(_)) => "a date",
            Node::Value(Value::Array(_)) => "a list",
            Node::Value(Value::InlineTable(_)) => "a table",
        }
    }

    /// The keys in it, as written; none where it is no table.
    pub(crate) fn children(&self) -> impl Iterator<Item = Found<'t>> {
        let (path, at, table) = (self.path.clone(), self.key.clone(), self.table());
        table.into_iter().flat_map(TableLike::iter).map(move |(name, item)| {
            let span = table.and_then(|table| table.key(name)).and_then(toml_edit::Key::span);
            let key = Spot { file: at.file, span: span.unwrap_or_else(|| at.span.clone()) };
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            Found::of_item(path, name, key, item)
        })
    }
}

/// The keys of one table; all of them are known.
pub(crate) struct Fields<'t> {
    path: String,
    spot: Option<Spot>,
    entries: BTreeMap<&'t str, Found<'t>>,
    /// Keys that an unknown one was probably meant to be; they are not missing too.
    meant: Vec<String>,
}

impl<'t> Fields<'t> {
    /// The value of `key`, if it was written.
    pub(crate) fn get(&self, key: &str) -> Option<&Found<'t>> {
        self.entries.get(key)
    }

    /// Whether another key was probably meant to be this one.
    pub(crate) fn is_misspelt(&self, key: &str) -> bool {
        self.meant.iter().any(|meant| meant == key)
    }

    /// Where the table was opened.
    pub(crate) fn spot(&self) -> Option<&Spot> {
        self.spot.as_ref()
    }

    /// From the top: `node.r1`.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// How messages call it: ``node `r1` ``.
    pub(crate) fn title(&self) -> String {
        title(&self.path)
    }
}

/// ``node `r1` `` for `node.r1`.
pub(crate) fn title(path: &str) -> String {
    match path.split_once('.') {
        Some((kind, name)) if !name.contains('.') => format!("{kind} `{name}`"),
        _ => format!("`{path}`"),
    }
}

impl Reader {
    /// The keys of one table; reports those that are not in `known`, and those of `not_yet` as belonging to the language.
    pub(crate) fn fields<'t>(&mut self, found: &Found<'t>, known: &[&str], not_yet: &[&str]) -> Option<Fields<'t>> {
        self.spots.note(found);
        if found.table().is_none() {
            self.wrong_type(found, "a table", &format!("write: {} = {{ ... }}", found.name));
            return None;
        }
        let mut entries = BTreeMap::new();
        let mut meant = Vec::new();
        for child in found.children() {
            if known.contains(&child.name) {
                self.spots.note(&child);
                entries.insert(child.name, child);
            } else if not_yet.contains(&child.name) {
                self.not_yet(&child, &format!("`{}`", child.path), "leave it out for now");
            } else {
                meant.extend(self.unknown_key(&child, known, &title(&found.path)));
            }
        }
        Some(Fields { path: found.path.clone(), spot: Some(found.key.clone()), entries, meant })
    }

    /// The keys of a table that several files may share, each key in one of them.
    pub(crate) fn merged<'t>(&mut self, found: &[Found<'t>], path: &str, known: &[&str]) -> Fields<'t> {
        let mut merged = Fields { path: path.to_owned(), spot: None, entries: BTreeMap::new(), meant: Vec::new() };
        for part in found {
            let Some(fields) = self.fields(part, known, &[]) else { continue };
            merged.spot = merged.spot.or(fields.spot);
            merged.meant.extend(fields.meant);
            for (name, entry) in fields.entries {
                if let Some(first) = merged.entries.get(name) {
                    let first = first.key.clone();
                    self.twice(&entry, &first);
                } else {
                    merged.entries.insert(name, entry);
                }
            }
        }
        merged
    }

    /// The named things of a section, over all files; a name counts once.
    pub(crate) fn entries<'t>(&mut self, section: &[Found<'t>]) -> Vec<Found<'t>> {
        let mut entries: BTreeMap<&str, Found<'t>> = BTreeMap::new();
        for part in section {
            self.spots.note(part);
            if part.table().is_none() {
                let help = format!("write: [{}.NAME] and its keys below", part.name);
                self.wrong_type(part, "a table of names", &help);
            }
            for child in part.children() {
                if let Some(first) = entries.get(child.name) {
                    let first = first.key.clone();
                    self.twice(&child, &first);
                } else {
                    entries.insert(child.name, child);
                }
            }
        }
        entries.into_values().collect()
    }

    fn twice(&mut self, second: &Found<'_>, first: &Spot) {
        let message = format!("`{}` is written in two files", second.path);
        self.say(
            Diagnostic::error(Code::Duplicate, message)
                .at(&second.key, "again here")
                .at(first, "first here")
                .help("keep one of them"),
        );
    }

    /// Reports a key that is not in `known`; returns the one that was probably meant.
    pub(crate) fn unknown_key(&mut self, found: &Found<'_>, known: &[&str], whose: &str) -> Option<String> {
        let name = found.name;
        let near = nearest(name, known.iter().copied());
        let help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("{whose} has no keys: leave `{name}` out"),
            None => format!("{whose} knows {}", among(known.iter().copied())),
        };
        let message = format!("{whose} has no key `{name}`");
        self.say(Diagnostic::error(Code::UnknownKey, message).at(&found.key, "unknown").help(help));
        near.map(str::to_owned)
    }

    pub(crate) fn missing(&mut self, fields: &Fields<'_>, key: &str, example: &str) {
        if fields.is_misspelt(key) {
            return;
        }
        let mut diagnostic = Diagnostic::error(Code::MissingKey, format!("{} has no `{key}`", fields.title()));
        if let Some(spot) = fields.spot() {
            diagnostic = diagnostic.at(spot, format!("`{key}` is missing"));
        }
        self.say(diagnostic.help(format!("add: {key} = {example}")));
    }

    pub(crate) fn wrong_type(&mut self, found: &Found<'_>, expected: &str, help: &str) {
        let message = format!("`{}` must be {expected}", found.path);
        let label = format!("this is {}", found.kind());
        self.say(Diagnostic::error(Code::WrongType, message).at(&found.value, label).help(help));
    }

    pub(crate) fn not_yet(&mut self, found: &Found<'_>, what: &str, way_out: &str) {
        let message = format!("{what} is not carried out yet");
        self.say(Diagnostic::error(Code::NotYet, message).at(&found.key, "refused, not ignored").help(way_out));
    }
}
