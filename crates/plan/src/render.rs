//! Diagnostics for people and for programs.

use core::fmt::Write;
use serde::Serialize;

use crate::{Code, Diagnostic, Severity, SourceFile};

/// How diagnostics look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// ASCII, without colours: for files, pipes and tests.
    Plain,
    /// With colours (ANSI SGR) and lines.
    Terminal,
}

/// Columns of a source line that are shown; longer ones are cut around the label.
const COLUMNS_MAX: usize = 110;

/// Prints diagnostics one after the other, in their order, with the source lines they point at. Ends with a line that
/// counts them; empty where there are none. The same input always gives the same text, in [`Style::Plain`].
#[must_use]
pub fn render(files: &[SourceFile], diagnostics: &[Diagnostic]) -> String {
    render_in(files, diagnostics, Style::Plain)
}

/// [`render`] in another style.
#[must_use]
pub fn render_in(files: &[SourceFile], diagnostics: &[Diagnostic], style: Style) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        one(&mut out, diagnostic, files, style);
        out.push('\n');
    }
    out.push_str(&count(diagnostics));
    out
}

/// `2 errors, 1 warning`, on a line; nothing where there are none.
fn count(diagnostics: &[Diagnostic]) -> String {
    let number = |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let say = |number: usize, word: &str| format!("{number} {word}{}", if number == 1 { "" } else { "s" });
    match (number(Severity::Error), number(Severity::Warning)) {
        (0, 0) => String::new(),
        (0, warnings) => format!("{}\n", say(warnings, "warning")),
        (errors, 0) => format!("{}: the plan is refused\n", say(errors, "error")),
        (errors, warnings) => format!("{}, {}: the plan is refused\n", say(errors, "error"), say(warnings, "warning")),
    }
}

fn one(out: &mut String, diagnostic: &Diagnostic, files: &[SourceFile], style: Style) {
    let ink = Ink { style };
    let (word, colour) = match diagnostic.severity {
        Severity::Error => ("error", "1;31"),
        Severity::Warning => ("warning", "1;33"),
    };
    let head = ink.paint(colour, &format!("{word}[{}]", diagnostic.code));
    line(out, &format!("{head}: {}", ink.paint("1", &printable(&diagnostic.message))));
    let places: Vec<Place<'_>> = diagnostic
        .labels
        .iter()
        .filter_map(|label| Some(Place::of(files.get(label.file)?, &label.span, &label.text)))
        .collect();
    let gutter = places.iter().map(|place| place.line.to_string().len()).max().unwrap_or(1);
    let bar = ink.paint("34", if style == Style::Plain { "|" } else { "\u{2502}" });
    for (index, place) in places.iter().enumerate() {
        let arrow = if index == 0 { "-->" } else { ":::" };
        let position = format!("{}:{}:{}", place.file, place.line, place.column);
        line(out, &format!("{:gutter$}{} {position}", "", ink.paint("34", arrow)));
        let number = ink.paint("34", &format!("{:>gutter$}", place.line));
        line(out, &format!("{:gutter$} {bar}", ""));
        line(out, &format!("{number} {bar} {}", place.shown));
        let carets = (if index == 0 { "^" } else { "-" }).repeat(place.width);
        let text = if place.text.is_empty() { String::new() } else { format!(" {}", printable(place.text)) };
        let under = ink.paint(if index == 0 { colour } else { "34" }, &format!("{carets}{text}"));
        line(out, &format!("{:gutter$} {bar} {:indent$}{under}", "", "", indent = place.indent));
    }
    if let Some(help) = &diagnostic.help {
        let sign = ink.paint("34", "=");
        let word = ink.paint("1;36", "help");
        for (index, text) in help.split('\n').enumerate() {
            let text = printable(text);
            match index {
                0 => line(out, &format!("{:gutter$} {sign} {word}: {text}", "")),
                _ => line(out, &format!("{:gutter$}         {text}", "")),
            }
        }
    }
}

fn line(out: &mut String, text: &str) {
    let _never_fails = writeln!(out, "{}", text.trim_end());
}

struct Ink {
    style: Style,
}

impl Ink {
    fn paint(&self, colour: &str, text: &str) -> String {
        match self.style {
            Style::Plain => text.to_owned(),
            Style::Terminal => format!("\u{1b}[{colour}m{text}\u{1b}[0m"),
        }
    }
}

/// A control character of a plan must not reach the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A label's line, cut and cleaned for printing.
struct Place<'s> {
    file: &'s str,
    line: usize,
    /// In characters, from 1.
    column: usize,
    shown: String,
    /// In characters of `shown`.
    indent: usize,
    width: usize,
    text: &'s str,
}

impl<'s> Place<'s> {
    fn of(file: &'s SourceFile, span: &core::ops::Range<usize>, text: &'s str) -> Self {
        let source = file.text.as_str();
        let (line, column) = line_column(source, span.start);
        let start = floor(source, span.start);
        let from = source[..start].rfind('\n').map_or(0, |at| at + 1);
        let to = source[start..].find('\n').map_or(source.len(), |at| start + at);
        let end = floor(source, span.end).clamp(start, to);
        let all: Vec<char> = source[from..to].trim_end_matches('\r').chars().collect();
        let mut indent = source[from..start].chars().count().min(all.len());
        let mut width = source[start..end].chars().count().min(all.len() - indent).max(1);
        let mut shown: Vec<char> = all.iter().map(|c| if c.is_control() { ' ' } else { *c }).collect();
        if shown.len() > COLUMNS_MAX {
            let first = indent.saturating_sub(COLUMNS_MAX / 3);
            let last = (first + COLUMNS_MAX).min(shown.len());
            let mut cut: Vec<char> = shown[first..last].to_vec();
            indent -= first;
            if first > 0 {
                cut.splice(..0, "...".chars());
                indent += 3;
            }
            if last < shown.len() {
                cut.extend("...".chars());
            }
            shown = cut;
            width = width.min(shown.len().saturating_sub(indent)).max(1);
        }
        Self { file: &file.name, line, column, shown: shown.into_iter().collect(), indent, width, text }
    }
}

/// The largest character boundary of `text` that is not behind `at`.
fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Line and column of a byte, both from 1, the column in characters.
fn line_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..floor(text, at)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[derive(Serialize)]
struct JsonDiagnostic<'d> {
    severity: Severity,
    code: Code,
    message: &'d str,
    labels: Vec<JsonLabel<'d>>,
    help: Option<&'d str>,
}

#[derive(Serialize)]
struct JsonLabel<'d> {
    file: &'d str,
    line: usize,
    column: usize,
    start: usize,
    end: usize,
    text: &'d str,
}

/// Diagnostics as JSON: a list of `{severity, code, message, labels: [{file, line, column, start, end, text}], help}`.
/// Lines and columns count from 1, columns in characters; `start` and `end` are bytes of the file.
#[must_use]
pub fn to_json(files: &[SourceFile], diagnostics: &[Diagnostic]) -> serde_json::Value {
    let label = |label: &'_ crate::Label| {
        let file = files.get(label.file)?;
        let (line, column) = line_column(&file.text, label.span.start);
        Some((file.name.as_str(), line, column, label.span.start, label.span.end))
    };
    let list: Vec<JsonDiagnostic<'_>> = diagnostics
        .iter()
        .map(|diagnostic| JsonDiagnostic {
            severity: diagnostic.severity,
            code: diagnostic.code,
            message: &diagnostic.message,
            labels: diagnostic
                .labels
                .iter()
                .filter_map(|of| {
                    let (file, line, column, start, end) = label(of)?;
                    Some(JsonLabel { file, line, column, start, end, text: &of.text })
                })
                .collect(),
            help: diagnostic.help.as_deref(),
        })
        .collect();
    serde_json::to_value(list).expect("texts and numbers are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Label;

    fn shown(text: &str, span: core::ops::Range<usize>) -> String {
        let files = [SourceFile { name: "p.toml".into(), text: text.into() }];
        let mut diagnostic = Diagnostic::error(Code::BadValue, "no");
        diagnostic.labels.push(Label { file: 0, span, text: "here".into() });
        render(&files, &[diagnostic])
    }

    #[test]
    fn a_caret_stands_under_its_text() {
        let text = "a = 1\n  b\u{e9} = \"x\"\n";
        let out = shown(text, 14..17);
        assert!(out.contains("--> p.toml:2:8\n"), "{out}");
        assert!(out.contains("2 |   b\u{e9} = \"x\"\n  |        ^^^ here\n"), "{out}");
    }

    #[test]
    fn odd_spans_and_long_or_hostile_lines_are_printed() {
        assert!(shown("", 0..0).contains("p.toml:1:1"));
        assert!(shown("\u{e9}", 1..9).contains("p.toml:1:1"));
        assert!(shown("a\n", 500..600).contains("p.toml:2:1"));
        let long = shown(&"x".repeat(5_000), 3_000..4_000);
        assert!(long.lines().all(|line| line.len() < 200), "{long}");
        assert!(!shown("a = \"\u{1b}[31m\"", 4..5).contains('\u{1b}'));
    }
}
