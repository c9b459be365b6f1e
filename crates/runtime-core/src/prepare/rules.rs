//! What each kind of text and number in a spec may be, whatever the engine.

use std::collections::BTreeMap;

use crate::{Error, LABEL_PREFIX, NVIDIA_VISIBLE_DEVICES, Result};

/// The longest argument, or variable with its name, in bytes: Linux takes 128 KiB with the byte that
/// ends it (`MAX_ARG_STRLEN`).
const WORD_MAX: usize = (128 << 10) - 1;

/// The size of the command, the arguments and the environment together. Linux takes a quarter of the
/// limit on the stack, which is 2 MiB by default, but an object of Kubernetes has to fit into etcd's
/// request of 1.5 MiB with all else that is in it.
const WORDS_MAX: usize = 512 << 10;

/// The size of all labels together, in bytes of JSON. Kubernetes takes 262,144 bytes of annotations,
/// which hold the labels and more; containerd sends no list that is longer than 16 MiB, in which each
/// container has its labels.
const LABELS_MAX: usize = 64 << 10;

/// The longest path, without the byte that ends it (`PATH_MAX`).
const PATH_LENGTH_MAX: usize = 4095;

/// Checks the sizes of what the kernel gets to start a process.
pub(super) fn check_words_size(
    command: Option<&[String]>,
    arguments: Option<&[String]>,
    env: &BTreeMap<String, String>,
) -> Result<()> {
    let mut total = 0_usize;
    let mut add = |field: String, size: usize| {
        if size > WORD_MAX {
            let why = format!("{size} bytes are more than the maximum of {WORD_MAX}");
            return Err(Error::invalid(field, why));
        }
        // With the byte that ends it, and a pointer to it.
        total += size + 9;
        if total > WORDS_MAX {
            let why =
                format!("command, arguments and env are more than {WORDS_MAX} bytes together");
            return Err(Error::invalid(field, why));
        }
        Ok(())
    };
    for (field, words) in [("command", command), ("arguments", arguments)] {
        for (at, word) in words.unwrap_or_default().iter().enumerate() {
            add(format!("{field}[{at}]"), word.len())?;
        }
    }
    for (name, value) in env {
        add(format!("env[{:?}]", in_short(name)), name.len() + 1 + value.len())?;
    }
    Ok(())
}

/// Returns the beginning of a name, for an error.
pub(super) fn in_short(name: &str) -> &str {
    name.char_indices().nth(64).map_or(name, |(at, _)| &name[..at])
}

/// Returns the length of a text in JSON, with its quotes.
fn json_length(text: &str) -> usize {
    let each = |c: char| match c {
        '"' | '\\' | '\u{8}' | '\t' | '\n' | '\u{c}' | '\r' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    };
    2 + text.chars().map(each).sum::<usize>()
}

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

pub(super) fn check_variable(field: &str, name: &str, value: &str) -> Result<()> {
    if name.is_empty() || name.contains('=') {
        return Err(Error::invalid(field, "a name is not empty and has no '='"));
    }
    check_no_nul(field, name)?;
    check_no_nul(field, value)?;
    if name == NVIDIA_VISIBLE_DEVICES {
        return Err(Error::invalid(field, "is set by this library: ask for gpus instead"));
    }
    Ok(())
}

/// Reports whether every version of Kubernetes takes this name of a variable: up to 1.29 all of them
/// require `[-._a-zA-Z][-._a-zA-Z0-9]*` (apimachinery, `IsEnvVarName`), later ones by default not.
pub(super) fn is_kubernetes_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(is_part)
        && name != "."
        && !name.starts_with("..")
}

pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    let mut total = 0;
    for (key, value) in labels {
        let field = format!("labels[{:?}]", in_short(key));
        // With the colon and the comma.
        total += json_length(key) + json_length(value) + 2;
        if total > LABELS_MAX {
            let why = format!("all labels are more than {LABELS_MAX} bytes together, as JSON");
            return Err(Error::invalid(field, why));
        }
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
    if path.len() > PATH_LENGTH_MAX {
        let why = format!("a path of {} bytes is longer than {PATH_LENGTH_MAX}", path.len());
        return Err(Error::invalid(field, why));
    }
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
