//! `run` and `check` of a service.

use std::collections::BTreeMap;
use tandem_base::Duration;

use super::{Found, Reader};
use crate::diagnostic::Diagnostic;
use crate::{Check, Code, Probe, Process, Template};

/// Keys of `run`.
pub(crate) const RUN_KEYS: &[&str] = &["process", "before_stop", "user", "env", "dir"];
/// Keys of `check`.
pub(crate) const CHECK_KEYS: &[&str] = &["tcp", "command", "interval", "timeout", "failures"];

const INTERVAL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(2);
const FAILURES: u32 = 3;

impl Reader {
    pub(super) fn process(&mut self, found: &Found<'_>) -> Option<Process> {
        let fields = self.fields(found, RUN_KEYS, &["systemd", "ocf", "container", "vm"])?;
        let Some(process) = fields.get("process") else {
            // What is not carried out yet was reported as such; its absence would only repeat it.
            if found.children().all(|child| RUN_KEYS.contains(&child.name)) {
                self.missing(&fields, "process", "[\"PROGRAM\", \"ARGUMENT\"]");
            }
            return None;
        };
        let process = self.command(process);
        let before_stop = match fields.get("before_stop") {
            Some(before_stop) => self.command(before_stop),
            None => Some(Vec::new()),
        };
        let user = match fields.get("user") {
            Some(user) => self.user(user).map(Some),
            None => Some(None),
        };
        let env = match fields.get("env") {
            Some(env) => self.environment(env),
            None => Some(BTreeMap::new()),
        };
        let dir = match fields.get("dir") {
            Some(dir) => self.directory(dir).map(Some),
            None => Some(None),
        };
        Some(Process { process: process?, before_stop: before_stop?, user: user?, env: env?, dir: dir? })
    }

    pub(super) fn check(&mut self, found: &Found<'_>) -> Option<Check> {
        let fields = self.fields(found, CHECK_KEYS, &["postgres", "http", "https", "nagios"])?;
        let probe = match (fields.get("tcp"), fields.get("command")) {
            (Some(tcp), Some(_)) => {
                let message = format!("`{}` has both `tcp` and `command`", fields.path());
                let help = "keep one; a command may try the port too";
                self.say(Diagnostic::error(Code::Conflict, message).at(&tcp.key, "one of the two").help(help));
                None
            }
            (Some(tcp), None) => self.tcp(tcp).map(Probe::Tcp),
            (None, Some(command)) => self.command(command).map(Probe::Command),
            (None, None) => {
                if found.children().all(|child| CHECK_KEYS.contains(&child.name)) {
                    self.missing(&fields, "tcp", "\"{address}:5432\", or command = [\"PROGRAM\", \"ARGUMENT\"]");
                }
                None
            }
        };
        let mut duration = |key: &str, default: Duration| match fields.get(key) {
            Some(found) => match self.duration(found) {
                Some(Duration::ZERO) => {
                    let message = format!("`{}` cannot be zero", found.path);
                    let help = format!("its default is \"{default}\"");
                    self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, "zero").help(help));
                    None
                }
                read => read,
            },
            None => Some(default),
        };
        let (interval, timeout) = (duration("interval", INTERVAL), duration("timeout", TIMEOUT));
        let failures = match fields.get("failures") {
            Some(failures) => self.count(failures, 1..=1_000),
            None => Some(FAILURES),
        };
        Some(Check { probe: probe?, interval: interval?, timeout: timeout?, failures: failures? })
    }

    /// A program with its arguments.
    fn command(&mut self, found: &Found<'_>) -> Option<Vec<Template>> {
        let elements = self.list(found, "[\"PROGRAM\", \"ARGUMENT\"]")?;
        let words: Vec<Option<Template>> = elements
            .iter()
            .map(|element| {
                let template = self.template(element, "\"ARGUMENT\"")?;
                self.without_nul(element, template)
            })
            .collect();
        let words: Vec<Template> = words.into_iter().collect::<Option<_>>()?;
        if words.first().is_none_or(|program| program.as_plain() == Some("")) {
            let message = format!("`{}` names no program", found.path);
            let help = "write the program and its arguments: [\"PROGRAM\", \"ARGUMENT\"]; no shell reads them";
            self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, "nothing to run").help(help));
            return None;
        }
        Some(words)
    }

    fn without_nul(&mut self, found: &Found<'_>, template: Template) -> Option<Template> {
        if template.to_string().contains('\0') {
            let message = format!("`{}` contains a NUL, which no program can be given", found.path);
            self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, "\\u0000").help("leave it out"));
            return None;
        }
        Some(template)
    }

    fn tcp(&mut self, found: &Found<'_>) -> Option<Template> {
        let template = self.template(found, "\"{address}:5432\"")?;
        let text = template.to_string();
        let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        if port.and_then(|port| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
            let message = format!("`{}` cannot be {text:?}", found.path);
            let help = "write an address and a port from 1 to 65535, such as \"{address}:5432\"";
            self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, "no port").help(help));
            return None;
        }
        Some(template)
    }

    fn user(&mut self, found: &Found<'_>) -> Option<String> {
        let text = self.text(found, "\"postgres\"")?;
        let letters = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.';
        if text.is_empty() || text.starts_with('-') || !text.chars().all(letters) {
            let message = format!("`{}` cannot be {text:?}", found.path);
            let help = "write the name of a user of every node that can run the service, such as \"postgres\"";
            self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, "not a user's name").help(help));
            return None;
        }
        Some(text.to_owned())
    }

    fn environment(&mut self, found: &Found<'_>) -> Option<BTreeMap<String, Template>> {
        self.spots_of(found);
        if found.table().is_none() {
            self.wrong_type(found, "a table", "write: env = { NAME = \"VALUE\" }");
            return None;
        }
        let mut variables = BTreeMap::new();
        let mut whole = true;
        for child in found.children() {
            self.spots_of(&child);
            let first = child.name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            if !first || !child.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                let message = format!("{:?} cannot be the name of an environment variable", child.name);
                let help = "write letters, digits and `_`, the first one no digit";
                self.say(Diagnostic::error(Code::BadName, message).at(&child.key, "not a name").help(help));
                whole = false;
            }
            let value = self.template(&child, "\"VALUE\"");
            match value.and_then(|value| self.without_nul(&child, value)) {
                Some(value) => variables.insert(child.name.to_owned(), value),
                None => {
                    whole = false;
                    None
                }
            };
        }
        whole.then_some(variables)
    }

    fn directory(&mut self, found: &Found<'_>) -> Option<Template> {
        let template = self.template(found, "\"/srv/NAME\"")?;
        let template = self.without_nul(found, template)?;
        let text = template.to_string();
        if !(text.starts_with('/') || text.starts_with("{mount") || text.starts_with("{plan_dir")) {
            let message = format!("`{}` cannot be {text:?}", found.path);
            let help = "write it from the root, or from `{mount}` or `{plan_dir}`";
            self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, "not absolute").help(help));
            return None;
        }
        Some(template)
    }
}
