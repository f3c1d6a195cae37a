//! Documents as nobody wrote them: random bytes, and good ones with some damage.
//!
//! ```
//! use proptest::prelude::*;
//!
//! proptest!(|(damage in testkit::fuzz::damage())| {
//!     let damaged = damage.apply(br#"{"a":[1,2]}"#);
//!     let read = serde_json::from_slice::<serde_json::Value>(&damaged);
//!     prop_assert!(read.is_ok() || read.is_err());
//! });
//! ```

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

/// What happens to a document.
#[derive(Clone, Debug)]
pub enum Damage {
    /// It is another one.
    Replaced(Vec<u8>),
    /// It ends sooner.
    Cut(Index),
    /// Some of its bytes are others.
    Overwritten(Index, Vec<u8>),
    /// There are more of them.
    Inserted(Index, Vec<u8>),
    /// A part of it is there twice.
    Repeated(Index, Index),
    /// Of JSON, a part is another. (Of anything else: as if it were cut.)
    Part(Index, &'static str),
    /// Of JSON, a part is missing. (Of anything else: as if it were cut.)
    Without(Index),
}

/// What takes the place of a part: the ends of ranges, and types and texts that are not expected there.
const PARTS: &[&str] = &[
    "null",
    "true",
    "0",
    "1",
    "2",
    "-1",
    "0.5",
    "1e308",
    "999999999",
    "4294967295",
    "4294967296",
    "9223372036854775806",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "\"\"",
    "\"7\"",
    "\"../../outside\"",
    "\"/nowhere/at/all\"",
    "\"-rf\"",
    "\"a\\u0000b\\n\"",
    "\"\\ud83e\\udda6\"",
    "[]",
    "{}",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
];

/// Damage of every kind.
pub fn damage() -> impl Strategy<Value = Damage> {
    let some = || prop::collection::vec(any::<u8>(), 1..12);
    let index = any::<Index>;
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Damage::Replaced),
        1 => index().prop_map(Damage::Cut),
        2 => (index(), some()).prop_map(|(at, bytes)| Damage::Overwritten(at, bytes)),
        1 => (index(), some()).prop_map(|(at, bytes)| Damage::Inserted(at, bytes)),
        1 => (index(), index()).prop_map(|(from, to)| Damage::Repeated(from, to)),
        8 => (index(), prop::sample::select(PARTS)).prop_map(|(at, part)| Damage::Part(at, part)),
        2 => index().prop_map(Damage::Without),
    ]
}

impl Damage {
    /// The document after it.
    #[must_use]
    pub fn apply(&self, document: &[u8]) -> Vec<u8> {
        let mut bytes = document.to_vec();
        let at = |index: &Index| index.index(document.len() + 1);
        match self {
            Self::Replaced(other) => return other.clone(),
            Self::Cut(end) => bytes.truncate(at(end)),
            Self::Overwritten(from, with) => {
                bytes.iter_mut().skip(at(from)).zip(with).for_each(|(byte, new)| *byte = *new);
            }
            Self::Inserted(from, more) => drop(bytes.splice(at(from)..at(from), more.clone())),
            Self::Repeated(one, other) => {
                let (from, to) = (at(one).min(at(other)), at(one).max(at(other)));
                let part = document[from..to].to_vec();
                bytes.splice(to..to, part);
            }
            Self::Part(index, _) | Self::Without(index) => {
                let Ok(mut json) = serde_json::from_slice::<Value>(document) else {
                    bytes.truncate(at(index));
                    return bytes;
                };
                let new = match self {
                    Self::Part(_, text) => serde_json::from_str(text).ok(),
                    _ => None,
                };
                let mut count = index.index(parts(&json));
                replace(&mut json, &mut count, &new);
                return json.to_string().into_bytes();
            }
        }
        bytes
    }
}

/// How many parts a document has, itself included.
fn parts(json: &Value) -> usize {
    1 + match json {
        Value::Array(items) => items.iter().map(parts).sum(),
        Value::Object(fields) => fields.values().map(parts).sum(),
        _ => 0,
    }
}

/// Replaces the part that is `count` parts further, or takes it out. Whether that was this one.
fn replace(json: &mut Value, count: &mut usize, new: &Option<Value>) -> bool {
    if *count == 0 {
        if let Some(new) = new {
            *json = new.clone();
        }
        return true;
    }
    *count -= 1;
    match json {
        Value::Array(items) => {
            for at in 0..items.len() {
                if replace(&mut items[at], count, new) {
                    if new.is_none() {
                        items.remove(at);
                    }
                    // What is outside of it stays.
                    *count = usize::MAX;
                    return false;
                }
                if *count == usize::MAX {
                    return false;
                }
            }
        }
        Value::Object(fields) => {
            let keys: Vec<String> = fields.keys().cloned().collect();
            for key in keys {
                let Some(field) = fields.get_mut(&key) else { continue };
                if replace(field, count, new) {
                    if new.is_none() {
                        fields.remove(&key);
                    }
                    *count = usize::MAX;
                    return false;
                }
                if *count == usize::MAX {
                    return false;
                }
            }
        }
        _ => {}
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{"a":[1,2],"b":{"c":"d"}}"#;

    #[test]
    fn each_part_can_be_another_or_missing() {
        let json: Value = serde_json::from_str(DOCUMENT).expect("JSON");
        assert_eq!(parts(&json), 6);
        let all = |new: Option<Value>| {
            let change = |mut count| {
                let mut json = json.clone();
                replace(&mut json, &mut count, &new);
                json.to_string()
            };
            (0..6).map(change).collect::<Vec<_>>()
        };
        assert_eq!(
            all(Some(Value::Null)),
            [
                "null",
                r#"{"a":null,"b":{"c":"d"}}"#,
                r#"{"a":[null,2],"b":{"c":"d"}}"#,
                r#"{"a":[1,null],"b":{"c":"d"}}"#,
                r#"{"a":[1,2],"b":null}"#,
                r#"{"a":[1,2],"b":{"c":null}}"#,
            ]
        );
        assert_eq!(
            all(None)[1..],
            [
                r#"{"b":{"c":"d"}}"#,
                r#"{"a":[2],"b":{"c":"d"}}"#,
                r#"{"a":[1],"b":{"c":"d"}}"#,
                r#"{"a":[1,2]}"#,
                r#"{"a":[1,2],"b":{}}"#,
            ]
        );
    }

    proptest! {
        #[test]
        fn whatever_it_is_it_can_be_done(damage in damage(), text in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(damage.apply(&text).len() < 20 * 1024);
            prop_assert!(damage.apply(DOCUMENT.as_bytes()).len() < 20 * 1024);
        }
    }
}
