//! Steps between which a crash leaves something different behind: `cargo xtask crash` kills a process at each of
//! them. And places between two looks: `cargo xtask pause` stops a process at each of them while others work.

#[cfg(feature = "failpoints")]
#[doc(hidden)]
pub use fail;

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("the feature `failpoints` is for tests of crashes, and no part of a release build");

/// Marks such a step. Called `crate::place::step`, after what was done just before. Nothing at all without
/// the feature `failpoints`.
#[cfg(feature = "failpoints")]
#[doc(hidden)]
#[macro_export]
macro_rules! fail_point {
    ($name:literal) => {
        $crate::fail::fail_point!($name)
    };
}

/// Marks such a step. Called `crate::place::step`, after what was done just before. Nothing at all without
/// the feature `failpoints`.
#[cfg(not(feature = "failpoints"))]
#[doc(hidden)]
#[macro_export]
macro_rules! fail_point {
    ($name:literal) => {};
}

/// Marks a place between two looks at what other processes change, or between a look and the change that acts on it.
/// Nothing was changed since the last step, so a crash there is a crash at that step. Called `crate::place::step`.
/// Nothing at all without the feature `failpoints`.
#[cfg(feature = "failpoints")]
#[doc(hidden)]
#[macro_export]
macro_rules! pause_point {
    ($name:literal) => {
        $crate::fail::fail_point!($name)
    };
}

/// Marks a place between two looks at what other processes change, or between a look and the change that acts on it.
/// Nothing was changed since the last step, so a crash there is a crash at that step. Called `crate::place::step`.
/// Nothing at all without the feature `failpoints`.
#[cfg(not(feature = "failpoints"))]
#[doc(hidden)]
#[macro_export]
macro_rules! pause_point {
    ($name:literal) => {};
}
