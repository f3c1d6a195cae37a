//! The wrapper of rustc as a program of its own, for hosts whose own program can't be it.

use std::process::ExitCode;

fn main() -> ExitCode {
    cache_share::rustc::wrap()
}
