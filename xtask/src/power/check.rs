//! What must hold when the machine is on again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Ground, Sum, checked};
use crate::Result;

/// So many of the last leases that had ended are looked at: the earlier ones were on the disk long before.
const LAST: usize = 8;

/// Looks at what a loss of power left in `dir`; returns numbers and `violations`.
pub(super) fn check(dir: &Path) -> Result<Value> {
    let facts: Value = serde_json::from_slice(&std::fs::read(dir.join("facts.json"))?)?;
    let path = |key: &str| PathBuf::from(facts[key].as_str().unwrap_or_default());
    let ground = Ground { wtpool: path("wtpool"), root: path("root") };
    // Another boot: nobody who was there is there any more.
    let boot = dir.join("boot_id");
    std::fs::write(&boot, "11111111-2222-4333-8444-555555555555\n")?;
    checked(Command::new("mount").arg("--bind").arg(&boot).arg("/proc/sys/kernel/random/boot_id"))?;
    let mut found = Sum::default();
    // XFS would not have two of one name, and the original is mounted still, in the other namespace.
    let options = if facts["filesystem"] == "xfs" { "loop,nouuid" } else { "loop" };
    let mount = checked(
        Command::new("mount").args(["-o", options]).arg(dir.join("image")).arg(&ground.root),
    );
    if let Err(error) = mount {
        found.violations.push(format!("the filesystem itself is lost: {error}"));
        return Ok(found.json());
    }
    let none = Vec::new();
    let all = facts["facts"].as_array().unwrap_or(&none);
    if let Err(error) = look(&ground, all, &mut found) {
        found.violations.push(error.to_string());
    }
    for violation in &mut found.violations {
        *violation = format!("{violation} ({})", facts["how"].as_str().unwrap_or_default());
    }
    Ok(found.json())
}

fn look(ground: &Ground, facts: &[Value], found: &mut Sum) -> Result {
    let in_state =
        |state: &str| -> Vec<&Value> { facts.iter().filter(|f| f["state"] == state).collect() };
    let (leased, over) = (in_state("leased"), in_state("over"));
    let over = &over[over.len().saturating_sub(LAST)..];

    let (listed, said) = list(ground)?;
    if said.contains("rebuilt") || said.contains("brought up to date") {
        found.more("stores rebuilt");
    }
    for fact in &leased {
        found.more("leases looked for");
        let name = text(fact, "name");
        match listed.get(name).map(String::as_str) {
            Some("leased") => {}
            Some(state) => found.violations.push(format!("the lease {name} is {state}")),
            None => found.violations.push(format!("the lease {name} is lost")),
        }
        if fact["touched"] != true
            && let Err(error) = ground.git(["rev-parse", "--verify", "--quiet", &branch(name)])
        {
            found.violations.push(format!("the branch of the lease {name} is lost: {error}"));
        }
    }
    rescues(ground, over, found)?;

    checked(ground.wtpool().arg("prune"))?;
    rescues(ground, over, found)?;
    let (listed, _) = list(ground)?;
    for fact in &leased {
        match listed.get(text(fact, "name")).map(String::as_str) {
            Some("leased") if fact["touched"] != true => usable(ground, text(fact, "name"), found)?,
            Some("leased") => {}
            other => {
                let state = other.unwrap_or("over");
                found.more(&format!("leases {state} after the recovery"));
            }
        }
    }
    for (name, path) in over.iter().rev().take(2).filter_map(|f| Some((f["rescue"].as_str()?, f))) {
        restored(ground, name, path, found)?;
    }
    // And life goes on.
    let path = checked(ground.wtpool().args(["acquire", "--name", "after-the-loss"]))?;
    std::fs::write(Path::new(path.trim()).join("untracked.txt"), "after the loss\n")?;
    let released = checked(ground.wtpool().args(["release", "--json", "after-the-loss"]))?;
    let released: Value = serde_json::from_str(&released)?;
    let Some(reference) = released["rescue"]["ref"].as_str() else {
        return Err(format!("nothing is saved any more: {released}").into());
    };
    ground.git(["show", &format!("{reference}:untracked.txt")])?;
    // What agents had not brought to the disk themselves may be broken; what nobody had touched may not.
    if facts.iter().all(|f| f["state"] == "over" || f["touched"] != true) {
        found.more("whole repositories");
        ground.git(["rev-list", "--objects", "--all", "--quiet"])?;
    }
    Ok(())
}

/// The states of the slots by the names of their leases, and what was said besides.
fn list(ground: &Ground) -> Result<(BTreeMap<String, String>, String)> {
    let output = ground.wtpool().args(["list", "--json"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("the pool can't be listed: {said}").into());
    }
    let listed: Value = serde_json::from_slice(&output.stdout)?;
    let slots = listed["slots"].as_array().ok_or("list --json has no slots")?;
    let named = |slot: &Value| {
        let why = slot["kept_because"].as_str().map_or_else(String::new, |why| format!(": {why}"));
        let name = slot["lease"]["name"].as_str()?;
        Some((name.to_owned(), format!("{}{why}", text(slot, "state"))))
    };
    Ok((slots.iter().filter_map(named).collect(), said))
}

/// What was reported as saved can be read, by git alone.
fn rescues(ground: &Ground, over: &[&Value], found: &mut Sum) -> Result {
    for fact in over {
        let name = text(fact, "name");
        if let Some(rescue) = fact["rescue"].as_str() {
            found.more("rescues looked for");
            for (path, content) in fact["files"].as_object().into_iter().flatten() {
                let at = format!("refs/wtpool/rescue/{rescue}:{path}");
                compare(ground, &at, content, found);
            }
        }
        for commit in fact["commits"].as_array().into_iter().flatten() {
            found.more("commits looked for");
            let [id, path, content] = [0, 1, 2].map(|part| &commit[part]);
            let id = id.as_str().unwrap_or_default();
            compare(ground, &format!("{id}:{}", path.as_str().unwrap_or_default()), content, found);
            let whole = ground.git(["rev-list", "--objects", "--quiet", id]);
            let kept = ground.git(["for-each-ref", "--contains", id, "--count", "1"]);
            match (whole, kept) {
                (Ok(_), Ok(refs)) if !refs.trim().is_empty() => {}
                (Err(error), _) | (_, Err(error)) => {
                    found.violations.push(format!("the commit {id} of {name} is damaged: {error}"));
                }
                _ => found.violations.push(format!("nothing keeps the commit {id} of {name}")),
            }
        }
    }
    Ok(())
}

fn compare(ground: &Ground, at: &str, content: &Value, found: &mut Sum) {
    match ground.git(["cat-file", "blob", at]) {
        Ok(read) if Some(read.as_str()) == content.as_str() => {}
        Ok(read) => found.violations.push(format!("{at} has {} other bytes", read.len())),
        Err(error) => found.violations.push(format!("{at} is lost: {error}")),
    }
}

/// A lease that nobody had touched is one that can be worked in.
fn usable(ground: &Ground, name: &str, found: &mut Sum) -> Result {
    let shown = checked(ground.wtpool().args(["show", "--json", name]))?;
    let shown: Value = serde_json::from_str(&shown)?;
    let path =
        shown["path"].as_str().or_else(|| shown["lease"]["path"].as_str()).unwrap_or_default();
    let status = checked(ground.command("git", Path::new(path)).args([
        "status",
        "--porcelain",
        "--untracked-files=all",
    ]));
    match status {
        Ok(status) if status.is_empty() => found.more("leases as they were"),
        Ok(_) => found.more("leases with files lost"),
        Err(error) => found.violations.push(format!("the lease {name} is of no use: {error}")),
    }
    Ok(())
}

/// A rescue can be restored, every byte of it.
fn restored(ground: &Ground, rescue: &str, fact: &Value, found: &mut Sum) -> Result {
    let into = ground.root.join(format!("restored-{rescue}"));
    let done = checked(ground.wtpool().args(["rescue", "restore", rescue, "--into"]).arg(&into));
    if let Err(error) = done {
        found.violations.push(format!("{rescue} can't be restored: {error}"));
        return Ok(());
    }
    found.more("rescues restored");
    for (path, content) in fact["files"].as_object().into_iter().flatten() {
        let read = std::fs::read_to_string(into.join(path)).unwrap_or_default();
        if Some(read.as_str()) != content.as_str() {
            found
                .violations
                .push(format!("{path} of {rescue} comes back with {} other bytes", read.len()));
        }
    }
    Ok(())
}

fn branch(name: &str) -> String {
    format!("refs/heads/wtpool/{name}")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
