//! The signals that ask this process to end.

use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Cause;
use tokio::sync::mpsc;

/// A signal that arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) number: i32,
    /// It came from the terminal, which sends it to the whole foreground group: what runs inside
    /// the lease has got it as well.
    pub(crate) from_terminal: bool,
}

impl Arrived {
    /// To pass it on.
    pub(crate) fn signal(self) -> Signal {
        match self.number {
            SIGINT => Signal::INT,
            SIGQUIT => Signal::QUIT,
            SIGHUP => Signal::HUP,
            _ => Signal::TERM,
        }
    }
}

/// Signals, in the order in which they arrive.
#[derive(Debug)]
pub(crate) struct Signals(mpsc::UnboundedReceiver<Arrived>);

impl Signals {
    /// From now on, signals are only reported here. Those that this process was started with ignored
    /// (by `nohup`, say) stay ignored, for its children as well.
    pub(crate) fn catch() -> pool_core::Result<Self> {
        let failed = |e| pool_core::Error::io("listen for signals", e);
        let ignored = ignored();
        let wanted = [SIGINT, SIGQUIT, SIGHUP, SIGTERM];
        let wanted = wanted.into_iter().filter(|n| ignored & (1 << (n - 1)) == 0);
        let mut signals = SignalsInfo::<WithOrigin>::new(wanted).map_err(failed)?;
        let (give, take) = mpsc::unbounded_channel();
        let listen = move || {
            for origin in signals.forever() {
                let interactive = matches!(origin.signal, SIGINT | SIGQUIT);
                let from_terminal = interactive && matches!(origin.cause, Cause::Kernel);
                if give.send(Arrived { number: origin.signal, from_terminal }).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(failed)?;
        Ok(Self(take))
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Arrived {
        match self.0.recv().await {
            Some(arrived) => arrived,
            // The thread ends only with the receiver.
            None => std::future::pending().await,
        }
    }
}

/// The set of ignored signals, one bit each; none where that can't be known.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
