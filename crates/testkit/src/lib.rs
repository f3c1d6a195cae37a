#![doc = include_str!("../README.md")]

pub mod cache;
pub mod chaos;
pub mod clock;
pub mod conformance;
mod document;
pub mod fixture;
pub mod fuzz;
mod git;
pub mod liveness;
pub mod memory;
pub mod model;
pub mod steps;
pub mod store;
pub mod truth;

pub use git::{Git, git, scrub};
