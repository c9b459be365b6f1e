use super::status::StatusDetails;

use super::*;

fn status(code: u16, reason: &str, message: &str) -> Status {
    Status { code, reason: reason.into(), message: message.into(), details: None }
}

#[test]
fn status_is_mapped_to_kind() {
    use ErrorKind as K;
    for (code, reason, message, kind) in [
        (404, "NotFound", "pods \"a\" not found", K::NotFound),
        (409, "AlreadyExists", "pods \"a\" already exists", K::AlreadyExists),
        (409, "Conflict", "Operation cannot be fulfilled", K::InvalidState),
        (401, "Unauthorized", "Unauthorized", K::Unauthenticated),
        (403, "Forbidden", "pods is forbidden: User cannot list", K::PermissionDenied),
        (403, "Forbidden", "pods \"a\" is forbidden: exceeded quota: q", K::ResourceExhausted),
        (
            403,
            "Forbidden",
            "unable to create new content in namespace x because it is being terminated",
            K::InvalidState,
        ),
        (422, "Invalid", "Pod \"a\" is invalid", K::InvalidArgument),
        (400, "BadRequest", "cannot decode", K::InvalidArgument),
        (410, "Expired", "too old resource version", K::Lost),
        (410, "Gone", "gone", K::Lost),
        (429, "TooManyRequests", "slow down", K::Unavailable),
        (503, "ServiceUnavailable", "shutting down", K::Unavailable),
        (504, "Timeout", "request did not complete", K::Timeout),
        (500, "InternalError", "etcdserver: request timed out", K::Unavailable),
        (500, "InternalError", "Get https://n:10250: dial tcp: refused", K::Unavailable),
        (500, "", "Get \"https://n:10250/containerLogs\": dial tcp: refused", K::Unavailable),
        (500, "InternalError", "boom", K::Internal),
        (403, "", "no reason", K::PermissionDenied),
        (507, "", "no reason", K::ResourceExhausted),
        (418, "", "no reason", K::Internal),
    ] {
        let error = from_status(&status(code, reason, message));
        assert_eq!(error.kind(), kind, "{code} {reason} {message}");
    }
}

#[test]
fn unavailable_server_is_retryable() {
    assert!(from_status(&status(503, "ServiceUnavailable", "")).is_retryable());
    assert!(from_status(&status(504, "Timeout", "")).is_retryable());
    assert!(!from_status(&status(401, "Unauthorized", "")).is_retryable());
    assert!(!from_status(&status(422, "Invalid", "")).is_retryable());
}

#[test]
fn refused_field_is_mapped_to_spec_field() {
    for (theirs, ours) in [
        ("spec.containers[0].env[3].name", "env"),
        ("spec.containers[0].envFrom", "spec.containers[0].envFrom"),
        ("spec.containers[0].resources.limits[memory]", "memory"),
        ("spec.containers[0].ports[0].hostPort", "tcp_ports"),
        ("spec.hostname", "hostname"),
        ("spec.volumes[1].hostPath.path", "mounts"),
        ("metadata.annotations", "labels"),
        ("spec.nodeSelector", "node_selector"),
        ("spec.containers[2].image", "image"),
        ("spec.containers[0].resources.requests[cpu]", "cpu_count"),
        ("spec.containers[0].resources.limits[nvidia.com/gpu]", "gpus"),
        ("spec.containers[0].imagePullPolicy", "pull_policy"),
        ("spec.dnsPolicy", "spec.dnsPolicy"),
    ] {
        let body = serde_json::json!({
            "kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid",
            "message": "Pod is invalid",
            "details": {"causes": [{"reason": "FieldValueInvalid", "message": "bad", "field": theirs}]},
        });
        let error = from_response(StatusCode::UNPROCESSABLE_ENTITY, body.to_string().as_bytes());
        assert_eq!((error.field(), error.message()), (Some(ours), Some("bad")));
    }
}

#[test]
fn response_of_other_server_is_unavailable() {
    for (code, body) in [(404, "<html>"), (200, ""), (500, "{}"), (302, "{\"kind\":3}")] {
        let error = from_response(StatusCode::from_u16(code).unwrap(), body.as_bytes());
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{code} {body}");
    }
    let error = from_response(StatusCode::UNAUTHORIZED, b"no");
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
}

/// Refusals of the admission chain with the messages of API servers from 1.20 to 1.36 and of common
/// policy engines.
#[test]
fn admission_refusal_has_kind_and_field() {
    use ErrorKind as K;
    const POD: &str = "pods \"web\" is forbidden: ";
    for (code, reason, text, kind, field) in [
        // Quotas. Servers from 1.25 on name the containers.
        (
            403,
            "Forbidden",
            "failed quota: q: must specify limits.memory",
            K::InvalidArgument,
            "memory",
        ),
        (
            403,
            "Forbidden",
            "failed quota: q: must specify limits.cpu,limits.memory",
            K::InvalidArgument,
            "cpu_count",
        ),
        (
            403,
            "Forbidden",
            "failed quota: q: must specify limits.memory for: main; requests.memory for: main",
            K::InvalidArgument,
            "memory",
        ),
        (
            403,
            "Forbidden",
            "failed quota: q: must specify limits.ephemeral-storage,memory",
            K::InvalidArgument,
            "memory",
        ),
        (
            403,
            "Forbidden",
            "failed quota: q: must specify requests.ephemeral-storage for: main",
            K::InvalidArgument,
            "requests.ephemeral-storage",
        ),
        (
            403,
            "Forbidden",
            "exceeded quota: q, requested: pods=1, used: pods=10, limited: pods=10",
            K::ResourceExhausted,
            "",
        ),
        (
            403,
            "Forbidden",
            "exceeded quota: q, requested: limits.memory=512Mi, used: limits.memory=2Gi, limited: limits.memory=2Gi",
            K::ResourceExhausted,
            "",
        ),
        (
            403,
            "Forbidden",
            "exceeded quota: q, requested: limits.memory=10Gi,pods=1, used: limits.memory=0,pods=0, limited: limits.memory=2Gi,pods=1",
            K::InvalidArgument,
            "memory",
        ),
        (
            403,
            "Forbidden",
            "exceeded quota: q, requested: requests.cpu=3, used: requests.cpu=0, limited: requests.cpu=2500m",
            K::InvalidArgument,
            "cpu_count",
        ),
        (
            403,
            "Forbidden",
            "exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0",
            K::ResourceExhausted,
            "",
        ),
        (403, "Forbidden", "status unknown for quota: q, resources: pods", K::Unavailable, ""),
        (
            403,
            "Forbidden",
            "insufficient quota to match these scopes: [{PriorityClass In [high]}]",
            K::ResourceExhausted,
            "",
        ),
        // Limit ranges.
        (
            403,
            "Forbidden",
            "maximum memory usage per Container is 64Mi, but limit is 128Mi",
            K::InvalidArgument,
            "memory",
        ),
        (
            403,
            "Forbidden",
            "minimum cpu usage per Container is 100m.  No request is specified",
            K::InvalidArgument,
            "cpu_count",
        ),
        (
            403,
            "Forbidden",
            "[minimum memory usage per Pod is 204Mi, but request is 209715200., minimum memory usage per Container is 204Mi, but request is 200Mi.]",
            K::InvalidArgument,
            "memory",
        ),
        (
            403,
            "Forbidden",
            "[maximum ephemeral-storage usage per Container is 1Gi.  No limit is specified, maximum cpu usage per Container is 1, but limit is 2]",
            K::InvalidArgument,
            "cpu_count",
        ),
        (
            403,
            "Forbidden",
            "memory max limit to request ratio per Container is 2, but provided ratio is 4.000000",
            K::InvalidArgument,
            "memory",
        ),
        // Objects in the options.
        (
            403,
            "Forbidden",
            "error looking up service account ns/app: serviceaccount \"app\" not found",
            K::InvalidArgument,
            "service_account",
        ),
        (
            403,
            "Forbidden",
            "error looking up service account ns/default: serviceaccount \"default\" not found",
            K::Unavailable,
            "",
        ),
        (
            403,
            "Forbidden",
            "no PriorityClass with name high was found",
            K::InvalidArgument,
            "priority_class",
        ),
        (
            403,
            "Forbidden",
            "pod rejected: RuntimeClass \"gvisor\" not found",
            K::InvalidArgument,
            "runtime_class",
        ),
        (
            403,
            "Forbidden",
            "unable to create new content in namespace x because it is being terminated",
            K::InvalidState,
            "namespace",
        ),
    ] {
        let error = from_status(&status(code, reason, &format!("{POD}{text}")));
        assert_eq!(error.kind(), kind, "{text}");
        assert_eq!(error.field().unwrap_or_default(), field, "{text}");
        assert!(error.message().is_some_and(|message| message.contains(text)), "{error:?}");
    }
}

#[test]
fn policy_refusal_names_policy() {
    for (code, reason, message, policy) in [
        // A webhook chooses the code and the reason itself; without them it is 400.
        (
            400,
            "",
            "admission webhook \"deny.example.com\" denied the request without explanation",
            "deny.example.com",
        ),
        (
            403,
            "Forbidden",
            "admission webhook \"deny.example.com\" denied the request: no",
            "deny.example.com",
        ),
        (
            429,
            "TooManyRequests",
            "admission webhook \"deny.example.com\" denied the request: slow",
            "deny.example.com",
        ),
        (
            503,
            "ServiceUnavailable",
            "admission webhook \"deny.example.com\" denied the request: no",
            "deny.example.com",
        ),
        (
            422,
            "Invalid",
            "admission webhook \"deny.example.com\" denied the request: no",
            "deny.example.com",
        ),
        (
            404,
            "NotFound",
            "admission webhook \"deny.example.com\" denied the request: no",
            "deny.example.com",
        ),
        (
            403,
            "Forbidden",
            "pods \"web\" is forbidden: admission webhook \"deny.example.com\" denied the request: exceeded quota: q",
            "deny.example.com",
        ),
        (
            500,
            "InternalError",
            "Internal error occurred: admission webhook \"deny.example.com\" denied the request: no",
            "deny.example.com",
        ),
        (
            403,
            "[denied by repo-is-ours] container <main> has an invalid image repo",
            "admission webhook \"validation.gatekeeper.sh\" denied the request: [denied by repo-is-ours] container <main> has an invalid image repo",
            "policy repo-is-ours of",
        ),
        (
            403,
            "Forbidden",
            "admission webhook \"validation.gatekeeper.sh\" denied the request: [needs-labels] you must provide labels: {\"owner\"}\n[no-host-path] HostPath volume is not allowed",
            "policy needs-labels, no-host-path of",
        ),
        (
            400,
            "",
            "admission webhook \"validate.kyverno.svc-fail\" denied the request: \n\nresource Pod/default/demo was blocked due to the following policies \n\nrequire-labels:\n  check-for-labels: 'validation error: The label `app`\n    is required. rule check-for-labels failed at path /metadata/labels/'\n",
            "policy require-labels of",
        ),
        (
            400,
            "",
            "admission webhook \"validate.kyverno.svc-fail\" denied the request: \n\npolicy Pod/ns/web for resource violation: \n\nlatest-tag:\n  no-latest: 'validation error: no latest'\n",
            "policy latest-tag of",
        ),
        (
            422,
            "Invalid",
            "pods \"web\" is forbidden: ValidatingAdmissionPolicy 'no-root.example.com' with binding 'all' denied request: failed expression: x",
            "ValidatingAdmissionPolicy no-root.example.com",
        ),
        (
            403,
            "Forbidden",
            "pods \"web\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: expression 'x' resulted in error: no such key",
            "ValidatingAdmissionPolicy p",
        ),
        (
            413,
            "RequestEntityTooLarge",
            "pods \"web\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: large",
            "ValidatingAdmissionPolicy p",
        ),
        (
            403,
            "Forbidden",
            "pods \"web\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"main\" must set securityContext.allowPrivilegeEscalation=false)",
            "PodSecurity level restricted:latest",
        ),
        (
            403,
            "Forbidden",
            "pods \"web\" is forbidden: PodSecurityPolicy: unable to admit pod: [spec.volumes[0]: Invalid value: \"hostPath\": hostPath volumes are not allowed to be used]",
            "PodSecurityPolicy",
        ),
        (
            403,
            "Forbidden",
            "pods \"web\" is forbidden: unable to validate against any security context constraint: [fsGroup: Invalid value: []int64{185}: 185 is not an allowed group]",
            "SecurityContextConstraints",
        ),
        (
            403,
            "Forbidden",
            "pods \"web\" is forbidden: image policy webhook backend denied one or more images: no",
            "ImagePolicyWebhook",
        ),
    ] {
        let error = from_status(&status(code, reason, message));
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{message}");
        assert_eq!(error.field(), None, "{message}");
        assert!(!error.is_retryable(), "{message}");
        let text = error.message().unwrap_or_default();
        assert!(text.starts_with("refused by ") && text.contains(policy), "{text}");
        assert!(text.ends_with(message.trim()), "{text}");
    }
}

#[test]
fn missing_right_is_named_in_error() {
    for (message, right) in [
        (
            "pods is forbidden: User \"system:serviceaccount:ns:app\" cannot create resource \"pods\" in API group \"\" in the namespace \"ns\"",
            "the right to create pods in namespace ns is missing",
        ),
        (
            "pods \"web\" is forbidden: User \"u\" cannot create resource \"pods/exec\" in API group \"\" in the namespace \"ns\"",
            "the right to create pods/exec in namespace ns is missing",
        ),
        (
            "poddisruptionbudgets.policy is forbidden: User \"u\" cannot list resource \"poddisruptionbudgets\" in API group \"policy\" in the namespace \"ns\": RBAC: role.rbac.authorization.k8s.io \"r\" not found",
            "the right to list poddisruptionbudgets.policy in namespace ns is missing",
        ),
        (
            "nodes \"n\" is forbidden: User \"u\" cannot get resource \"nodes/proxy\" in API group \"\" at the cluster scope",
            "the right to get nodes/proxy is missing",
        ),
        (
            "forbidden: User \"u\" cannot get path \"/version\"",
            "the right to get /version is missing",
        ),
    ] {
        let error = from_status(&status(403, "Forbidden", message));
        assert_eq!((error.kind(), error.field()), (ErrorKind::PermissionDenied, None), "{message}");
        let text = error.message().unwrap_or_default();
        assert!(text.contains(message) && text.starts_with(right), "{text}");
        assert!(is_missing_right(message), "{message}");
    }
    for message in ["pods \"a\" is forbidden: exceeded quota: q", "", "User", "User \"u\" cannot"] {
        assert!(!is_missing_right(message), "{message}");
    }
}

#[test]
fn failed_webhook_is_unavailable() {
    for message in [
        "Internal error occurred: failed calling webhook \"a.example.com\": Post \"https://a.ns.svc:443/?timeout=10s\": context deadline exceeded",
        "Internal error occurred: failed calling webhook \"a.example.com\": failed to call webhook: Post \"https://x\": x509: certificate signed by unknown authority",
        "Internal error occurred: failed calling admission webhook \"a.example.com\": no endpoints available for service \"a\"",
    ] {
        let error = from_status(&status(500, "InternalError", message));
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{message}");
        assert!(error.is_retryable());
        assert!(error.message().is_some_and(|text| text.contains("webhook a.example.com")));
    }
}

#[test]
fn too_large_request_is_invalid_argument() {
    for (code, reason, message) in [
        (413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728"),
        (413, "", "limit is 3145728"),
        (500, "", "etcdserver: request is too large"),
        (
            500,
            "",
            "rpc error: code = ResourceExhausted desc = trying to send message larger than max (2097279 vs. 2097152)",
        ),
    ] {
        let error = from_status(&status(code, reason, message));
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{message}");
        assert!(!error.is_retryable());
    }
}

#[test]
fn text_of_caller_does_not_change_kind() {
    for text in ["exceeded quota: q, requested: ", "admission webhook \"x\" denied the request"] {
        let message = format!(
            "Pod \"web\" is invalid: spec.containers[0].image: Invalid value: \"{text}\": bad"
        );
        let error = from_status(&status(422, "Invalid", &message));
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidArgument, Some("image")));
    }
}

#[test]
fn field_is_not_empty() {
    let with = |message: &str, causes: &[&str]| {
        let causes =
            causes.iter().map(|field| Cause { field: (*field).into(), ..Cause::default() });
        let details = StatusDetails { causes: causes.collect(), ..StatusDetails::default() };
        from_status(&Status { details: Some(details), ..status(422, "Invalid", message) })
    };
    assert_eq!(with("Pod is invalid", &[""]).field(), None);
    assert_eq!(with("Pod is invalid", &["", "spec.hostname"]).field(), Some("hostname"));
    let message = "Pod \"web\" is invalid: [spec.hostname: Invalid value: \"A\": bad, x]";
    assert_eq!(with(message, &[""]).field(), Some("hostname"));
    let message = "the server rejected our request due to an error in our request";
    assert_eq!(with(message, &[]).field(), None);
}

#[test]
fn refusal_has_message_and_retry_delay() {
    let details = StatusDetails { retry_after_seconds: Some(7), ..StatusDetails::default() };
    let busy =
        Status { details: Some(details), ..status(429, "TooManyRequests", "too many requests") };
    assert_eq!(from_status(&busy).message(), Some("too many requests (retry after 7 s)"));
    assert_eq!(
        from_status(&status(429, "TooManyRequests", "")).message(),
        Some("the server returned TooManyRequests")
    );
    assert_eq!(from_status(&status(418, "", "")).message(), Some("the server returned status 418"));
}
