#![doc = include_str!("../README.md")]

mod base;
mod cargo;
mod confine;
mod depinfo;
mod directories;
mod files;
#[cfg(test)]
mod fuzz;
mod identity;
mod install;
mod note;
mod observe;
mod private;
pub mod rustc;
mod sccache;
mod seed;
mod seeded;
mod setup;
mod shared_target;

pub use cargo::STEERING;
pub use confine::{DIRECTORY_VARIABLES, Surroundings, directories_of, leads_out};
pub use directories::Directories;
pub use files::allocated;
pub use note::is_slot_entry;
pub use private::Private;
pub use sccache::Sccache;
pub use seeded::Seeded;
pub use setup::{Lean, Setup};
pub use shared_target::SharedTarget;
