//! The reference model against a real pool, on the memory isolator.
//!
//! Each request is a process of its own: a pool over the common store, on a runtime that is driven
//! by hand and dropped when the process is killed, so that its tasks end at whatever await they
//! stand at.

mod check;
mod steps;
mod system;

use proptest::test_runner::Config;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use testkit::model::Model;

use system::System;

prop_state_machine! {
    // More with `PROPTEST_CASES`, never fewer.
    #![proptest_config(Config {
        cases: Config::default().cases.max(256),
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn a_pool_does_what_the_model_says(sequential 1..40 => Checked<0>);

    #[test]
    fn a_pool_whose_store_is_late_does_what_the_model_says(sequential 1..40 => Checked<5>);
}

/// The store applies each change that many turns of the scheduler after it was asked to.
struct Checked<const LATE: u32>;

impl<const LATE: u32> StateMachineTest for Checked<LATE> {
    type SystemUnderTest = System;
    type Reference = Model;

    fn init_test(model: &Model) -> System {
        System::new(model.cap, LATE)
    }

    fn apply(
        mut system: System,
        model: &Model,
        step: <Model as ReferenceStateMachine>::Transition,
    ) -> System {
        system.step(model, &step);
        system.drive(model);
        system.check(model);
        system
    }

    fn check_invariants(_system: &System, _model: &Model) {}

    fn teardown(system: System, _model: Model) {
        system.end();
    }
}
