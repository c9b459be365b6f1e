//! Refusals of the admission chain: quotas, limit ranges, policies and missing rights.
//!
//! The API server reports most of them as one kind, `Forbidden`, and a webhook may choose any code.
//! The message alone distinguishes them. A message is matched from its beginning, because the rest
//! of it can repeat text of the caller.

use runtime_core::{Error, ErrorKind};

use super::Status;
use crate::quantity::quantity;

/// Returns the error for a refusal of the admission chain or of the authorizer, if the status is
/// one.
pub(super) fn read(status: &Status) -> Option<Error> {
    let message = status.message.trim();
    let text = reason_of(message);
    if is_too_large(status) {
        return Some(new(ErrorKind::InvalidArgument, message));
    }
    if let Some(error) = webhook(text, message).or_else(|| policy(text, message)) {
        return Some(error);
    }
    if status.reason != "Forbidden" && status.code != 403 {
        return None;
    }
    quota(text, message)
        .or_else(|| limit_range(text, message))
        .or_else(|| reference(text, message))
        .or_else(|| missing_right(text, message))
}

fn new(kind: ErrorKind, message: &str) -> Error {
    Error::new(kind).with_message(message)
}

/// Returns a message without the name of the object that is refused.
fn reason_of(message: &str) -> &str {
    let message = message.strip_prefix("Internal error occurred: ").unwrap_or(message);
    match message.split_once(" is forbidden: ") {
        // The head is a resource and a quoted name, or a resource alone.
        Some((head, text)) if head.split(' ').count() <= 2 => text.trim_start(),
        _ => message.strip_prefix("forbidden: ").unwrap_or(message),
    }
}

/// Returns whether the request is too large for the API server, or for etcd.
fn is_too_large(status: &Status) -> bool {
    let message = &status.message;
    (status.code == 413 && reason_of(message) == message)
        || message.starts_with("etcdserver: request is too large")
        || message.contains("trying to send message larger than max")
}

fn webhook(text: &str, message: &str) -> Option<Error> {
    for failure in ["failed calling webhook ", "failed calling admission webhook "] {
        if let Some(rest) = text.strip_prefix(failure) {
            let name = quoted(rest, '"').unwrap_or("of the cluster");
            return Some(new(
                ErrorKind::Unavailable,
                &format!("the admission webhook {name} failed: {message}"),
            ));
        }
    }
    let rest = text.strip_prefix("admission webhook ")?;
    let name = quoted(rest, '"')?;
    let rest = &rest[name.len() + 2..];
    let text = rest.strip_prefix(" denied the request")?;
    let policies = policies_of(text.trim_start_matches(':').trim_start());
    let policy = match policies.is_empty() {
        true => format!("the admission webhook {name}"),
        false => format!("the policy {} of the admission webhook {name}", policies.join(", ")),
    };
    Some(refused_by(&policy, message))
}

/// Returns the names of policies in the reply of a webhook, as Gatekeeper and Kyverno write them.
fn policies_of(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let heads = ["blocked due to the following policies", "for resource violation:"];
    if let Some((_, listed)) = heads.iter().find_map(|head| text.split_once(head)) {
        // Kyverno: one line `NAME:` for each policy, and its rules below it with an indent.
        names.extend(listed.lines().filter_map(|line| line.trim_end().strip_suffix(':')));
        names.retain(|name| !name.is_empty() && !name.contains(char::is_whitespace));
    } else {
        // Gatekeeper: `[NAME] words` on each line, `[denied by NAME] words` before version 3.7.
        names.extend(text.lines().filter_map(|line| {
            let name = line.strip_prefix('[')?.split_once(']')?.0;
            Some(name.strip_prefix("denied by ").unwrap_or(name))
        }));
    }
    names.dedup();
    names
}

/// Policies of the API server itself and of OpenShift.
fn policy(text: &str, message: &str) -> Option<Error> {
    for kind in ["ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"] {
        let name = text.strip_prefix(kind).and_then(|rest| quoted(rest.trim_start(), '\''));
        if let Some(name) = name {
            return Some(refused_by(&format!("the {kind} {name}"), message));
        }
    }
    if let Some(level) = text.strip_prefix("violates PodSecurity ") {
        let level = quoted(level, '"').unwrap_or_default();
        return Some(refused_by(&format!("the PodSecurity level {level}"), message));
    }
    let by = [
        ("PodSecurityPolicy: ", "the PodSecurityPolicy"),
        ("unable to validate against any pod security policy", "the PodSecurityPolicy"),
        (
            "unable to validate against any security context constraint",
            "the SecurityContextConstraints",
        ),
        ("image policy webhook backend denied", "the ImagePolicyWebhook"),
        ("pod tolerations (possibly merged", "the PodTolerationRestriction of the namespace"),
        ("pod node label selector conflicts", "the PodNodeSelector of the namespace"),
    ];
    let (_, by) = by.iter().find(|(prefix, _)| text.starts_with(prefix))?;
    Some(refused_by(by, message))
}

fn refused_by(policy: &str, message: &str) -> Error {
    new(ErrorKind::PermissionDenied, &format!("refused by {policy}: {message}"))
}

fn quota(text: &str, message: &str) -> Option<Error> {
    if text.starts_with("status unknown for quota:") {
        // The quota is new, and its controller has not computed its usage yet.
        return Some(new(ErrorKind::Unavailable, message));
    }
    if text.starts_with("insufficient quota to ") {
        return Some(new(ErrorKind::ResourceExhausted, message));
    }
    if let Some(rest) = text.strip_prefix("failed quota: ") {
        let (_, missing) = rest.split_once(": must specify ")?;
        // Servers from 1.25 on name the containers: `limits.cpu for: main; limits.memory for: main`.
        let names = missing.split([',', ';']).filter_map(|part| part.split_whitespace().next());
        return Some(Error::invalid(field_of_first(names)?, message));
    }
    let rest = text.strip_prefix("exceeded quota: ")?;
    Some(match larger_than_quota(rest) {
        Some(field) => Error::invalid(field, message),
        None => new(ErrorKind::ResourceExhausted, message),
    })
}

/// Returns the field of a resource whose request is larger than the whole quota: `NAME, requested:
/// A=1,B=2, used: A=1,B=2, limited: A=1,B=2`.
fn larger_than_quota(text: &str) -> Option<&'static str> {
    let (_, rest) = text.split_once(", requested: ")?;
    let (requested, rest) = rest.split_once(", used: ")?;
    let (_, limited) = rest.split_once(", limited: ")?;
    amounts(requested).find_map(|(name, amount)| {
        let (_, limit) = amounts(limited).find(|limit| limit.0 == name)?;
        (amount > limit).then(|| field_of_resource(name)).flatten()
    })
}

fn amounts(text: &str) -> impl Iterator<Item = (&str, f64)> {
    text.split(',').filter_map(|part| {
        let (name, amount) = part.split_once('=')?;
        Some((name.trim(), quantity(amount.trim())?))
    })
}

fn limit_range(text: &str, message: &str) -> Option<Error> {
    // Several are a list: `[minimum cpu usage per Container is ..., maximum memory usage ...]`.
    let text = text.strip_prefix('[').unwrap_or(text);
    let resource = |part: &'_ str| {
        let part = part.trim_start();
        if let Some((resource, rest)) = part.split_once(" max limit to request ratio per ") {
            return (!resource.contains(' ') && !rest.is_empty()).then(|| resource.to_owned());
        }
        let rest = part.strip_prefix("minimum ").or_else(|| part.strip_prefix("maximum "))?;
        let (resource, _) = rest.split_once(" usage per ")?;
        (!resource.contains(' ')).then(|| resource.to_owned())
    };
    resource(text)?;
    let resources: Vec<String> = text.split(", ").filter_map(resource).collect();
    Some(Error::invalid(field_of_first(resources.iter().map(String::as_str))?, message))
}

/// Returns the error for an object that the options refer to and that does not exist.
fn reference(text: &str, message: &str) -> Option<Error> {
    if let Some(rest) = text.strip_prefix("error looking up service account ") {
        // A controller creates this one soon after the namespace.
        let is_default = rest.split(':').next().is_some_and(|name| name.ends_with("/default"));
        return Some(match is_default {
            true => new(ErrorKind::Unavailable, message),
            false => Error::invalid("service_account", message),
        });
    }
    if text.starts_with("no PriorityClass with name ") {
        return Some(Error::invalid("priority_class", message));
    }
    if text.starts_with("pod rejected: RuntimeClass ") {
        return Some(Error::invalid("runtime_class", message));
    }
    None
}

/// Returns the error for a refusal by the authorizer: `User "u" cannot create resource "pods" in
/// API group "" in the namespace "n"`.
fn missing_right(text: &str, message: &str) -> Option<Error> {
    let (_, verb, object, rest) = right_of(text)?;
    let mut right = format!("{verb} {object}");
    if let Some(group) = rest.split_once("in API group ").and_then(|(_, rest)| quoted(rest, '"'))
        && !group.is_empty()
    {
        right = format!("{right}.{group}");
    }
    if let Some(namespace) =
        rest.split_once("in the namespace ").and_then(|(_, rest)| quoted(rest, '"'))
    {
        right = format!("{right} in namespace {namespace}");
    }
    Some(new(ErrorKind::PermissionDenied, &format!("the right to {right} is missing: {message}")))
}

/// Returns whether the message is one of the authorizer, and not of the admission chain.
pub(crate) fn is_missing_right(message: &str) -> bool {
    right_of(reason_of(message.trim())).is_some()
}

/// Returns the caller, the verb, the object, and the rest.
fn right_of(text: &str) -> Option<(&str, &str, &str, &str)> {
    let rest = text.strip_prefix("User ")?;
    let user = quoted(rest, '"')?;
    let rest = rest[user.len() + 2..].strip_prefix(" cannot ")?;
    let (verb, rest) = rest.split_once(' ')?;
    let rest = rest.strip_prefix("resource ").or_else(|| rest.strip_prefix("path "))?;
    let object = quoted(rest, '"')?;
    Some((user, verb, object, &rest[object.len() + 2..]))
}

/// Returns the text between the first two of these marks, if it begins with one.
fn quoted(text: &str, mark: char) -> Option<&str> {
    text.strip_prefix(mark)?.split_once(mark).map(|(quoted, _)| quoted)
}

/// Returns the field of the first resource that a spec has, or the name of the first resource.
fn field_of_first<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    let known = names.clone().find_map(field_of_resource).map(str::to_owned);
    known.or_else(|| names.map(str::to_owned).find(|name| !name.is_empty()))
}

/// Returns the field of a spec that sets a resource of the cluster.
pub(super) fn field_of_resource(name: &str) -> Option<&'static str> {
    let name =
        name.strip_prefix("limits.").or_else(|| name.strip_prefix("requests.")).unwrap_or(name);
    match name {
        "memory" => Some("memory"),
        "cpu" => Some("cpu_count"),
        name if name.contains("gpu") => Some("gpus"),
        _ => None,
    }
}
