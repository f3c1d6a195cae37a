//! Which steps there are from a state, and how often each comes.

use pool_core::ErrorKind;
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

use super::{Ask, Deed, Kind, Model, Step, Trouble};
use crate::chaos::{Answer, Method};

/// Any request.
fn ask() -> impl Strategy<Value = Ask> {
    let kind = prop_oneof![3 => Just(Kind::Held), 2 => (0..4u64).prop_map(Kind::Detached)];
    let session = proptest::option::weighted(0.4, 0..2u8);
    let wait = proptest::option::weighted(0.3, 0..4u64);
    let linger = prop_oneof![2 => Just(0), 1 => 1..4u64];
    (kind, session, wait, proptest::bool::weighted(0.2), linger).prop_map(
        |(kind, session, wait, reserve, linger)| Ask { kind, session, wait, reserve, linger },
    )
}

/// A request that does not stop half-way of its own will.
fn ask_at_once() -> impl Strategy<Value = Ask> {
    ask().prop_map(|ask| Ask { reserve: false, ..ask })
}

fn answer(hang: bool) -> BoxedStrategy<Answer> {
    let kinds = vec![ErrorKind::NoSpace, ErrorKind::Busy, ErrorKind::PermissionDenied];
    let kind = proptest::sample::select(kinds);
    let ends = prop_oneof![
        2 => kind.clone().prop_map(Answer::Err),
        2 => kind.prop_map(Answer::ErrAfter),
        1 => Just(Answer::Slow(3)),
    ];
    if !hang {
        return ends.boxed();
    }
    prop_oneof![3 => ends, 1 => Just(Answer::Never), 1 => Just(Answer::NeverAfter)].boxed()
}

/// Something wrong. In a `request`, where the model could not tell whether it is met, nothing hangs.
fn trouble(request: bool) -> impl Strategy<Value = Trouble> {
    use Method::{Discover, Dispose, Inspect, Preserve, Recycle};
    // For a request, see `Making`.
    let recycling = (!request).then_some(Recycle);
    let methods: Vec<Method> =
        [Discover, Dispose, Inspect, Preserve].into_iter().chain(recycling).collect();
    let method = proptest::sample::select(methods);
    prop_oneof![
        3 => any::<u8>().prop_map(Trouble::Stranger),
        1 => answer(true).prop_map(Trouble::Resolving),
        3 => answer(true).prop_map(Trouble::Making),
        3 => (method, answer(!request)).prop_map(|(m, a)| Trouble::Backend(m, a)),
        2 => answer(true).prop_map(Trouble::Cache),
    ]
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        (1..5usize).prop_map(Self::new).boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Step> {
        let any = prop_oneof![
            8 => ask().prop_map(Step::Acquire),
            // Whether a detached lease began before the crash, nobody can tell from outside.
            3 => (ask(), 0..60u32).prop_map(|(ask, steps)| {
                Step::CrashAcquiring(Ask { kind: Kind::Held, ..ask }, steps)
            }),
            3 => (ask(), 0..60u32).prop_map(|(ask, steps)| {
                Step::DropAcquiring(Ask { kind: Kind::Held, ..ask }, steps)
            }),
            1 => (0..4u64).prop_map(Step::Pass),
            1 => (-30..30i8).prop_map(Step::SetWall),
            1 => Just(Step::Reboot),
            3 => Just(Step::Reconcile),
            1 => Just(Step::PruneAll),
            1 => (0..2u8).prop_map(Step::EndSession),
            3 => (trouble(true), ask_at_once())
                .prop_map(|(trouble, ask)| Step::Amid(trouble, Deed::Acquire(ask))),
            2 => trouble(false).prop_map(|trouble| Step::Amid(trouble, Deed::Reconcile)),
        ];
        if state.entries.is_empty() {
            return any.boxed();
        }
        // Steps about a request: of all there are, one that the step is possible for. A random
        // one would rarely be.
        let about = |step: fn(usize) -> Step| {
            let fitting = state.allows_any(step)?;
            Some(proptest::sample::select(fitting).prop_map(step).boxed())
        };
        let crash = state.allows_any(|n| Step::CrashReleasing(n, 0)).map(|fitting| {
            (proptest::sample::select(fitting), 0..60u32)
                .prop_map(|(n, steps)| Step::CrashReleasing(n, steps))
                .boxed()
        });
        let write = state.allows_any(|n| Step::Write(n, 0)).map(|fitting| {
            (proptest::sample::select(fitting), 0..4u8)
                .prop_map(|(n, byte)| Step::Write(n, byte))
                .boxed()
        });
        let amid = state.allows_any(Step::Release).map(|fitting| {
            (trouble(false), proptest::sample::select(fitting))
                .prop_map(|(trouble, n)| Step::Amid(trouble, Deed::Release(n)))
                .boxed()
        });
        let put = state
            .allows(&Step::PutForeign(None))
            .then(|| proptest::option::of(ask_at_once()).prop_map(Step::PutForeign).boxed());
        let take = state.allows(&Step::TakeForeign).then(|| Just(Step::TakeForeign).boxed());
        let weighted = [
            (20, Some(any.boxed())),
            (3, about(Step::Materialise)),
            (2, about(Step::Cancel)),
            (2, about(Step::Renew)),
            (6, about(Step::Release)),
            (1, about(Step::ReleaseAgain)),
            (1, about(Step::RenewStale)),
            (4, about(Step::Kill)),
            (2, about(Step::Commit)),
            (2, about(Step::DeleteByHand)),
            (3, about(Step::Enter)),
            (3, about(Step::Leave)),
            (2, about(Step::Spoil)),
            (3, about(Step::Mend)),
            (3, crash),
            (4, amid),
            (1, put),
            (1, take),
            (6, write),
        ];
        let possible = weighted.into_iter().filter_map(|(w, s)| Some((w, s?))).collect();
        proptest::strategy::Union::new_weighted(possible).boxed()
    }

    fn apply(mut state: Self, step: &Step) -> Self {
        state.step(step);
        state
    }

    fn preconditions(state: &Self, step: &Step) -> bool {
        state.allows(step)
    }
}

impl Model {
    fn allows_any(&self, step: impl Fn(usize) -> Step) -> Option<Vec<usize>> {
        let fitting: Vec<usize> =
            self.entries.keys().copied().filter(|n| self.allows(&step(*n))).collect();
        (!fitting.is_empty()).then_some(fitting)
    }
}
