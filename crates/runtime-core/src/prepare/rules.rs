//! What each kind of text and number in a spec may be, whatever the engine.

use std::collections::BTreeMap;

use crate::{Error, LABEL_PREFIX, NVIDIA_VISIBLE_DEVICES, Result};

/// Every engine counts bytes in a signed 64 bit number.
pub(super) fn check_signed(field: &str, bytes: u64) -> Result<()> {
    if i64::try_from(bytes).is_ok() {
        Ok(())
    } else {
        Err(Error::invalid(field, format!("{bytes} is more than {} bytes", i64::MAX)))
    }
}

pub(super) fn check_no_nul(field: &str, text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::invalid(field, "contains a NUL byte"));
    }
    Ok(())
}

pub(super) fn check_words(field: &str, words: Option<&[String]>) -> Result<()> {
    for (at, word) in words.unwrap_or_default().iter().enumerate() {
        check_no_nul(&format!("{field}[{at}]"), word)?;
    }
    Ok(())
}

pub(super) fn check_env(env: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in env {
        let field = format!("env[{name:?}]");
        if name.is_empty() || name.contains('=') {
            return Err(Error::invalid(field, "a name is not empty and has no '='"));
        }
        check_no_nul(&field, name)?;
        check_no_nul(&field, value)?;
        if name == NVIDIA_VISIBLE_DEVICES {
            return Err(Error::invalid(field, "is set by this library: ask for gpus instead"));
        }
    }
    Ok(())
}

pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    for (key, value) in labels {
        let field = format!("labels[{key:?}]");
        if key.is_empty() {
            return Err(Error::invalid(field, "a key is not empty"));
        }
        check_no_nul(&field, key)?;
        check_no_nul(&field, value)?;
        if key.starts_with(LABEL_PREFIX) {
            return Err(Error::invalid(field, format!("{LABEL_PREFIX} is reserved")));
        }
    }
    Ok(())
}

pub(super) fn check_absolute(field: &str, path: &str) -> Result<()> {
    check_no_nul(field, path)?;
    if !path.starts_with('/') {
        return Err(Error::invalid(field, format!("{path:?} is not an absolute path")));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(Error::invalid(field, format!("{path:?} has '..' in it")));
    }
    Ok(())
}

/// Whether `account` is a name and not a number.
pub(super) fn check_account(field: &str, account: &str) -> Result<bool> {
    let number = account.bytes().all(|b| b.is_ascii_digit());
    let bad = account.is_empty()
        || account.contains([':', '\0', '/', '\n'])
        || (number && account.parse::<u32>().is_ok_and(|id| i32::try_from(id).is_err()))
        || (number && account.parse::<u32>().is_err());
    if bad {
        return Err(Error::invalid(
            field,
            format!("{account:?} is neither a name nor a number up to {}", i32::MAX),
        ));
    }
    Ok(!number)
}

pub(super) fn check_hostname(hostname: &str) -> Result<()> {
    let good = !hostname.is_empty()
        && hostname.len() <= 63
        && hostname.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    if good {
        Ok(())
    } else {
        Err(Error::invalid(
            "hostname",
            format!("{hostname:?} is not up to 63 letters, digits, '-' and '.'"),
        ))
    }
}
