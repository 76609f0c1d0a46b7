//! What a person sees while a rehearsal runs: on standard error, a moving line on a terminal, plain lines elsewhere.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// Says what is being done.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Only on a terminal.
    bar: Option<ProgressBar>,
    scenario: String,
}

impl Progress {
    pub(crate) fn new(scenarios: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(scenarios as u64);
            let style = ProgressStyle::with_template("{spinner} [{pos}/{len}] {elapsed} {msg}");
            bar.set_style(style.expect("the template is well-formed"));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, scenario: String::new() }
    }

    /// A scenario begins.
    pub(crate) fn begin(&mut self, scenario: &str) {
        self.scenario = scenario.into();
        self.step("builds the lab");
    }

    /// Part of the scenario.
    pub(crate) fn step(&self, step: &str) {
        let text = format!("{}: {step}", self.scenario);
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => eprintln!("{text}"),
        }
    }

    /// The scenario is over: a line that stays.
    pub(crate) fn end(&self, result: &str) {
        let text = format!("{}: {result}", self.scenario);
        match &self.bar {
            Some(bar) => {
                bar.println(text);
                bar.inc(1);
            }
            None => eprintln!("{text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
