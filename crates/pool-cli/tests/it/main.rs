//! The program, run as its users run it, on repositories made for each test.

mod bench;
mod cache;
mod cap;
mod configuration;
mod corpus;
mod events;
mod exhausted;
mod faults;
mod fence;
mod fuzz;
mod host;
mod killed;
mod lease;
mod malice;
mod moved;
mod others;
mod power;
mod reaper;
mod repository;
mod rescue;
mod run;
mod sccache;
mod settings;
mod source;
mod terminal;
mod unwritable;
