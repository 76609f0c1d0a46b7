//! A rehearsal's report as people read it.

use std::fmt;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use crate::rehearsal::{Report, ScenarioReport};

impl ScenarioReport {
    /// One line.
    pub(crate) fn summary(&self) -> String {
        let word = if self.passed { "passed" } else { "FAILED" };
        let figures = self.services.iter().map(|service| {
            let (name, lost, acknowledged) = (&service.name, service.lost, service.acknowledged);
            format!("{name} lost {lost} of {acknowledged}, gap {}", milliseconds(service.rto_ms))
        });
        let parts: Vec<String> = std::iter::once(word.to_owned()).chain(figures).chain(self.failures.clone()).collect();
        parts.join("; ")
    }
}

impl fmt::Display for Report {
    /// Each scenario's timeline, what went wrong, then one table of all figures.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for scenario in &self.scenarios {
            writeln!(f, "{}", scenario.name)?;
            for event in &scenario.events {
                let at = milliseconds(event.at_ms.unsigned_abs());
                writeln!(f, "  {at:>9}  {:<10} {} ({})", event.node, event.what, event.why)?;
            }
            for failure in &scenario.failures {
                writeln!(f, "  FAILED: {failure}")?;
            }
            writeln!(f)?;
        }
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header([
            "scenario",
            "service",
            "acknowledged",
            "lost",
            "RPO target",
            "RPO",
            "RTO target",
            "RTO",
            "result",
        ]);
        for scenario in &self.scenarios {
            let result = |passed: bool| if passed { "passed" } else { "FAILED" };
            if scenario.services.is_empty() {
                let mut row = vec![scenario.name.clone()];
                row.extend((0..7).map(|_| "-".to_owned()));
                row.push(result(scenario.passed).into());
                table.add_row(row);
            }
            for service in &scenario.services {
                let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
                let target = |target: Option<u64>| number(target.map_or_else(|| "-".into(), milliseconds));
                table.add_row([
                    Cell::new(&scenario.name),
                    Cell::new(&service.name),
                    number(service.acknowledged.to_string()),
                    number(service.lost.to_string()),
                    target(service.rpo_target_ms),
                    number(milliseconds(service.rpo_ms)),
                    target(service.rto_target_ms),
                    number(milliseconds(service.rto_ms)),
                    // A scenario fails as a whole, too: by what its failures say.
                    Cell::new(result(service.passed && scenario.passed)),
                ]);
            }
        }
        writeln!(f, "{table}\n")?;
        let passed = self.scenarios.iter().filter(|scenario| scenario.passed).count();
        writeln!(f, "plan {}: {passed} of {} scenarios passed", self.plan, self.scenarios.len())
    }
}

fn milliseconds(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1_000, ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rehearsal::{Event, ServiceReport};

    #[test]
    fn the_table_shows_targets_beside_what_was_measured() {
        let service = ServiceReport {
            name: "ledger".into(),
            acknowledged: 321,
            lost: 0,
            rpo_target_ms: Some(0),
            rpo_ms: 0,
            rto_target_ms: Some(8_000),
            rto_ms: 5_432,
            passed: true,
        };
        let event = Event { at_ms: 2_500, node: "lab".into(), what: "r1 dies".into(), why: "node-loss".into() };
        let scenario = |passed: bool, failures: Vec<String>| ScenarioReport {
            name: "node-loss".into(),
            passed,
            failures,
            services: vec![service.clone()],
            events: vec![event.clone()],
        };
        let mut report = Report { plan: "duo".into(), passed: true, scenarios: vec![scenario(true, vec![])] };
        let text = report.to_string();
        assert!(
            text.contains("      2.500 s  lab        r1 dies (node-loss)") || text.contains("2.500 s  lab"),
            "{text}"
        );
        assert!(text.contains("8.000 s") && text.contains("5.432 s") && text.contains("passed"), "{text}");
        report.scenarios[0] = scenario(false, vec!["too bad".into()]);
        let text = report.to_string();
        assert!(text.contains("FAILED: too bad") && text.contains("0 of 1 scenarios passed"), "{text}");
    }
}
