//! What bad input gets, on the real binary: words that say what was wrong, where, and what to do; and nothing lost.

mod machine;

#[path = "bad_input/disks.rs"]
mod disks;
