//! Engine-independent rules for the strings and numbers of a spec.

use std::collections::BTreeMap;

use crate::{Error, LABEL_PREFIX, NVIDIA_VISIBLE_DEVICES, Result};

/// Maximum size in bytes of an argument, or of a variable with its name. Linux accepts 128 KiB
/// including the final NUL (`MAX_ARG_STRLEN`).
const ARGUMENT_SIZE_MAX: usize = (128 << 10) - 1;

/// Maximum total size in bytes of the command, the arguments and the environment. Linux accepts a
/// quarter of the stack limit, which is 2 MiB by default, but a Kubernetes object has to fit into
/// etcd's request limit of 1.5 MiB with all its other fields.
const PROCESS_SIZE_MAX: usize = 512 << 10;

/// Maximum total size of the labels in bytes of JSON. Kubernetes accepts 262,144 bytes of
/// annotations, which contain the labels and more; containerd sends no list response over 16 MiB,
/// which contains the labels of every container.
const LABELS_SIZE_MAX: usize = 64 << 10;

/// Maximum length of a path in bytes, without the final NUL (`PATH_MAX`).
const PATH_LENGTH_MAX: usize = 4095;

/// Checks the size of the command, the arguments and the environment.
pub(super) fn check_process_size(
    command: Option<&[String]>,
    arguments: Option<&[String]>,
    env: &BTreeMap<String, String>,
) -> Result<()> {
    let mut total = 0_usize;
    let mut add = |field: String, size: usize| {
        if size > ARGUMENT_SIZE_MAX {
            let message = format!("{size} bytes exceed the maximum of {ARGUMENT_SIZE_MAX} bytes");
            return Err(Error::invalid(field, message));
        }
        // Includes the final NUL and a pointer.
        total += size + 9;
        if total > PROCESS_SIZE_MAX {
            let message =
                format!("command, arguments and env exceed {PROCESS_SIZE_MAX} bytes in total");
            return Err(Error::invalid(field, message));
        }
        Ok(())
    };
    for (field, list) in [("command", command), ("arguments", arguments)] {
        for (index, item) in list.unwrap_or_default().iter().enumerate() {
            add(format!("{field}[{index}]"), item.len())?;
        }
    }
    for (name, value) in env {
        add(format!("env[{:?}]", truncate_name(name)), name.len() + 1 + value.len())?;
    }
    Ok(())
}

/// Returns the first 64 characters of a name, for an error message.
pub(super) fn truncate_name(name: &str) -> &str {
    name.char_indices().nth(64).map_or(name, |(index, _)| &name[..index])
}

/// Returns the length in bytes of a string in JSON, including its quotes.
fn json_length(text: &str) -> usize {
    let each = |c: char| match c {
        '"' | '\\' | '\u{8}' | '\t' | '\n' | '\u{c}' | '\r' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    };
    2 + text.chars().map(each).sum::<usize>()
}

/// Checks that a size fits into `i64`, because every engine uses that type.
pub(super) fn check_fits_i64(field: &str, bytes: u64) -> Result<()> {
    if i64::try_from(bytes).is_ok() {
        Ok(())
    } else {
        Err(Error::invalid(
            field,
            format!("{bytes} bytes exceed the maximum of {} bytes", i64::MAX),
        ))
    }
}

pub(super) fn check_no_nul(field: &str, text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::invalid(field, "contains a NUL byte"));
    }
    Ok(())
}

pub(super) fn check_list(field: &str, list: Option<&[String]>) -> Result<()> {
    for (index, item) in list.unwrap_or_default().iter().enumerate() {
        check_no_nul(&format!("{field}[{index}]"), item)?;
    }
    Ok(())
}

pub(super) fn check_variable(field: &str, name: &str, value: &str) -> Result<()> {
    if name.is_empty() || name.contains('=') {
        return Err(Error::invalid(field, "a name must not be empty or contain '='"));
    }
    check_no_nul(field, name)?;
    check_no_nul(field, value)?;
    if name == NVIDIA_VISIBLE_DEVICES {
        return Err(Error::invalid(field, "is set by this library; set gpus instead"));
    }
    Ok(())
}

/// Returns `true` if every version of Kubernetes accepts this variable name. Versions up to 1.29
/// require `[-._a-zA-Z][-._a-zA-Z0-9]*` (apimachinery, `IsEnvVarName`); later ones do not by
/// default.
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
        let field = format!("labels[{:?}]", truncate_name(key));
        // Includes the colon and the comma.
        total += json_length(key) + json_length(value) + 2;
        if total > LABELS_SIZE_MAX {
            let message = format!("the labels exceed {LABELS_SIZE_MAX} bytes of JSON in total");
            return Err(Error::invalid(field, message));
        }
        if key.is_empty() {
            return Err(Error::invalid(field, "a key must not be empty"));
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
        let message = format!(
            "a path of {} bytes exceeds the maximum of {PATH_LENGTH_MAX} bytes",
            path.len()
        );
        return Err(Error::invalid(field, message));
    }
    if !path.starts_with('/') {
        return Err(Error::invalid(field, format!("{path:?} is not an absolute path")));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(Error::invalid(field, format!("{path:?} contains '..'")));
    }
    Ok(())
}

/// Returns `true` if `account` is a name, `false` if it is a number.
pub(super) fn check_account(field: &str, account: &str) -> Result<bool> {
    let is_number = account.bytes().all(|b| b.is_ascii_digit());
    let is_invalid = account.is_empty()
        || account.contains([':', '\0', '/', '\n'])
        || (is_number && account.parse::<u32>().is_ok_and(|id| i32::try_from(id).is_err()))
        || (is_number && account.parse::<u32>().is_err());
    if is_invalid {
        return Err(Error::invalid(
            field,
            format!("{account:?} is neither a name nor a number up to {}", i32::MAX),
        ));
    }
    Ok(!is_number)
}

pub(super) fn check_hostname(hostname: &str) -> Result<()> {
    let is_valid = !hostname.is_empty()
        && hostname.len() <= 63
        && hostname.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    if is_valid {
        Ok(())
    } else {
        Err(Error::invalid(
            "hostname",
            format!("{hostname:?} is not up to 63 letters, digits, '-' and '.'"),
        ))
    }
}
