//! The rules that make a plan safe. Each refuses with its reason and a way out.

mod apart;
mod claims;
mod cycles;
mod majority;
mod placeholders;
mod power;
mod replicas;
mod timing;

use crate::diagnostic::{Diagnostic, Spot};
use crate::read::{Draft, Intact, Spots};
use crate::{Code, Plan};

/// What a rule looks at, and where it says what it found.
pub(crate) struct Checker<'d> {
    pub(crate) plan: &'d Plan,
    spots: &'d Spots,
    diagnostics: &'d mut Vec<Diagnostic>,
}

/// Applies every rule whose subject could be read, so that one slip is not reported as many.
pub(crate) fn check(draft: &mut Draft) {
    let Draft { plan, spots, diagnostics, intact } = draft;
    let Intact { nodes, links, volumes, services, timing } = *intact;
    let mut checker = Checker { plan, spots, diagnostics };
    let acyclic = checker.cycles();
    checker.claims();
    checker.placeholders();
    if nodes && acyclic {
        // A witness that is not apart leaves no majority either, and is the cause of it.
        if checker.witness_apart() {
            checker.majority();
        }
        checker.shared_power();
    }
    if nodes {
        checker.replicas(volumes && services);
    }
    if timing {
        checker.timings(nodes && links);
    }
}

impl Checker<'_> {
    fn say(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// The value at `path`, or the nearest thing around it that was written; the start of the plan where nothing was.
    fn at(&self, path: &str) -> Spot {
        self.spots.value(path).unwrap_or(Spot { file: 0, span: 0..0 })
    }

    /// The key at `path`.
    fn key(&self, path: &str) -> Spot {
        self.spots.key(path).unwrap_or(Spot { file: 0, span: 0..0 })
    }

    fn error(&self, code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(code, message)
    }

    fn warning(&self, code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic::warning(code, message)
    }
}
