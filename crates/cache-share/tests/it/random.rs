//! Random work in several worktrees: what is built in each is made from its own files.
//!
//! Every program says of which sources it was made, in all the ways by which something gets into a program: as
//! source, by `include_str!`, by a build script, by a macro, from a crate that is no member. Each is a number
//! in a file, so that the same content occurs again, elsewhere and later. `PROPTEST_CASES` sets how many
//! lives there are.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use testkit::git;

use crate::support::{Lease, Workshop, assert_same, commit, look, write};

/// Where the numbers are, and what a file with that number says.
const PARTS: [Part; 8] = [
    ("app/src/number.rs", as_source),
    ("app/src/number.txt", plain),
    ("part/src/number.rs", as_source),
    ("part/number.txt", plain),
    ("shape/src/number.rs", as_source),
    ("app/word.txt", plain),
    ("extra/src/number.rs", as_source),
    ("tool/src/number.rs", as_source),
];

type Part = (&'static str, fn(u32) -> String);

fn as_source(number: u32) -> String {
    format!("pub const NUMBER: u32 = {number};\n")
}

fn plain(number: u32) -> String {
    number.to_string()
}

fn files() -> Vec<(&'static str, String)> {
    let manifest = |name: &str, rest: &str| {
        format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n{rest}")
    };
    let root = "[workspace]\nresolver = \"2\"\nmembers = [\"app\", \"part\", \"shape\", \"tool\"]\n\
        exclude = [\"extra\"]\n";
    let app = "[dependencies]\npart = { path = \"../part\" }\nshape = { path = \"../shape\" }\n\
               extra = { path = \"../extra\" }\nitoa = \"1\"\n";
    let main = "mod number;\n\nfn main() {\n    let mut buffer = itoa::Buffer::new();\n    \
        println!(\"{} {} {} {} {} {} {} {}\", number::NUMBER, include_str!(\"number.txt\"), \
        buffer.format(part::NUMBER), part::BUILT, shape::own!(), shape::word!(), extra::NUMBER, \
        env!(\"CARGO_MANIFEST_DIR\"));\n}\n";
    let part = "mod number;\npub use number::NUMBER;\n\
        pub const BUILT: &str = include_str!(concat!(env!(\"OUT_DIR\"), \"/number.txt\"));\n";
    let build = "fn main() {\n    println!(\"cargo::rerun-if-changed=number.txt\");\n    \
        let out = std::env::var(\"OUT_DIR\").unwrap();\n    \
        std::fs::write(format!(\"{out}/number.txt\"), std::fs::read(\"number.txt\").unwrap()).unwrap();\n}\n";
    let shape = "use proc_macro::TokenStream;\n\nmod number;\n\n\
        #[proc_macro]\npub fn own(_: TokenStream) -> TokenStream {\n    \
        number::NUMBER.to_string().parse().unwrap()\n}\n\n\
        #[proc_macro]\npub fn word(_: TokenStream) -> TokenStream {\n    \
        let path = format!(\"{}/word.txt\", std::env::var(\"CARGO_MANIFEST_DIR\").unwrap());\n    \
        let word = std::fs::read_to_string(&path).unwrap();\n    \
        format!(\"{{ const _: &str = include_str!({path:?}); {word:?} }}\").parse().unwrap()\n}\n";
    // Nothing in it is bound to a place, so that slots get it from the base.
    let tool = "mod number;\n\nfn main() {\n    \
        println!(\"{} {} {}\", number::NUMBER, shape::own!(), extra::NUMBER);\n}\n";
    let uses = "[dependencies]\nshape = { path = \"../shape\" }\nextra = { path = \"../extra\" }\n";
    // Nor does the base have it.
    let test = "#[path = \"../src/number.rs\"]\nmod number;\n\n#[test]\nfn says() {\n    \
        println!(\"test says {} {} {}\", number::NUMBER, shape::own!(), extra::NUMBER);\n}\n";
    let mut files = vec![
        ("tool/Cargo.toml", manifest("tool", uses)),
        ("tool/src/main.rs", tool.to_owned()),
        ("tool/tests/says.rs", test.to_owned()),
        ("Cargo.toml", root.to_owned()),
        ("app/Cargo.toml", manifest("app", app)),
        ("app/src/main.rs", main.to_owned()),
        ("part/Cargo.toml", manifest("part", "")),
        ("part/build.rs", build.to_owned()),
        ("part/src/lib.rs", part.to_owned()),
        ("shape/Cargo.toml", manifest("shape", "[lib]\nproc-macro = true\n")),
        ("shape/src/lib.rs", shape.to_owned()),
        ("extra/Cargo.toml", manifest("extra", "")),
        ("extra/src/lib.rs", "mod number;\npub use number::NUMBER;\n".to_owned()),
    ];
    files.extend(PARTS.iter().map(|(path, content)| (*path, content(0))));
    files
}

/// The numbers in the sources there.
fn numbers(root: &Path) -> Vec<String> {
    let digits = |text: String| text.chars().filter(char::is_ascii_digit).collect::<String>();
    let number = |path: &str| {
        let text = fs::read_to_string(root.join(path)).expect("it is there");
        digits(text.rsplit('=').next().unwrap_or_default().to_owned())
    };
    PARTS.iter().map(|(path, _)| number(path)).collect()
}

/// What the program `app` must say that is built there.
fn expected(root: &Path) -> String {
    format!("{} {}", numbers(root)[..7].join(" "), root.join("app").display())
}

/// What the program `tool` must say, and its test.
fn expected_of_tool(root: &Path) -> String {
    let numbers = numbers(root);
    [7, 4, 6].map(|part| &*numbers[part]).join(" ")
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Lease {
        commit: usize,
    },
    Edit {
        lease: usize,
        part: usize,
        number: u32,
    },
    Commit(usize),
    Switch {
        lease: usize,
        commit: usize,
    },
    /// The slot is given back and leased again.
    HandOver {
        lease: usize,
        commit: usize,
    },
    Build(usize),
    /// All at the same time.
    BuildAll,
    Check(usize),
    Test(usize),
    /// In another profile.
    Release(usize),
    Clean(usize),
    /// A new base, of that commit.
    Warm(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let lease = || 0usize..3;
    let commit = || 0usize..4;
    prop_oneof![
        2 => commit().prop_map(|commit| Step::Lease { commit }),
        6 => (lease(), 0..PARTS.len(), 0u32..3)
            .prop_map(|(lease, part, number)| Step::Edit { lease, part, number }),
        1 => lease().prop_map(Step::Commit),
        2 => (lease(), commit()).prop_map(|(lease, commit)| Step::Switch { lease, commit }),
        4 => (lease(), commit()).prop_map(|(lease, commit)| Step::HandOver { lease, commit }),
        5 => lease().prop_map(Step::Build),
        2 => Just(Step::BuildAll),
        1 => lease().prop_map(Step::Check),
        2 => lease().prop_map(Step::Test),
        1 => lease().prop_map(Step::Release),
        1 => lease().prop_map(Step::Clean),
        1 => commit().prop_map(Step::Warm),
    ]
}

fn build(lease: &Lease) {
    let expected = expected(&lease.path());
    assert_eq!(lease.shows("run --quiet -p app"), expected);
    assert_eq!(lease.shows("run --quiet -p tool"), expected_of_tool(&lease.path()));
    // What lies there is the same.
    let program = lease.path().join("target/debug/app");
    let said = std::process::Command::new(program).output().expect("it runs").stdout;
    assert_eq!(String::from_utf8_lossy(&said).trim_end(), expected);
}

fn test(lease: &Lease) {
    let shown = lease.shows("test --quiet -p tool -- --nocapture");
    let mut said = shown.lines().filter_map(|line| Some(line.split_once("test says ")?.1));
    assert_eq!(said.next(), Some(&*expected_of_tool(&lease.path())));
}

fn live(steps: &[Step]) {
    let files = files();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, &**text)).collect();
    let workshop = Workshop::new(&files);
    let repo = workshop.repo();
    let mut commits = vec![commit(&repo)];
    for (number, parts) in [(1, 0..3), (2, 2..6), (1, 5..7)] {
        for (path, content) in &PARTS[parts] {
            write(&repo, path, &content(number));
        }
        commits.push(commit(&repo));
    }
    workshop.warm(&commits[0]).expect("it can be built");
    let mut base = look(&workshop.base(1));
    let mut leases: Vec<Lease> = vec![workshop.lease(&commits[0]), workshop.lease(&commits[1])];
    // What nobody builds is not seen to be wrong.
    for step in steps.iter().chain([&Step::BuildAll]) {
        let count = leases.len();
        match *step {
            Step::Lease { commit } if count < 3 => leases.push(workshop.lease(&commits[commit])),
            Step::Edit { lease, part, number } => {
                let (path, content) = PARTS[part];
                leases[lease % count].write(path, &content(number));
            }
            Step::Commit(lease) => drop(commit(&leases[lease % count].path())),
            Step::Switch { lease, commit } => {
                let place = leases[lease % count].path();
                git(&place)
                    .args(["checkout", "--quiet", "--force", "--detach", &commits[commit]])
                    .ok();
            }
            Step::HandOver { lease, commit } => {
                workshop.release(leases.remove(lease % count));
                leases.push(workshop.lease(&commits[commit]));
            }
            Step::Build(lease) => build(&leases[lease % count]),
            Step::BuildAll | Step::Lease { .. } => std::thread::scope(|scope| {
                for lease in &leases {
                    scope.spawn(|| build(lease));
                }
            }),
            Step::Check(lease) => drop(leases[lease % count].shows("check --quiet --workspace")),
            Step::Test(lease) => test(&leases[lease % count]),
            Step::Release(lease) => {
                let lease = &leases[lease % count];
                let said = lease.shows("run --quiet --release -p tool");
                assert_eq!(said, expected_of_tool(&lease.path()));
            }
            Step::Clean(lease) => drop(leases[lease % count].shows("clean --quiet")),
            Step::Warm(commit) => {
                if workshop.base(1).exists() {
                    assert_same(&base, &look(&workshop.base(1)));
                }
                workshop.warm(&commits[commit]).expect("it can be built");
                if workshop.base(1).exists() {
                    base = look(&workshop.base(1));
                }
            }
        }
        // As agents do all the time; it writes the index.
        for lease in &leases {
            git(lease.path()).args(["status", "--porcelain"]).ok();
        }
    }
    if workshop.base(1).exists() {
        assert_same(&base, &look(&workshop.base(1)));
    }
    for lease in leases {
        workshop.release(lease);
    }
}

#[test]
fn each_program_is_made_from_its_own_sources() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let config = Config {
        cases,
        // Each takes seconds.
        max_shrink_iters: 20,
        failure_persistence: None,
        ..Config::default()
    };
    let steps = prop::collection::vec(step(), 6..18);
    let result = TestRunner::new(config).run(&steps, |steps| {
        live(&steps);
        Ok(())
    });
    if let Err(e) = result {
        panic!("{e}");
    }
}
