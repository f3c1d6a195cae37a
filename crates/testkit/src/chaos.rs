//! A backend on which nothing can be relied on.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pool_core::{
    Base, Clock, Discovered, Error, ErrorKind, Inspection, Isolator, LeaseName, Plan, Preserved,
    RescueArchive, Result, SlotId, Wish,
};
use tokio::task::yield_now;

/// The methods of [`Isolator`] that can be made to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the method of its name")]
pub enum Method {
    Resolve,
    Provision,
    Inspect,
    Preserve,
    Recycle,
    Dispose,
    Sweep,
    Discover,
    Usage,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Resolve,
        Self::Provision,
        Self::Inspect,
        Self::Preserve,
        Self::Recycle,
        Self::Dispose,
        Self::Sweep,
        Self::Discover,
        Self::Usage,
    ];
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As the backend behind it says.
    Ok,
    /// With that error; the backend is not asked.
    Err(ErrorKind),
    /// With that error, though the backend did what it was asked for.
    ErrAfter(ErrorKind),
    /// As the backend says, after yielding that often.
    Slow(u32),
    /// As the backend says, that much later by the clock; see [`Chaos::with_clock`].
    Late(Duration),
    /// Not at all; the backend is not asked.
    Never,
    /// Not at all, though the backend did what it was asked for.
    NeverAfter,
}

/// A decorator around any backend: each call is answered by a script, a rule, or (by default) the
/// backend. Calls are counted.
///
/// ```
/// # use std::sync::Arc;
/// # use pool_core::{ErrorKind, Isolator as _};
/// # use testkit::chaos::{Answer, Chaos, Method};
/// # use testkit::memory::MemoryIsolator;
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let chaos = Chaos::new(Arc::new(MemoryIsolator::new()));
/// chaos.next(Method::Discover, Answer::Err(ErrorKind::NoSpace));
/// assert_eq!(chaos.discover().await.unwrap_err().kind(), ErrorKind::NoSpace);
/// assert!(chaos.discover().await.is_ok(), "once only");
/// assert_eq!(chaos.calls(Method::Discover), 2);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Chaos {
    inner: Arc<dyn Isolator>,
    clock: Option<Arc<dyn Clock>>,
    plans: Mutex<BTreeMap<Method, Script>>,
}

#[derive(Debug, Default)]
struct Script {
    next: VecDeque<Answer>,
    always: Option<Answer>,
    calls: u64,
    running: u64,
    most: u64,
}

impl Chaos {
    /// A decorator that does nothing yet.
    pub fn new(inner: Arc<dyn Isolator>) -> Self {
        Self { inner, clock: None, plans: Mutex::default() }
    }

    /// As [`new`](Self::new), with a clock for [`Answer::Late`].
    pub fn with_clock(inner: Arc<dyn Isolator>, clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), ..Self::new(inner) }
    }

    fn plans(&self) -> MutexGuard<'_, BTreeMap<Method, Script>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one call, after those that were scripted before, in this way.
    pub fn next(&self, method: Method, answer: Answer) {
        self.plans().entry(method).or_default().next.push_back(answer);
    }

    /// Answers all calls, after those that were scripted, in this way.
    pub fn always(&self, method: Method, answer: Answer) {
        self.plans().entry(method).or_default().always = Some(answer);
    }

    /// Forgets all scripts and rules. Calls that hang go on hanging.
    pub fn calm(&self) {
        for script in self.plans().values_mut() {
            script.next.clear();
            script.always = None;
        }
    }

    /// How often a method was called.
    pub fn calls(&self, method: Method) -> u64 {
        self.plans().get(&method).map_or(0, |script| script.calls)
    }

    /// How many calls of a method run now.
    pub fn running(&self, method: Method) -> u64 {
        self.plans().get(&method).map_or(0, |script| script.running)
    }

    /// How many calls of a method ran at the same time at most.
    pub fn most(&self, method: Method) -> u64 {
        self.plans().get(&method).map_or(0, |script| script.most)
    }

    fn enter(&self, method: Method) -> (Running<'_>, Answer) {
        let mut plans = self.plans();
        let script = plans.entry(method).or_default();
        script.calls += 1;
        script.running += 1;
        script.most = script.most.max(script.running);
        let answer = script.next.pop_front().or(script.always).unwrap_or(Answer::Ok);
        (Running { of: self, method }, answer)
    }

    async fn answer<T>(
        &self,
        method: Method,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let (running, answer) = self.enter(method);
        let error = |kind| Error::new(kind, format!("{method:?} failed because the test wants it"));
        let result = match answer {
            Answer::Ok => call.await,
            Answer::Err(kind) => Err(error(kind)),
            Answer::ErrAfter(kind) => call.await.and_then(|_| Err(error(kind))),
            Answer::Slow(times) => {
                for _ in 0..times {
                    yield_now().await;
                }
                call.await
            }
            Answer::Late(span) => {
                let clock = self.clock.as_ref().expect("only a chaos with a clock can be late");
                clock.sleep(span).await;
                call.await
            }
            Answer::Never => pending().await,
            Answer::NeverAfter => {
                // Dropped at once: a proof or an inspection is not to outlive the call.
                drop(call.await);
                pending().await
            }
        };
        drop(running);
        result
    }
}

/// Counts a call that runs, also when it is dropped.
struct Running<'a> {
    of: &'a Chaos,
    method: Method,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(script) = self.of.plans().get_mut(&self.method) {
            script.running -= 1;
        }
    }
}

#[async_trait]
impl Isolator for Chaos {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn place(&self, slot: SlotId) -> PathBuf {
        self.inner.place(slot)
    }

    fn pool_dir(&self) -> Option<&Path> {
        self.inner.pool_dir()
    }

    fn claim_dir(&self) -> Result<()> {
        self.inner.claim_dir()
    }

    async fn resolve(&self, wish: &Wish, name: &LeaseName) -> Result<Base> {
        self.answer(Method::Resolve, self.inner.resolve(wish, name)).await
    }

    async fn provision(&self, plan: &Plan) -> Result<()> {
        self.answer(Method::Provision, self.inner.provision(plan)).await
    }

    async fn inspect(&self, plan: &Plan) -> Result<Inspection> {
        self.answer(Method::Inspect, self.inner.inspect(plan)).await
    }

    async fn preserve(&self, inspection: Inspection) -> Result<Preserved> {
        self.answer(Method::Preserve, self.inner.preserve(inspection)).await
    }

    async fn recycle(&self, plan: &Plan, proof: Preserved) -> Result<()> {
        self.answer(Method::Recycle, self.inner.recycle(plan, proof)).await
    }

    async fn dispose(&self, proof: Preserved) -> Result<()> {
        self.answer(Method::Dispose, self.inner.dispose(proof)).await
    }

    fn has_trash(&self) -> bool {
        self.inner.has_trash()
    }

    async fn sweep(&self, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<()> {
        self.answer(Method::Sweep, self.inner.sweep(progress)).await
    }

    async fn discover(&self) -> Result<Vec<Discovered>> {
        self.answer(Method::Discover, self.inner.discover()).await
    }

    async fn usage(&self, slot: SlotId) -> Result<u64> {
        self.answer(Method::Usage, self.inner.usage(slot)).await
    }

    fn rescues(&self) -> Option<&dyn RescueArchive> {
        self.inner.rescues()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::clock::{VirtualClock, settle};
    use crate::conformance::suspend;
    use crate::memory::MemoryIsolator;

    const SLOT: SlotId = SlotId(1);

    async fn plan(isolator: &dyn Isolator) -> Plan {
        let name = LeaseName::new("chaotic").expect("a good name");
        let base = isolator.resolve(&Wish::default(), &name).await.expect("nothing is wrong yet");
        Plan { slot: SLOT, lease: None, base }
    }

    #[tokio::test]
    async fn each_answer_does_what_it_says() {
        let memory = Arc::new(MemoryIsolator::new());
        let clock = VirtualClock::new();
        let chaos = Arc::new(Chaos::with_clock(memory.clone(), Arc::new(clock.clone())));
        let plan = plan(&*chaos).await;

        chaos.next(Method::Provision, Answer::Err(ErrorKind::NoSpace));
        let error = chaos.provision(&plan).await.expect_err("scripted");
        assert_eq!((error.kind(), memory.occupied()), (ErrorKind::NoSpace, vec![]));

        chaos.next(Method::Provision, Answer::Never);
        {
            let call = pin!(chaos.provision(&plan));
            assert!(suspend(call, 0).await.is_none());
            assert_eq!(chaos.running(Method::Provision), 1);
        }
        assert_eq!((chaos.running(Method::Provision), memory.occupied()), (0, vec![]));

        chaos.next(Method::Provision, Answer::ErrAfter(ErrorKind::Other));
        chaos.provision(&plan).await.expect_err("scripted");
        assert_eq!(memory.occupied(), [SLOT]);

        chaos.always(Method::Inspect, Answer::Slow(5));
        let found = chaos.inspect(&plan).await.expect("slow, but right");
        chaos.next(Method::Preserve, Answer::Late(Duration::from_secs(5)));
        let late = tokio::spawn({
            let chaos = chaos.clone();
            async move { chaos.preserve(found).await }
        });
        settle().await;
        assert!(!late.is_finished());
        clock.advance(Duration::from_secs(5));
        let proof = late.await.expect("no panic").expect("late, but right");

        chaos.next(Method::Dispose, Answer::NeverAfter);
        {
            let mut call = pin!(chaos.dispose(proof));
            tokio::select! {
                _ = &mut call => panic!("it was to hang"),
                () = settle() => {}
            }
        }
        assert_eq!(memory.occupied(), []);

        chaos.always(Method::Discover, Answer::Err(ErrorKind::Busy));
        chaos.discover().await.expect_err("always");
        chaos.calm();
        chaos.discover().await.expect("calm again");
        assert_eq!((chaos.calls(Method::Provision), chaos.calls(Method::Discover)), (3, 2));
        memory.audit().expect("nobody broke the contract");
    }
}
