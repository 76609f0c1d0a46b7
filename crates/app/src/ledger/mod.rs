//! The embedded service of the examples, and the client that rehearsals write with.
//!
//! # The service
//!
//! `tandem ledger-serve --file F --listen A:P` keeps numbered records on a volume's raw file. Once it can be asked it
//! prints `{"ready":true,"listen":"…","last":N}` on standard output. It speaks lines over TCP, one answer for each:
//!
//! | request | answer |
//! | --- | --- |
//! | `APPEND <number> <payload>` | `OK <number>`, once the record is durable. The number is the last one plus 1, or that of a record that is there with the same payload: asking again is harmless. |
//! | `READ <from> <count>` | `REC <number> <payload>` for each, then `END <next>` |
//! | `LAST` | `LAST <number>`, 0 while there is none |
//! | `STATUS` | `STATUS {"last":N,"capacity":N}` |
//! | anything that cannot be done | `ERR full`, `ERR gap <last>`, `ERR conflict`, `ERR bad <why>`, `ERR io` |
//!
//! `tandem ledger-check --at A:P` asks one for its last record, for the plan's `check`.
//!
//! # The client
//!
//! `tandem rehearse-client --kind ledger|postgres --target A:P` writes one numbered record after another, the next one
//! when the last is acknowledged, and the same one again after an error or a timeout. It prints one JSON object a line:
//!
//! - `{"event":"started","at_ns":N,"number":N}`: the service answered; the first number to be written
//! - `{"event":"acked","at_ns":N,"number":N,"latency_us":N}`: acknowledged, at this time of `CLOCK_BOOTTIME`; the latency
//!   is that of the try that succeeded
//! - `{"event":"error","at_ns":N,"number":N,"error":"…"}`: a try failed
//! - `{"event":"lost","at_ns":N,"number":N,"last":N}`: the service says that it never had what it acknowledged; no more is
//!   written, so that the loss stays visible
//! - `{"event":"stopped","at_ns":N,"last":N}`: after `stop` or the end of standard input, SIGTERM or SIGINT; then it exits
//!
//! With `--verify` it reads numbers from standard input, one a line, looks for each in the service, prints
//! `{"event":"verified","at_ns":N,"expected":N,"found":N,"missing_count":N,"missing":[…],"damaged":[…]}` with at most
//! 1,000 numbers in each list, and exits with 0 if none is missing or damaged, else 1. If the service does not answer for
//! `--patience-ms`, it prints an `error` line and exits with 1.

mod check;
mod client;
mod format;
mod server;
mod store;
mod target;

pub(crate) use check::{CheckArgs, check};
pub(crate) use client::{ClientArgs, client};
pub(crate) use server::{ServeArgs, serve};
