//! The integration tests of the crate, in one binary, which links once.

mod adversary;
mod branches;
mod conformance;
mod deletion;
mod discovery;
mod filters;
mod foreign;
mod fuzz;
mod guards;
mod inspect;
mod layouts;
mod lifecycle;
mod malice;
mod own_worktree;
mod partial;
mod power;
mod random;
mod rescue;
mod set_up;
mod source;
mod sources;
mod strangers;
mod submodules;
mod support;
mod swap;
mod trash;
