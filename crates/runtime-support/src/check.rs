//! Engine-independent validation of arguments.

use runtime_core::{Capabilities, Capability, Error, ExecOptions, Result};

/// Validates the options of an exec that do not depend on the engine.
///
/// # Errors
/// `InvalidArgument` naming the field.
pub fn check_exec(options: &ExecOptions) -> Result<()> {
    let nul = |text: &String| text.contains('\0');
    if options.command.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("command", "must not be empty"));
    }
    if options.command.iter().any(nul) {
        return Err(Error::invalid("command", "contains a NUL byte"));
    }
    for (name, value) in &options.env {
        if name.is_empty() || name.contains('=') || nul(name) || nul(value) {
            return Err(Error::invalid("env", format!("{name:?} is not a valid variable")));
        }
    }
    for name in &options.unset_env {
        if name.is_empty() || name.contains('=') || nul(name) || options.env.contains_key(name) {
            return Err(Error::invalid(
                "unset_env",
                format!("{name:?} is not a valid name, or is also set by env"),
            ));
        }
    }
    if options.user.as_ref().is_some_and(|user| user.is_empty() || nul(user)) {
        return Err(Error::invalid("user", "must not be empty or contain a NUL byte"));
    }
    if options.working_dir.as_ref().is_some_and(|dir| !dir.starts_with('/') || nul(dir)) {
        return Err(Error::invalid("working_dir", "must be an absolute path without NUL bytes"));
    }
    Ok(())
}

/// Returns the command line for an exec, which includes the image's `env` and `sh` if these have to
/// set the environment or the working directory. An engine that can set them is expected to do so.
///
/// # Errors
/// `Unsupported` if the engine cannot apply an option and the image's tools may not or cannot
/// either.
pub fn exec_command(options: &ExecOptions, can: &Capabilities) -> Result<Vec<String>> {
    if options.user.is_some() && !can.has(Capability::ExecUser) {
        return Err(Error::unsupported(Capability::ExecUser));
    }
    let needs_tool = |wanted: bool, capability: Capability| match (wanted, can.has(capability)) {
        (true, false) if options.image_tools => Ok(true),
        (true, false) => Err(Error::unsupported(capability)),
        _ => Ok(false),
    };
    let set = needs_tool(!options.env.is_empty(), Capability::ExecEnv)?;
    let unset = needs_tool(!options.unset_env.is_empty(), Capability::EnvUnset)?;
    let env = set || unset;
    let dir = needs_tool(options.working_dir.is_some(), Capability::ExecWorkingDir)?;
    let mut command = Vec::new();
    if env {
        command.push("env".to_owned());
        if unset {
            let unset = options.unset_env.iter();
            command.extend(unset.flat_map(|name| ["-u".to_owned(), name.clone()]));
        }
        if set {
            command.extend(options.env.iter().map(|(name, value)| format!("{name}={value}")));
        }
    }
    let dir = options.working_dir.as_ref().filter(|_| dir);
    // `env` interprets an argument with `=` as a variable, including the command.
    if dir.is_some() || (env && options.command.first().is_some_and(|word| word.contains('='))) {
        let script = match dir {
            Some(_) => "cd \"$1\" || exit 125; shift; exec \"$@\"",
            None => "exec \"$@\"",
        };
        command.extend(["sh", "-c", script, "sh"].map(str::to_owned));
        command.extend(dir.cloned());
    }
    command.extend(options.command.iter().cloned());
    Ok(command)
}

/// Validates the path of a copy.
///
/// # Errors
/// `InvalidArgument` naming the field.
pub fn check_path(path: &str) -> Result<()> {
    if !path.starts_with('/') {
        return Err(Error::invalid("path", "must be an absolute path"));
    }
    if path.contains('\0') {
        return Err(Error::invalid("path", "contains a NUL byte"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_command_uses_image_tools_only_if_allowed_and_needed() {
        let none = Capabilities::default();
        let mut all = Capabilities::default();
        (all.exec_env, all.exec_working_dir, all.exec_user) = (true, true, true);
        let plain = ExecOptions::new(["a", "b c"]);
        assert_eq!(exec_command(&plain, &none).unwrap(), ["a", "b c"]);
        let more = plain.clone().env("X.Y", "1 2").working_dir("/d");
        assert_eq!(exec_command(&more, &all).unwrap(), ["a", "b c"]);
        let error = exec_command(&more, &none).unwrap_err();
        assert_eq!(error.capability(), Some(Capability::ExecEnv));
        let more = more.image_tools(true);
        assert_eq!(exec_command(&more, &all).unwrap(), ["a", "b c"]);
        let script = "cd \"$1\" || exit 125; shift; exec \"$@\"";
        assert_eq!(
            exec_command(&more, &none).unwrap(),
            ["env", "X.Y=1 2", "sh", "-c", script, "sh", "/d", "a", "b c"]
        );
        let sign = ExecOptions::new(["a=b"]).env("X", "1").image_tools(true);
        let script = "exec \"$@\"";
        assert_eq!(
            exec_command(&sign, &none).unwrap(),
            ["env", "X=1", "sh", "-c", script, "sh", "a=b"]
        );
        let unset = plain.clone().unset_env("X").image_tools(true);
        assert_eq!(exec_command(&unset, &none).unwrap(), ["env", "-u", "X", "a", "b c"]);
        let error = exec_command(&unset.clone().image_tools(false), &all).unwrap_err();
        assert_eq!(error.capability(), Some(Capability::EnvUnset));
        all.env_unset = true;
        assert_eq!(exec_command(&unset, &all).unwrap(), ["a", "b c"]);
        let both = ExecOptions::new(["a"]).env("X", "1");
        for (both, field) in [(both.clone(), None), (both, Some("unset_env"))] {
            let mut both = both;
            both.unset_env.extend(field.map(|_| "X".to_owned()));
            assert_eq!(
                check_exec(&both).err().and_then(|e| e.field().map(str::to_owned)).as_deref(),
                field
            );
        }
        let user = exec_command(&plain.user("1").image_tools(true), &none).unwrap_err();
        assert_eq!(user.capability(), Some(Capability::ExecUser));
    }
}
