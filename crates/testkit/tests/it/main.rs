//! The test kit's own tests.

mod fixtures;
mod model;
mod sabotage;

testkit::isolator_conformance!(memory, testkit::conformance::MemoryHarness::new());
