//! Checks of what callers give that are the same on every engine.

use runtime_core::{Error, ExecOptions, Result};

/// Checks what does not depend on the engine.
///
/// # Errors
/// `InvalidArgument`, naming the field.
pub fn check_exec(options: &ExecOptions) -> Result<()> {
    let nul = |text: &String| text.contains('\0');
    if options.command.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("command", "is empty"));
    }
    if options.command.iter().any(nul) {
        return Err(Error::invalid("command", "has a NUL byte in it"));
    }
    for (name, value) in &options.env {
        if name.is_empty() || name.contains('=') || nul(name) || nul(value) {
            return Err(Error::invalid("env", format!("{name:?} is no variable")));
        }
    }
    if options.user.as_ref().is_some_and(|user| user.is_empty() || nul(user)) {
        return Err(Error::invalid("user", "names nobody"));
    }
    if options.working_dir.as_ref().is_some_and(|dir| !dir.starts_with('/') || nul(dir)) {
        return Err(Error::invalid("working_dir", "is not an absolute path"));
    }
    Ok(())
}

/// Checks the path of a copy.
///
/// # Errors
/// `InvalidArgument`, naming the field.
pub fn check_path(path: &str) -> Result<()> {
    if !path.starts_with('/') {
        return Err(Error::invalid("path", "is not absolute"));
    }
    if path.contains('\0') {
        return Err(Error::invalid("path", "has a NUL byte in it"));
    }
    Ok(())
}
