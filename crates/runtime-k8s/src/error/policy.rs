//! Refusals by a policy of the cluster, as opposed to those of the server itself.

use runtime_core::{Error, ErrorKind};

/// Message of a server about a patch with a failed test.
const FAILED_TEST: &str = "the server rejected our request due to an error in our request";

/// Returns whether a policy of the cluster has refused a request that the server itself would
/// accept: an admission webhook, an admission policy or plugin. A missing right is not a policy.
pub(crate) fn is_policy(error: &Error) -> bool {
    let message = error.message().unwrap_or_default();
    match error.kind() {
        ErrorKind::PermissionDenied => !lacks_right(message),
        // Webhooks and policies can use any code.
        ErrorKind::InvalidArgument => {
            error.field().is_none_or(str::is_empty) && !message.starts_with(FAILED_TEST)
        }
        _ => message.contains("denied the request") || message.contains("denied request"),
    }
}

/// Returns whether the message reports a missing right: `User "u" cannot patch resource "pods" in
/// API group "" in the namespace "n"`.
fn lacks_right(message: &str) -> bool {
    message.contains(" cannot ") && message.contains(" resource ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_refusal_differs_from_missing_right_and_failed_test() {
        use ErrorKind as K;
        for (kind, message, policy) in [
            (K::PermissionDenied, "admission webhook \"i.test\" denied the request: no", true),
            (K::PermissionDenied, "pods \"p\" is forbidden: violates PodSecurity", true),
            (
                K::PermissionDenied,
                "pods \"p\" is forbidden: User \"u\" cannot patch resource \"pods\" in API group \"\"",
                false,
            ),
            (K::InvalidArgument, "admission webhook \"i.test\" denied the request: no", true),
            (K::InvalidArgument, FAILED_TEST, false),
            (K::Internal, "admission webhook \"i.test\" denied the request: no", true),
            (K::Internal, "failed calling webhook \"i.test\": timeout", false),
            (K::Unavailable, "the server is shutting down", false),
        ] {
            let error = Error::new(kind).with_message(message);
            assert_eq!(is_policy(&error), policy, "{kind:?} {message}");
        }
        assert!(!is_policy(&Error::invalid("spec", "pod updates may not change fields")));
    }
}
