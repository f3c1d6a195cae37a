//! What rustc says it read: the files in Makefile notation that `--emit=dep-info` writes
//! (`rustc_interface::passes::write_out_deps`).

use std::path::PathBuf;

/// The inputs of one compilation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DepInfo {
    /// The files, as rustc named them.
    pub(crate) inputs: Vec<PathBuf>,
    /// The environment variables that `env!` and its like asked for, with their values.
    pub(crate) env: Vec<(String, Option<String>)>,
}

/// Reads such a file. What is not understood is left out: it can only make an input unknown that other
/// lines repeat, since rustc gives each file a line of its own besides.
pub(crate) fn parse(text: &[u8]) -> DepInfo {
    let mut found = DepInfo::default();
    for line in String::from_utf8_lossy(text).lines() {
        if let Some(variable) = line.strip_prefix("# env-dep:") {
            let (name, value) = match variable.split_once('=') {
                Some((name, value)) => (name, Some(unescaped(value))),
                None => (variable, None),
            };
            found.env.push((unescaped(name), value));
            continue;
        }
        // `path:` alone: it keeps make from failing over a file that is gone.
        let Some(path) = line.strip_suffix(':').filter(|path| !path.contains(": ")) else {
            continue;
        };
        let path = PathBuf::from(path.replace("\\ ", " "));
        if !found.inputs.contains(&path) {
            found.inputs.push(path);
        }
    }
    found
}

/// Undoes the escapes of the values of variables.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match (c, c == '\\') {
            (_, true) => match rest.next() {
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some(other) => out.push(other),
                None => out.push(c),
            },
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_and_variables() {
        let text = "/w/target/debug/deps/a-1.d: a/src/lib.rs a/src/with\\ space.rs\n\n\
            /w/target/debug/deps/liba-1.rlib: a/src/lib.rs a/src/with\\ space.rs\n\n\
            a/src/lib.rs:\na/src/with\\ space.rs:\n/w/C:\n\n\
            # env-dep:CARGO_MANIFEST_DIR=/w/a\n# env-dep:UNSET\n# env-dep:MULTI=a\\nb\\\\c\n";
        let read = parse(text.as_bytes());
        let inputs: Vec<_> =
            ["a/src/lib.rs", "a/src/with space.rs", "/w/C"].map(PathBuf::from).into();
        assert_eq!(read.inputs, inputs);
        let variable =
            |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        let expected = [
            variable("CARGO_MANIFEST_DIR", Some("/w/a")),
            variable("UNSET", None),
            variable("MULTI", Some("a\nb\\c")),
        ];
        assert_eq!(read.env, expected);
    }

    #[test]
    fn nonsense_is_nothing() {
        assert_eq!(parse(b""), DepInfo::default());
        assert_eq!(parse(b"\xff\xfe: : :\n#"), DepInfo::default());
    }
}
