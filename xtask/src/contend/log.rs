//! The pool's own log, read along as it grows: the pool forgets old events.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::thread::JoinHandle;

use serde_json::Value;

use super::ground::Ground;
use crate::Result;

pub(super) struct Follower {
    child: Child,
    reader: Option<JoinHandle<Result<Vec<Value>, String>>>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It has ended already, at worst.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Follower {
    pub(super) fn start(ground: &Ground) -> Result<Self> {
        let mut command = ground.wtpool();
        command.args(["events", "--follow", "--json"]).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or("stdout is piped")?;
        let reader = std::thread::spawn(move || read(stdout).map_err(|e| e.to_string()));
        Ok(Self { child, reader: Some(reader) })
    }

    /// All events until now.
    pub(super) fn finish(mut self) -> Result<Vec<Value>> {
        // It looks five times a second.
        std::thread::sleep(std::time::Duration::from_secs(2));
        if let Some(status) = self.child.try_wait()? {
            return Err(format!("`wtpool events --follow` ended by itself: {status}").into());
        }
        self.child.kill()?;
        self.child.wait()?;
        match self.reader.take().map(JoinHandle::join) {
            Some(Ok(read)) => Ok(read?),
            _ => Err("the reader of events panicked".into()),
        }
    }
}

fn read(stdout: ChildStdout) -> Result<Vec<Value>> {
    let mut events = Vec::new();
    for line in BufReader::new(stdout).lines() {
        events.push(serde_json::from_str(&line?)?);
    }
    Ok(events)
}
