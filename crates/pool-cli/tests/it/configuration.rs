//! Git's configuration, wherever git finds it: a lease is what `git worktree add` makes.

use std::fs;
use std::process::Command;

use crate::bench::{Bench, finish};

/// A repository with a file of a filter that is set up nowhere yet, and a file that sets it up.
fn bench() -> (Bench, String) {
    let bench = Bench::new();
    let repo = bench.repo();
    fs::write(repo.join(".gitattributes"), "*.bin filter=large\n").expect("written");
    fs::write(repo.join("a.bin"), "pointer\n").expect("written");
    bench.fixture.git().args(["add", "."]).ok();
    bench.fixture.git().args(["commit", "-qm", "large"]).ok();
    let config = bench.home.path().join("elsewhere");
    let filter = "[filter \"large\"]\n\tsmudge = sed s/pointer/content/\n\
                  \tclean = sed s/content/pointer/\n\trequired = true\n";
    fs::write(&config, filter).expect("written");
    let config = config.to_str().expect("UTF-8").to_owned();
    (bench, config)
}

/// Runs it without the variables that keep a test's configuration apart, but with those.
fn with(mut command: Command, variables: &[(&str, &str)]) -> Command {
    for name in ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"] {
        command.env_remove(name);
    }
    command.env("GIT_CONFIG_NOSYSTEM", "1").envs(variables.iter().copied());
    command
}

#[test]
fn filters_are_those_that_git_finds_wherever_they_are_set_up() {
    let (bench, config) = bench();
    let parameters = format!("'include.path'='{config}'");
    let user = bench.home.path().join("config/git");
    fs::create_dir_all(&user).expect("made");
    let conditional = bench.home.path().join("conditional");
    let condition = format!(
        "[includeIf \"hasconfig:remote.*.url:https://example.com/**\"]\n\
                             \tpath = {config}\n"
    );
    fs::write(&conditional, condition).expect("written");
    let url = "https://example.com/demo.git";
    bench.fixture.git().args(["remote", "add", "there", url]).ok();
    let conditional = conditional.to_str().expect("UTF-8");
    let ways: [&[(&str, &str)]; 5] = [
        &[("GIT_CONFIG_GLOBAL", &config)],
        &[("GIT_CONFIG_SYSTEM", &config), ("GIT_CONFIG_NOSYSTEM", "0")],
        &[
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "include.path"),
            ("GIT_CONFIG_VALUE_0", &config),
        ],
        &[("GIT_CONFIG_PARAMETERS", &parameters)],
        &[("GIT_CONFIG_GLOBAL", conditional)],
    ];
    for variables in ways {
        // The second is in the slot of the first.
        for turn in ["first", "second"] {
            let args = ["run", "--session", "s", "--", "sh", "-c", "cat a.bin; git status -s"];
            let ran = finish(&mut with(bench.wtpool(&args), variables));
            assert_eq!(ran.out, "content\n", "{turn}, {variables:?}: {ran:?}");
        }
        assert!(bench.rescues().is_empty(), "{variables:?}");
    }
    // Without them it is a pointer to git as well.
    let ran = bench.ok(&["run", "--session", "s", "--", "cat", "a.bin"]);
    assert_eq!(ran.out, "pointer\n", "in the slot of those that had the filter");
}

#[test]
fn file_of_configuration_is_relative_to_where_the_caller_is() {
    let (bench, config) = bench();
    let beside = bench.repo().parent().expect("a parent").join("gitconfig");
    fs::copy(config, beside).expect("copied");
    let ran = finish(&mut with(
        bench.wtpool(&["run", "--", "cat", "a.bin"]),
        &[("GIT_CONFIG_GLOBAL", "../gitconfig")],
    ));
    assert_eq!(ran.out, "content\n", "{ran:?}");
}
