//! Workspaces that come and go.

use std::collections::BTreeSet;

use pool_core::{BranchWish, Condition, ErrorKind, LeaseName, SlotId, Wish};
use tokio::task::JoinSet;

use super::{Harness, Steps as _};

const ONE: SlotId = SlotId(1);
const TWO: SlotId = SlotId(2);

/// [`place`](pool_core::Isolator::place) gives each slot one absolute path of its own, for ever.
pub async fn place_is_stable_absolute_and_distinct<H: Harness>(harness: &H) {
    let isolator = harness.isolator();
    let places: Vec<_> = (1..=40).map(|n| isolator.place(SlotId(n))).collect();
    assert!(places.iter().all(|place| place.is_absolute()), "{places:?}");
    assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), 40, "two slots share a place");
    for (a, b) in places.iter().flat_map(|a| places.iter().map(move |b| (a, b))) {
        assert!(a == b || !a.starts_with(b), "{} is inside {}", a.display(), b.display());
    }
    let plan = harness.lease(ONE, "stays").await;
    assert_eq!(isolator.place(ONE), places[0]);
    harness.end(&plan).await;
    assert_eq!(isolator.place(ONE), places[0]);
    assert!(!isolator.name().is_empty());
}

/// [`resolve`](pool_core::Isolator::resolve) changes nothing, gives the same answer until something
/// changes, and refuses what it must with the right kind of error.
pub async fn resolving_changes_nothing_and_refuses_what_it_must<H: Harness>(harness: &H) {
    let isolator = harness.isolator();
    let name = LeaseName::new("resolved").expect("a good name");
    let plain = Wish::default();
    let first = isolator.resolve(&plain, &name).await.expect("the default can be granted");
    assert_eq!(isolator.resolve(&plain, &name).await.expect("and again"), first);
    let branch = first.branch.clone().expect("a branch was generated");
    assert!(branch.created && branch.name.contains("resolved"), "{branch:?}");
    assert_eq!(harness.branch_tip(&branch.name).await, None, "resolving has made the branch");
    assert_eq!(isolator.discover().await.expect("it can be listed"), []);

    let exact = Wish { base: Some(first.commit.to_string()), ..Wish::default() };
    assert_eq!(isolator.resolve(&exact, &name).await.expect("a commit is a base"), first);

    let refused = async |wish: Wish, kind: ErrorKind| {
        let error = isolator.resolve(&wish, &name).await.expect_err(&format!("{wish:?}"));
        assert_eq!(error.kind(), kind, "{wish:?}: {error:?}");
    };
    for unknown in
        ["no-such-revision", "", "-q", "--all", "0123456789012345678901234567890123456789"]
    {
        let wish = Wish { base: Some(unknown.into()), ..Wish::default() };
        let error = isolator.resolve(&wish, &name).await.expect_err(unknown);
        let kinds = [ErrorKind::UnknownRevision, ErrorKind::InvalidInput];
        assert!(kinds.contains(&error.kind()), "{unknown:?}: {error:?}");
    }
    for malformed in ["", "a..b", "-x", "a b", "a\nb", "x.lock", "a~1", "/a", "a/", "@{-1}"] {
        let wish = Wish { branch: BranchWish::Named(malformed.into()), ..Wish::default() };
        refused(wish, ErrorKind::InvalidInput).await;
    }
    let capabilities = harness.capabilities();
    if let Some(busy) = capabilities.busy_branch {
        refused(Wish { branch: BranchWish::Named(busy), ..Wish::default() }, ErrorKind::NameTaken)
            .await;
    }
    if let Some(idle) = capabilities.idle_branch {
        let branch = BranchWish::Named(idle);
        let wish = Wish { base: Some(first.commit.to_string()), branch, ..Wish::default() };
        refused(wish, ErrorKind::InvalidInput).await;
    }

    let plan = harness.lease(ONE, "resolved").await;
    refused(Wish::default(), ErrorKind::NameTaken).await;
    let again = BranchWish::Named(branch.name);
    refused(Wish { branch: again, ..Wish::default() }, ErrorKind::NameTaken).await;

    // The caller's own checkout decides where a workspace starts.
    harness.write(ONE, "ahead.txt", b"ahead\n").await;
    let ahead = harness.commit(ONE).await;
    let origin = Some(isolator.place(ONE));
    let other = LeaseName::new("follows").expect("a good name");
    let wish = Wish { origin, ..Wish::default() };
    assert_eq!(isolator.resolve(&wish, &other).await.expect("it has a HEAD").commit, ahead);
    harness.end(&plan).await;
}

/// A workspace that was just made holds what its base holds, and nothing of it would be missed.
pub async fn a_fresh_workspace_has_nothing_to_lose<H: Harness>(harness: &H) {
    let plan = harness.lease(ONE, "fresh").await;
    assert_eq!(harness.condition(ONE).await, Some(Condition::Sound));
    let found = harness.look(&plan).await;
    assert!(found.present);
    assert_eq!(found.plan, plan);
    assert!(found.losses.is_empty(), "{}", found.losses);
    let branch = found.branch.clone().expect("it has a branch");
    assert_eq!((branch.kept, branch.commits), (false, 0));
    let made = plan.base.branch.as_ref().expect("it has a branch");
    assert_eq!(branch.name, made.name);
    assert_eq!(harness.branch_tip(&made.name).await.as_ref(), Some(&plan.base.commit));
    if let Some(tracked) = harness.capabilities().tracked {
        assert!(harness.read(ONE, &tracked).await.is_some(), "{tracked} is missing");
        assert!(harness.isolator().usage(ONE).await.expect("it can be measured") > 0);
    }
    let proof = harness.save(&plan).await;
    assert!(proof.rescue().is_none(), "there was nothing to save");
    harness.isolator().dispose(proof).await.expect("it can be removed");
    harness.assert_gone(ONE).await;
    harness.assert_no_branch(&plan).await;
}

/// What is done in one workspace is not seen in another.
pub async fn workspaces_are_isolated<H: Harness>(harness: &H) {
    let (one, two) = (harness.lease(ONE, "one").await, harness.lease(TWO, "two").await);
    let before = harness.files(TWO).await;
    harness.write(ONE, "shared-name.txt", b"of one\n").await;
    assert_eq!(harness.read(TWO, "shared-name.txt").await, None);
    harness.write(TWO, "shared-name.txt", b"of two\n").await;
    assert_eq!(harness.read(ONE, "shared-name.txt").await.as_deref(), Some(b"of one\n".as_slice()));
    harness.remove(TWO, "shared-name.txt").await;
    harness.commit(ONE).await;
    assert_eq!(harness.files(TWO).await, before);
    let found = harness.look(&two).await;
    assert!(found.losses.is_empty(), "{}", found.losses);
    harness.end(&one).await;
    assert_eq!(harness.files(TWO).await, before, "removing one changed the other");
    harness.end(&two).await;
}

/// Ten workspaces are made, used, saved and removed in parallel.
pub async fn ten_at_once_come_and_go<H: Harness>(harness: &H) {
    let mut plans = Vec::new();
    for n in 1..=10 {
        plans.push(harness.plan(SlotId(n), &format!("worker-{n}")).await);
    }
    let isolator = harness.isolator();
    let mut making = JoinSet::new();
    for plan in plans.clone() {
        let isolator = harness.isolator();
        making.spawn(async move { isolator.provision(&plan).await });
    }
    while let Some(made) = making.join_next().await {
        made.expect("no panic").expect("each can be made");
    }
    let found = isolator.discover().await.expect("they can be listed");
    assert_eq!(found.len(), 10);
    assert!(found.iter().all(|found| found.condition == Condition::Sound), "{found:?}");

    for plan in &plans {
        let n = plan.slot.0;
        harness.write(plan.slot, &format!("by-{n}.txt"), format!("{n}\n").as_bytes()).await;
        if n % 2 == 0 {
            harness.commit(plan.slot).await;
        }
    }
    for plan in &plans {
        let files = harness.files(plan.slot).await;
        let own: Vec<_> = files.iter().filter(|path| path.starts_with("by-")).collect();
        assert_eq!(own, [&format!("by-{}.txt", plan.slot)], "slot {}", plan.slot);
    }

    let mut ending = JoinSet::new();
    for plan in plans.clone() {
        let isolator = harness.isolator();
        ending.spawn(async move {
            let found = isolator.inspect(&plan).await?;
            let proof = isolator.preserve(found).await?;
            let rescued = proof.rescue().is_some();
            isolator.dispose(proof).await?;
            Ok::<_, pool_core::Error>((plan, rescued))
        });
    }
    while let Some(ended) = ending.join_next().await {
        let (plan, rescued) = ended.expect("no panic").expect("each can be removed");
        let committed = plan.slot.0 % 2 == 0;
        assert_eq!(rescued, !committed, "slot {}", plan.slot);
        let branch = plan.base.branch.expect("it had a branch");
        assert_eq!(harness.branch_tip(&branch.name).await.is_some(), committed, "{}", branch.name);
        harness.assert_gone(plan.slot).await;
    }
    assert_eq!(isolator.discover().await.expect("they can be listed"), []);
}

/// [`discover`](pool_core::Isolator::discover) reports the slots that are there, and no others.
pub async fn a_half_used_pool_is_discovered<H: Harness>(harness: &H) {
    let (three, seven) =
        (harness.lease(SlotId(3), "three").await, harness.lease(SlotId(7), "seven").await);
    let discovered = async || {
        let mut found = harness.isolator().discover().await.expect("they can be listed");
        found.sort_by_key(|found| found.slot);
        found.into_iter().map(|found| found.slot.0).collect::<Vec<_>>()
    };
    assert_eq!(discovered().await, [3, 7]);
    harness.end(&three).await;
    assert_eq!(discovered().await, [7]);
    harness.end(&seven).await;
    assert_eq!(discovered().await, Vec::<u32>::new());
}

/// After [`dispose`](pool_core::Isolator::dispose), nothing is left, and the slot can be used again.
pub async fn dispose_leaves_nothing<H: Harness>(harness: &H) {
    for round in 0..3 {
        let plan = harness.lease(ONE, &format!("round-{round}")).await;
        assert_eq!(harness.read(ONE, "mess.txt").await, None, "it was left over");
        harness.write(ONE, "mess.txt", b"mess\n").await;
        harness.write(ONE, "deep/er/mess.txt", b"mess\n").await;
        if let Some(path) = harness.capabilities().regenerable {
            harness.write(ONE, &path, b"output\n").await;
        }
        harness.end(&plan).await;
        harness.assert_no_branch(&plan).await;
    }
}

/// A second disposal of the same slot does nothing.
pub async fn disposing_twice_is_harmless<H: Harness>(harness: &H) {
    let plan = harness.lease(ONE, "twice").await;
    let first = harness.save(&plan).await;
    let second = harness.save(&plan).await;
    harness.isolator().dispose(first).await.expect("it can be removed");
    harness.isolator().dispose(second).await.expect("there is nothing left to do");
    harness.assert_gone(ONE).await;
    harness.end(&plan).await;
}

/// After [`recycle`](pool_core::Isolator::recycle), a workspace is as if it were new.
pub async fn recycle_leaves_nothing_of_the_lease_before<H: Harness>(harness: &H) {
    let capabilities = harness.capabilities();
    let first = harness.lease(ONE, "first").await;
    let fresh = harness.files(ONE).await;
    harness.write(ONE, "untracked.txt", b"u\n").await;
    harness.write(ONE, "some/where/else.txt", b"e\n").await;
    for path in capabilities.ignored.iter().chain(&capabilities.regenerable) {
        harness.write(ONE, path, b"ignored\n").await;
    }
    let original = match &capabilities.tracked {
        Some(path) => {
            let original = harness.read(ONE, path).await;
            harness.write(ONE, path, b"changed\n").await;
            original
        }
        None => None,
    };
    if capabilities.staging {
        harness.write(ONE, "staged.txt", b"s\n").await;
        harness.stage(ONE, "staged.txt").await;
    }

    let second = harness.plan(ONE, "second").await;
    let proof = harness.save(&first).await;
    assert!(proof.rescue().is_some(), "there was something to save");
    harness.isolator().recycle(&second, proof).await.expect("it can be used again");

    assert_eq!(harness.files(ONE).await, fresh);
    if let Some(path) = &capabilities.tracked {
        assert_eq!(harness.read(ONE, path).await, original);
    }
    assert_eq!(harness.condition(ONE).await, Some(Condition::Sound));
    let found = harness.look(&second).await;
    assert!(found.losses.is_empty(), "{}", found.losses);
    harness.assert_no_branch(&first).await;
    harness.end(&second).await;
    harness.assert_no_branch(&second).await;
}

/// A slot can be recycled any number of times, from any state to any other: also to no lease at
/// all and back.
pub async fn recycle_again_and_again<H: Harness>(harness: &H) {
    let isolator = harness.isolator();
    let mut plan = harness.lease(ONE, "turn-0").await;
    let fresh = harness.files(ONE).await;
    for turn in 1..=4 {
        harness.write(ONE, "work.txt", format!("turn {turn}\n").as_bytes()).await;
        if turn % 2 == 0 {
            harness.commit(ONE).await;
        }
        let name = format!("turn-{turn}");
        let next = if turn == 3 {
            let at_rest = harness.plan_on(ONE, &name, BranchWish::Detached).await;
            pool_core::Plan { lease: None, ..at_rest }
        } else {
            harness.plan(ONE, &name).await
        };
        let proof = harness.save(&plan).await;
        isolator.recycle(&next, proof).await.expect("it can be used again");
        assert_eq!(harness.files(ONE).await, fresh, "turn {turn}");
        let found = harness.look(&next).await;
        assert!(found.losses.is_empty(), "turn {turn}: {}", found.losses);
        plan = next;
    }
    harness.end(&plan).await;
}

/// A branch that the pool made is deleted if it gained nothing, and kept with what it gained.
pub async fn a_branch_is_kept_if_and_only_if_it_has_commits<H: Harness>(harness: &H) {
    let idle = harness.lease(ONE, "idle").await;
    let busy = harness.lease(TWO, "busy").await;
    let name = |plan: &pool_core::Plan| plan.base.branch.clone().expect("it has a branch").name;
    harness.write(TWO, "done.txt", b"done\n").await;
    harness.commit(TWO).await;
    harness.write(TWO, "more.txt", b"more\n").await;
    let tip = harness.commit(TWO).await;
    let proof = harness.save(&busy).await;
    assert!(proof.rescue().is_none(), "the branch keeps it");
    let report = proof.branch().cloned().expect("it has a branch");
    assert_eq!((report.name, report.kept, report.commits), (name(&busy), true, 2));
    harness.isolator().dispose(proof).await.expect("it can be removed");
    assert_eq!(harness.branch_tip(&name(&busy)).await, Some(tip));
    harness.end(&idle).await;
    harness.assert_no_branch(&idle).await;

    // The same, when the slot is used again at once.
    let first = harness.lease(ONE, "first").await;
    harness.write(ONE, "done.txt", b"done\n").await;
    let tip = harness.commit(ONE).await;
    let next = harness.plan(ONE, "next").await;
    let proof = harness.save(&first).await;
    harness.isolator().recycle(&next, proof).await.expect("it can be used again");
    assert_eq!(harness.branch_tip(&name(&first)).await, Some(tip));
    assert_eq!(harness.read(ONE, "done.txt").await, None);
    harness.end(&next).await;
    harness.assert_no_branch(&next).await;
}

/// A branch that exists is continued, never moved by the pool, and never deleted.
pub async fn a_branch_can_be_continued<H: Harness>(harness: &H) {
    let Some(idle) = harness.capabilities().idle_branch else { return };
    let before = harness.branch_tip(&idle).await.expect("the branch exists");
    let plan = harness.plan_on(ONE, "continues", BranchWish::Named(idle.clone())).await;
    assert_eq!(plan.base.commit, before);
    assert!(!plan.base.branch.as_ref().expect("it has a branch").created);
    harness.isolator().provision(&plan).await.expect("the slot is empty");
    let found = harness.look(&plan).await;
    assert!(found.losses.is_empty(), "{}", found.losses);
    harness.end(&plan).await;
    assert_eq!(harness.branch_tip(&idle).await, Some(before), "the branch was somebody's");

    let plan = harness.plan_on(ONE, "continues", BranchWish::Named(idle.clone())).await;
    harness.isolator().provision(&plan).await.expect("the slot is empty");
    harness.write(ONE, "continued.txt", b"more\n").await;
    let tip = harness.commit(ONE).await;
    harness.end(&plan).await;
    assert_eq!(harness.branch_tip(&idle).await, Some(tip));
}

/// A workspace can be on no branch; then there is none to report, and none is made.
pub async fn a_workspace_needs_no_branch<H: Harness>(harness: &H) {
    let plan = harness.plan_on(ONE, "free", BranchWish::Detached).await;
    assert_eq!(plan.base.branch, None);
    harness.isolator().provision(&plan).await.expect("the slot is empty");
    let found = harness.look(&plan).await;
    assert!(found.losses.is_empty() && found.branch.is_none(), "{found:?}");
    harness.end(&plan).await;
}

/// Of two leases that were resolved to the same new branch, the second is refused, and taking away
/// what was begun for it takes nothing from the first.
pub async fn a_branch_in_use_is_not_taken_again<H: Harness>(harness: &H) {
    let first = harness.lease(ONE, "first").await;
    harness.write(ONE, "work.txt", b"work\n").await;
    let second = pool_core::Plan { slot: TWO, ..first.clone() };
    let error = harness.isolator().provision(&second).await.expect_err("the branch is in use");
    assert_eq!(error.kind(), ErrorKind::NameTaken, "{error:?}");
    assert_eq!(harness.read(ONE, "work.txt").await.as_deref(), Some(b"work\n".as_slice()));
    assert_eq!(harness.condition(ONE).await, Some(Condition::Sound));
    let branch = first.base.branch.clone().expect("it has a branch").name;
    harness.end(&second).await;
    assert_eq!(harness.branch_tip(&branch).await.as_ref(), Some(&first.base.commit), "{branch}");
    harness.end(&first).await;
}
