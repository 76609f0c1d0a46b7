//! The tests notice mistakes: each deliberate one fails a scenario or a random history.

use std::panic::catch_unwind;

use tandem_volume::Mutations;

use crate::{history, memory, scenarios, world::MISTAKES};

#[test]
fn every_mistake_is_noticed() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let mut unnoticed = Vec::new();
    for (mistake, mutations) in Mutations::each() {
        MISTAKES.set(mutations);
        let scenario = scenarios::ALL
            .iter()
            .chain(memory::ALL)
            .find(|(_, scenario)| catch_unwind(scenario).is_err())
            .map(|(name, _)| *name);
        let history = || (0..600).find(|seed| catch_unwind(|| history::run(*seed)).is_err());
        match scenario.map(String::from).or_else(|| history().map(|seed| format!("seed {seed}"))) {
            Some(by) => println!("{mistake}: noticed by {by}"),
            None => unnoticed.push(mistake),
        }
    }
    MISTAKES.set(Mutations::NONE);
    std::panic::set_hook(hook);
    assert!(unnoticed.is_empty(), "unnoticed: {unnoticed:?}");
}
