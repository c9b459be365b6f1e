//! Assertions about errors and times.

use std::time::{Duration, Instant, SystemTime};

use runtime_core::{Capability, Error, ErrorKind, Result};

use crate::Failure;
use crate::failure::fail;

/// Returns the error of a call that must fail with `kind`, and asserts that the error is complete.
#[track_caller]
pub(crate) fn refused<T>(result: Result<T>, kind: ErrorKind) -> Result<Error, Failure> {
    refused_as(result, &[kind])
}

/// Returns the error of a call that must fail with one of `kinds`.
#[track_caller]
pub(crate) fn refused_as<T>(result: Result<T>, kinds: &[ErrorKind]) -> Result<Error, Failure> {
    let Err(error) = result else { fail!("it succeeded and should be {kinds:?}") };
    if !kinds.contains(&error.kind()) {
        fail!("should be {kinds:?} and is {:?}: {}", error.kind(), chain(&error));
    }
    if error.backend().is_none() || error.operation().is_none() {
        fail!("an error says its backend and its operation: {error:?}");
    }
    if error.to_string().contains('\n') {
        fail!("an error is one line: {error}");
    }
    Ok(error)
}

/// Asserts that a call is refused because the engine lacks `capability`.
#[track_caller]
pub(crate) fn unsupported<T>(result: Result<T>, capability: Capability) -> Result<Error, Failure> {
    let error = refused(result, ErrorKind::Unsupported)?;
    if error.capability() != Some(capability) {
        fail!("should name {capability} and names {:?}: {error}", error.capability());
    }
    Ok(error)
}

/// Formats an error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Asserts that the time since `since` is between `least` and `most`.
#[track_caller]
pub(crate) fn took(since: Instant, least: Duration, most: Duration) -> Result<(), Failure> {
    let took = since.elapsed();
    if took < least || took > most {
        fail!("it took {took:?}, not {least:?} to {most:?}");
    }
    Ok(())
}

/// Asserts that `time` is about now: the engine's clock may differ a little.
#[track_caller]
pub(crate) fn recent(what: &str, time: Option<SystemTime>) -> Result<SystemTime, Failure> {
    let Some(time) = time else { fail!("{what} is absent") };
    let now = SystemTime::now();
    let away = now.duration_since(time).or_else(|_| time.duration_since(now))?;
    if away > Duration::from_secs(600) {
        fail!("{what} is {away:?} away from now");
    }
    Ok(time)
}
