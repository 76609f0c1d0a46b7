//! Scenarios of two or three replicas, and random histories of them.

mod history;
mod scenarios;
mod world;
