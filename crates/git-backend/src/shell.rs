//! Commands for a person to type.

/// Returns `word` as a shell takes it for one word. An agent may have written it: it must not become a
/// command of its own.
pub(crate) fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    match word.starts_with('-') || !word.chars().all(is_plain) {
        true => gix::quote::single(word.into()).to_string(),
        false => word.to_owned(),
    }
}
