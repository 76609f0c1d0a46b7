//! From text to a draft of the plan: types, units, names and references.
//!
//! Sections are read in an order in which what is named is known before what names it. A thing that cannot be read is
//! reported and left out; what refers to it is not reported again.

mod fields;
mod link;
mod node;
mod run;
mod service;
mod timing;
mod values;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use tandem_base::PlanName;
use toml_edit::Document;

use crate::diagnostic::{Diagnostic, Severity, Spot};
use crate::{Code, FILE_BYTES_MAX, Plan, SourceFile, Timing};
pub(crate) use fields::{Fields, Found};

/// Every section of a plan.
pub(crate) const SECTIONS: &[&str] =
    &["plan", "site", "power", "node", "link", "outside", "volume", "service", "timing"];

/// Sections of the language that this version does not carry out.
const SECTIONS_NOT_YET: &[&str] = &["zone", "dns", "backup", "drill", "watch", "rebuild"];

/// Keys of `[plan]`.
pub(crate) const PLAN_KEYS: &[&str] = &["name"];

/// Where everything of the plan was written, by path (`node.r1.address`).
#[derive(Debug, Default)]
pub(crate) struct Spots(BTreeMap<String, (Spot, Spot)>);

impl Spots {
    fn note(&mut self, found: &Found<'_>) {
        self.0.insert(found.path.clone(), (found.key.clone(), found.value.clone()));
    }

    /// Whether `path` was written.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// The value at `path`; where it was left to its default, the key of the nearest thing around it that was written.
    pub(crate) fn value(&self, path: &str) -> Option<Spot> {
        match self.0.get(path) {
            Some((_, value)) => Some(value.clone()),
            None => self.key(path.rsplit_once('.')?.0),
        }
    }

    /// The key at `path`, or of the nearest thing around it.
    pub(crate) fn key(&self, path: &str) -> Option<Spot> {
        match self.0.get(path) {
            Some((key, _)) => Some(key.clone()),
            None => self.key(path.rsplit_once('.')?.0),
        }
    }
}

/// What reading gathers.
#[derive(Default)]
pub(crate) struct Reader {
    /// In any order; sorted at the end.
    pub(crate) diagnostics: Vec<Diagnostic>,
    pub(crate) spots: Spots,
    /// Every name that is declared, of each section, also where its body cannot be read.
    declared: BTreeMap<&'static str, BTreeSet<String>>,
}

/// What could be read. `plan` is whole only when there is no error.
pub(crate) struct Draft {
    pub(crate) plan: Plan,
    pub(crate) spots: Spots,
    pub(crate) diagnostics: Vec<Diagnostic>,
    pub(crate) intact: Intact,
}

/// Which parts were read without an error.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Intact {
    /// Sites, power and nodes.
    pub(crate) nodes: bool,
    /// Links and the outside.
    pub(crate) links: bool,
    pub(crate) volumes: bool,
    pub(crate) services: bool,
    pub(crate) timing: bool,
}

/// Reads `files` as one plan.
pub(crate) fn read(files: &[SourceFile]) -> Draft {
    let mut reader = Reader::default();
    let mut documents = Vec::new();
    for (file, source) in files.iter().enumerate() {
        if source.text.len() > FILE_BYTES_MAX {
            // Whoever reads files stops there, so that how long it is is not known.
            let message = format!("the file is longer than {} MiB, which no plan needs", FILE_BYTES_MAX >> 20);
            let diagnostic = Diagnostic::error(Code::FileTooLarge, message).at(&Spot { file, span: 0..0 }, "");
            reader.say(diagnostic.help("is it the right file? A long plan may be several files of one directory"));
            continue;
        }
        match Document::parse(source.text.as_str()) {
            Ok(document) => documents.push((file, document)),
            Err(error) => reader.say(syntax(file, source, &error)),
        }
    }
    let roots: Vec<Found<'_>> = documents.iter().map(|(file, document)| Found::root(*file, document)).collect();
    let broken_syntax = !reader.diagnostics.is_empty();
    if !broken_syntax && roots.iter().all(|root| root.is_empty_table()) {
        let (what, spot) = match files {
            [] => ("no file of a plan was given", None),
            _ => ("there is nothing in this plan", Some(Spot { file: 0, span: 0..0 })),
        };
        let mut diagnostic = Diagnostic::error(Code::Empty, what);
        if let Some(spot) = spot {
            diagnostic = diagnostic.at(&spot, "");
        }
        reader.say(diagnostic.help("start from examples/duo/plan.toml"));
    }
    let (plan, intact) = reader.plan(&roots, broken_syntax);
    Draft { plan, spots: reader.spots, diagnostics: reader.diagnostics, intact }
}

fn syntax(file: usize, source: &SourceFile, error: &toml_edit::TomlError) -> Diagnostic {
    let span = error.span().unwrap_or(0..0);
    // An error at the end of the text would point behind its last line.
    let end = source.text.trim_end().len();
    let span = if span.start >= source.text.len() { end.saturating_sub(1)..end } else { span };
    let message = error.message().trim().replace('\n', ", ");
    Diagnostic::error(Code::Syntax, format!("this is not TOML: {message}"))
        .at(&Spot { file, span }, "here")
        .help("texts and units stand in double quotes, as in size = \"20 GiB\"; see https://toml.io")
}

impl Reader {
    pub(crate) fn say(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    fn plan(&mut self, roots: &[Found<'_>], broken_syntax: bool) -> (Plan, Intact) {
        let mut sections: BTreeMap<&str, Vec<Found<'_>>> = BTreeMap::new();
        let mut misspelt = Vec::new();
        for root in roots {
            for found in root.children() {
                if SECTIONS.contains(&found.name) {
                    sections.entry(found.name).or_default().push(found);
                } else if SECTIONS_NOT_YET.contains(&found.name) {
                    self.not_yet(&found, &format!("the section `{}`", found.name), "leave it out for now");
                } else {
                    misspelt.extend(self.unknown_key(&found, SECTIONS, "a plan"));
                }
            }
        }
        let section = |name: &str| sections.get(name).map(Vec::as_slice).unwrap_or_default();
        // A file that is not TOML may declare anything, so nothing can be called missing.
        let name = self.name(section("plan"), broken_syntax);
        for kind in ["site", "power", "node", "link", "volume", "service"] {
            let names = section(kind).iter().flat_map(Found::children).map(|found| found.name.to_owned()).collect();
            self.declared.insert(kind, names);
        }
        if broken_syntax {
            self.declared.clear();
        }
        self.declared.retain(|kind, _| !misspelt.iter().any(|section| section == kind));
        let mut intact = Intact::default();
        // Whatever a section needs to be whole was read before it.
        let mut errors = self.diagnostics.len();
        let mut whole = |reader: &Self, sections: &[&str]| {
            let before = core::mem::replace(&mut errors, reader.diagnostics.len());
            let is_misspelt = |section: &&str| misspelt.iter().any(|meant| meant == section);
            !broken_syntax && before == errors && !sections.iter().any(is_misspelt)
        };
        let sites = self.sites(section("site"));
        let power = self.power(section("power"));
        let nodes = self.nodes(section("node"));
        intact.nodes = whole(self, &["site", "power", "node"]) && !roots.iter().all(Found::is_empty_table);
        let links = self.links(section("link"), &nodes);
        let outside = self.outside(section("outside"));
        intact.links = whole(self, &["link", "outside"]);
        let timing = self.timing(section("timing"));
        intact.timing = whole(self, &["timing"]);
        let volumes = self.volumes(section("volume"), &nodes);
        intact.volumes = whole(self, &["volume"]);
        let services = BTreeMap::new();
        let mut plan = Plan { name, sites, power, nodes, links, volumes, services, timing, outside };
        plan.services = self.services(section("service"), &plan);
        intact.services = whole(self, &["service"]);
        (plan, intact)
    }

    pub(crate) fn is_declared(&self, kind: &str, name: &str) -> bool {
        self.declared.get(kind).is_some_and(|names| names.contains(name))
    }

    pub(crate) fn declared_names(&self, kind: &str) -> Vec<&str> {
        self.declared.get(kind).into_iter().flatten().map(String::as_str).collect()
    }

    pub(crate) fn spots_of(&mut self, found: &Found<'_>) {
        self.spots.note(found);
    }

    fn name(&mut self, found: &[Found<'_>], broken_syntax: bool) -> PlanName {
        let fallback = PlanName::new("plan").expect("`plan` is a name");
        let fields = self.merged(found, "plan", PLAN_KEYS);
        if let Some(value) = fields.get("name") {
            return self.named(value).unwrap_or(fallback);
        }
        if !broken_syntax && !self.has_errors() {
            let mut diagnostic = Diagnostic::error(Code::MissingKey, "the plan has no name");
            if let Some(spot) = fields.spot() {
                diagnostic = diagnostic.at(spot, "this plan");
            } else {
                diagnostic = diagnostic.at(&Spot { file: 0, span: 0..0 }, "");
            }
            self.say(diagnostic.help("write at its top: plan = { name = \"duo\" }"));
        }
        fallback
    }

    fn timing(&mut self, found: &[Found<'_>]) -> Timing {
        let fields = self.merged(found, "timing", timing::KEYS);
        timing::read(self, &fields)
    }
}

/// The keys of every table, by the name of its type in the schema.
#[cfg(test)]
pub(crate) fn all_keys() -> [(&'static str, &'static [&'static str]); 13] {
    [
        ("PlanFile", SECTIONS),
        ("PlanKeys", PLAN_KEYS),
        ("SiteKeys", node::SITE_KEYS),
        ("PowerKeys", node::POWER_KEYS),
        ("NodeKeys", node::NODE_KEYS),
        ("LinkKeys", link::LINK_KEYS),
        ("OutsideKeys", link::OUTSIDE_KEYS),
        ("EachWay", link::BANDWIDTH_KEYS),
        ("VolumeKeys", volume::KEYS),
        ("ServiceKeys", service::KEYS),
        ("RunKeys", run::RUN_KEYS),
        ("CheckKeys", run::CHECK_KEYS),
        ("TimingKeys", timing::KEYS),
    ]
}
