//! Reading a file that may be damaged with a library that panics on some kinds of damage: an error all the same, and no
//! report of a bug on the terminal.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use crate::StoreError;

thread_local! {
    static READS: Cell<bool> = const { Cell::new(false) };
}

/// Reads; a panic of the library is [`StoreError::Format`], and is not reported.
pub(super) fn or_damaged<T>(read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = take_hook();
        set_hook(Box::new(move |panic| {
            if !READS.get() {
                report(panic);
            }
        }));
    });
    READS.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(read));
    READS.set(false);
    outcome.unwrap_or_else(|_panic| Err(StoreError::Format("the metadata file is damaged".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_library_is_damage() {
        let read = or_damaged::<()>(|| panic!("the library"));
        assert!(matches!(read, Err(StoreError::Format(_))), "{read:?}");
        assert!(!READS.get(), "others are reported as before");
        assert!(matches!(or_damaged(|| Ok(7)), Ok(7)));
    }
}
