//! Typed values: texts with units, names, lists, references.

use core::{fmt::Display, str::FromStr};
use tandem_base::{Duration, NameError};
use toml_edit::Value;

use super::{Found, Reader, fields::Node};
use crate::diagnostic::{Diagnostic, Spot};
use crate::nearest::{among, nearest};
use crate::{Code, Proportion, Template, TemplateError};

impl Reader {
    /// A text; `example` is shown where it is something else.
    pub(crate) fn text<'t>(&mut self, found: &Found<'t>, example: &str) -> Option<&'t str> {
        match found.node {
            Node::Value(Value::String(text)) => Some(text.value().as_str()),
            Node::Value(Value::Integer(number)) => {
                let unit = example.trim_matches('"').split_once(' ').map(|(_, unit)| unit);
                let help = match unit {
                    Some(unit) => format!("write the unit and the quotes: \"{} {unit}\"", number.value()),
                    None => format!("write for example: {example}"),
                };
                self.wrong_type(found, "a text", &help);
                None
            }
            _ => {
                self.wrong_type(found, "a text", &format!("write for example: {example}"));
                None
            }
        }
    }

    /// A text that `T` reads; the error's words say what was expected.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&mut self, found: &Found<'_>, example: &str) -> Option<T> {
        let text = self.text(found, example)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(expected) => {
                let message = format!("`{}` cannot be {text:?}", found.path);
                let expected = expected.to_string();
                let expected = expected.strip_prefix("expected ").unwrap_or(&expected);
                let help = unit_hint(text, expected).unwrap_or_else(|| format!("write {expected}"));
                self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, "not understood").help(help));
                None
            }
        }
    }

    pub(crate) fn duration(&mut self, found: &Found<'_>) -> Option<Duration> {
        let short = ["latency", "jitter", "heartbeat", "grace", "raft_heartbeat", "election_min", "election_max"];
        self.parsed(found, if short.contains(&found.name) { "\"500 ms\"" } else { "\"3 s\"" })
    }

    pub(crate) fn proportion(&mut self, found: &Found<'_>) -> Option<Proportion> {
        self.parsed(found, "\"1 %\"")
    }

    pub(crate) fn boolean(&mut self, found: &Found<'_>) -> Option<bool> {
        match found.node {
            Node::Value(Value::Boolean(value)) => Some(*value.value()),
            _ => {
                self.wrong_type(found, "true or false", "write true or false, without quotes");
                None
            }
        }
    }

    /// A whole number in `range`.
    pub(crate) fn count(&mut self, found: &Found<'_>, range: core::ops::RangeInclusive<u32>) -> Option<u32> {
        let help = format!("write a whole number from {} to {}, without quotes", range.start(), range.end());
        let Node::Value(Value::Integer(number)) = found.node else {
            self.wrong_type(found, "a whole number", &help);
            return None;
        };
        match u32::try_from(*number.value()).ok().filter(|count| range.contains(count)) {
            Some(count) => Some(count),
            None => {
                let message = format!("`{}` cannot be {}", found.path, number.value());
                self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, "out of range").help(help));
                None
            }
        }
    }

    /// The elements of a list.
    pub(crate) fn list<'t>(&mut self, found: &Found<'t>, example: &str) -> Option<Vec<Found<'t>>> {
        let Node::Value(Value::Array(array)) = found.node else {
            let help = match found.node {
                Node::Value(Value::String(text)) => format!("write the brackets: [{:?}]", text.value()),
                _ => format!("write for example: {example}"),
            };
            self.wrong_type(found, "a list", &help);
            return None;
        };
        let element = |(index, value): (usize, &'t Value)| {
            Found::of_value(format!("{}.{index}", found.path), found.name, found.key.file, value)
        };
        let elements: Vec<Found<'t>> = array.iter().enumerate().map(element).collect();
        for element in &elements {
            self.spots.note(element);
        }
        Some(elements)
    }

    /// One of a few words. A word of `not_yet` belongs to the language, but is refused.
    pub(crate) fn word<T: Copy>(&mut self, found: &Found<'_>, words: &[(&str, T)], not_yet: &[&str]) -> Option<T> {
        let known = || words.iter().map(|(word, _)| *word);
        let example = format!("{:?}", words.first().map_or("", |(word, _)| word));
        let text = self.text(found, &example)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        if not_yet.contains(&text) {
            let message = format!("`{} = {text:?}` is not carried out yet", found.path);
            let help = format!("write {}", quoted(known()));
            self.say(Diagnostic::error(Code::NotYet, message).at(&found.value, "refused, not ignored").help(help));
            return None;
        }
        let help = match nearest(text, known()) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("write {}", quoted(known())),
        };
        let message = format!("`{}` cannot be {text:?}", found.path);
        self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, "not one of the words").help(help));
        None
    }

    /// The text of `found` as a name.
    pub(crate) fn named<N: FromStr<Err = NameError>>(&mut self, found: &Found<'_>) -> Option<N> {
        let text = self.text(found, "\"duo\"")?;
        self.name_of(text, &found.value)
    }

    /// The key of `found` as a name.
    pub(crate) fn key_name<N: FromStr<Err = NameError>>(&mut self, found: &Found<'_>) -> Option<N> {
        self.name_of(found.name, &found.key)
    }

    fn name_of<N: FromStr<Err = NameError>>(&mut self, text: &str, spot: &Spot) -> Option<N> {
        match text.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                let mended: String = text.to_lowercase().replace(['_', '.', ' ', '/'], "-");
                let mended = mended.trim_matches('-');
                let message = match &error {
                    NameError::Empty => "a name cannot be empty".to_owned(),
                    NameError::TooLong(length) => format!("a name has at most 63 characters, this one has {length}"),
                    _ => format!("{text:?} is not a name"),
                };
                let mut diagnostic = Diagnostic::error(Code::BadName, message).at(spot, "not a name");
                let rule = "names are made of a-z, 0-9 and `-`, and start and end with a letter or digit";
                diagnostic = match mended.parse::<N>() {
                    Ok(_) => diagnostic.help(format!("write `{mended}`: {rule}")),
                    Err(_) => diagnostic.help(rule),
                };
                self.say(diagnostic);
                None
            }
        }
    }

    /// A name that is declared in the section `kind`.
    pub(crate) fn reference<N: FromStr<Err = NameError>>(
        &mut self,
        found: &Found<'_>,
        kind: &'static str,
    ) -> Option<N> {
        let text = self.text(found, "\"NAME\"")?;
        self.refer(text, &found.value, kind)
    }

    /// [`Reader::reference`] for a text that stands somewhere else than alone in a value.
    pub(crate) fn refer<N: FromStr<Err = NameError>>(
        &mut self,
        text: &str,
        spot: &Spot,
        kind: &'static str,
    ) -> Option<N> {
        // Nothing is known while a file cannot be read.
        let Some(declared) = self.declared.get(kind) else { return text.parse().ok() };
        if declared.contains(text) {
            return text.parse().ok();
        }
        let known = || declared.iter().map(String::as_str);
        let help = match nearest(text, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if declared.is_empty() => {
                format!("declare it: [{kind}.{}]", if text.is_empty() { "NAME" } else { text })
            }
            None => format!("the plan declares {}", among(known())),
        };
        let message = format!("there is no {kind} `{text}` in this plan");
        self.say(Diagnostic::error(Code::UnknownName, message).at(spot, "not declared").help(help));
        None
    }

    /// A list of names declared in the section `kind`, none of them twice.
    pub(crate) fn references<N>(&mut self, found: &Found<'_>, kind: &'static str) -> Option<Vec<N>>
    where
        N: FromStr<Err = NameError> + PartialEq + Display,
    {
        let elements = self.list(found, "[\"NAME\"]")?;
        let mut names: Vec<N> = Vec::new();
        let mut whole = true;
        for element in &elements {
            match self.reference::<N>(element, kind) {
                Some(name) if names.contains(&name) => {
                    let message = format!("`{}` names `{name}` twice", found.path);
                    self.say(
                        Diagnostic::error(Code::Duplicate, message).at(&element.value, "again").help("name it once"),
                    );
                    whole = false;
                }
                Some(name) => names.push(name),
                None => whole = false,
            }
        }
        whole.then_some(names)
    }

    /// A text with placeholders.
    pub(crate) fn template(&mut self, found: &Found<'_>, example: &str) -> Option<Template> {
        let text = self.text(found, example)?;
        match Template::parse(text) {
            Ok(template) => Some(template),
            Err(error) => {
                let help = match &error {
                    TemplateError::Unknown { word, .. } => {
                        let word = word.split(':').next().unwrap_or_default();
                        match nearest(word, Template::WORDS) {
                            Some(near) => format!("did you mean `{{{near}}}`? a brace itself is written twice: `{{{{`"),
                            None => format!("it can be {}; a brace itself is written twice: `{{{{`", braced()),
                        }
                    }
                    _ => "a brace itself is written twice: `{{` or `}}`".to_owned(),
                };
                self.say(
                    Diagnostic::error(Code::BadPlaceholder, error.to_string())
                        .at(&found.value, "in this text")
                        .help(help),
                );
                None
            }
        }
    }
}

fn braced() -> String {
    Template::WORDS.map(|word| format!("`{{{word}}}`")).join(", ")
}

fn quoted<'k>(words: impl Iterator<Item = &'k str>) -> String {
    words.map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or ")
}

/// Units that people write and that mean something else, or nothing.
fn unit_hint(text: &str, expected: &str) -> Option<String> {
    const SLIPS: [(&str, &str); 24] = [
        ("Mb/s", "Mbit/s"),
        ("Mbps", "Mbit/s"),
        ("mbit/s", "Mbit/s"),
        ("Mbits", "Mbit/s"),
        ("Mbit", "Mbit/s"),
        ("Gb/s", "Gbit/s"),
        ("Gbps", "Gbit/s"),
        ("Gbit", "Gbit/s"),
        ("kb/s", "kbit/s"),
        ("Kbit/s", "kbit/s"),
        ("G", "GiB"),
        ("M", "MiB"),
        ("T", "TiB"),
        ("K", "KiB"),
        ("gib", "GiB"),
        ("mib", "MiB"),
        ("KB", "KiB"),
        ("msec", "ms"),
        ("msecs", "ms"),
        ("sec", "s"),
        ("seconds", "s"),
        ("secs", "s"),
        ("m", "min"),
        ("minutes", "min"),
    ];
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(split);
    let (_, right) = SLIPS.iter().find(|(slip, _)| *slip == unit.trim_start())?;
    // "17 Mbit/s" is no size, whatever its spelling.
    let wants_rate = expected.starts_with("a rate");
    let wants_time = expected.starts_with("a duration");
    let fits = match *right {
        "ms" | "s" | "min" => wants_time,
        rate if rate.ends_with("/s") => wants_rate,
        _ => !wants_rate && !wants_time,
    };
    (fits && !number.is_empty()).then(|| format!("write \"{number} {right}\""))
}
