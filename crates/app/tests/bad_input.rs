//! What bad input gets, on the real binary: words that say what was wrong, where, and what to do; and nothing lost.

mod machine;

#[path = "bad_input/disks.rs"]
mod disks;
#[path = "bad_input/identities.rs"]
mod identities;
#[path = "bad_input/labs.rs"]
mod labs;
#[path = "bad_input/plans.rs"]
mod plans;
#[path = "bad_input/stores.rs"]
mod stores;
#[path = "bad_input/strangers.rs"]
mod strangers;
