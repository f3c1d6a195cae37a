#![doc = include_str!("../README.md")]

mod private;

pub use private::Private;
