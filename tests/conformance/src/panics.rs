//! Conversion of panics to failures, with the position of the panic.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use futures_util::FutureExt as _;

use crate::{Failure, Outcome};

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a case and returns its panic as a failure. The future must be polled by one thread only.
pub(crate) async fn caught(body: impl Future<Output = Outcome>) -> Outcome {
    install();
    let _catching = Catching::begin();
    let outcome = AssertUnwindSafe(body).catch_unwind().await;
    outcome.unwrap_or_else(|payload| {
        let text = LAST.take().unwrap_or_else(|| words(payload.as_ref()));
        Err(Failure::placed(text))
    })
}

/// Guard that is dropped with its future, also if the future is dropped before completion.
struct Catching;

impl Catching {
    fn begin() -> Self {
        CATCHING.set(true);
        Self
    }
}

impl Drop for Catching {
    fn drop(&mut self) {
        CATCHING.set(false);
    }
}

/// Installs a panic hook that is silent on the threads of cases and calls the previous hook on all others.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if CATCHING.get() {
                let place = info.location().map(ToString::to_string).unwrap_or_default();
                LAST.set(Some(format!("{} ({place})", words(info.payload()))));
            } else {
                before(info);
            }
        }));
    });
}

pub(crate) fn words(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_failure_with_its_place() {
        let failure = caught(async { panic!("the words") }).await.unwrap_err().to_string();
        assert!(failure.contains("the words ("), "{failure}");
        assert!(failure.contains("panics.rs"), "{failure}");
        caught(async { Ok(()) }).await.unwrap();
    }
}
