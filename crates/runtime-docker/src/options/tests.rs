//! Selection of the endpoint by options, variables and files.

use super::*;

fn resolve(options: &DockerOptions, variables: &[(&str, &str)]) -> Result<Endpoint> {
    let variable = |name: &str| {
        variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
    };
    options.resolve(&Environment { variable: &variable })
}

fn options() -> DockerOptions {
    DockerOptions::new(Scope::new("test").unwrap())
}

/// A configuration directory with the contexts `far` (TCP), `sealed` (TLS), and `blind` and `bare`,
/// which disable verification. `bare` has no certificates.
fn config() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, host, skip) in [
        ("far", "tcp://far.example:1234", false),
        ("sealed", "tcp://sealed.example", false),
        ("blind", "tcp://blind.example", true),
        ("bare", "tcp://bare.example", true),
    ] {
        let id = hex(&Sha256::digest(name.as_bytes()));
        let meta = dir.path().join("contexts/meta").join(&id);
        std::fs::create_dir_all(&meta).unwrap();
        let json = format!(
            r#"{{"Name":"{name}","Metadata":{{}},"Endpoints":{{"docker":{{"Host":"{host}","SkipTLSVerify":{skip}}}}}}}"#
        );
        std::fs::write(meta.join("meta.json"), json).unwrap();
        if name == "sealed" || name == "blind" {
            let tls = dir.path().join("contexts/tls").join(&id).join("docker");
            std::fs::create_dir_all(&tls).unwrap();
            std::fs::write(tls.join("ca.pem"), "").unwrap();
        }
    }
    dir
}

#[test]
fn hosts_parse_as_in_docker() {
    for (host, shown) in [
        ("unix:///run/x.sock", "unix:///run/x.sock"),
        ("unix://", "unix:///var/run/docker.sock"),
        (" tcp://h:99 ", "http://h:99"),
        ("h", "http://h:2375"),
        ("h:99", "http://h:99"),
        ("127.0.0.1:99", "http://127.0.0.1:99"),
        (":99", "http://localhost:99"),
        ("[::1]:99", "http://[::1]:99"),
        ("::1", "http://[::1]:2375"),
        ("tcp://::1", "http://[::1]:2375"),
        ("tcp://", "http://localhost:2375"),
        ("tcp://h", "http://h:2375"),
        ("tcp://h:99", "http://h:99"),
        ("tcp://:99", "http://localhost:99"),
        ("tcp://[::1]:99", "http://[::1]:99"),
        ("tcp://h:99/docker/", "http://h:99/docker"),
        ("http://h", "http://h:80"),
        ("https://h", "https://h:443"),
    ] {
        let endpoint = resolve(&options().host(host), &[]).unwrap();
        assert_eq!(endpoint.to_string(), format!("{shown} (from the option host)"));
    }
    let v6 = resolve(&options().host("tcp://[::1]:99"), &[]).unwrap();
    assert_eq!(v6.address(), &Address::Tcp { host: "::1".into(), port: 99 });
}

#[test]
fn invalid_hosts_return_typed_errors() {
    for (host, kind) in [
        ("", ErrorKind::InvalidArgument),
        ("/var/run/docker.sock", ErrorKind::InvalidArgument),
        (" ", ErrorKind::InvalidArgument),
        ("unix://unix:///x", ErrorKind::InvalidArgument),
        ("h:", ErrorKind::InvalidArgument),
        ("h:0", ErrorKind::InvalidArgument),
        ("tcp://h:0", ErrorKind::InvalidArgument),
        ("fd://x", ErrorKind::Unsupported),
        ("tcp://a b", ErrorKind::InvalidArgument),
        ("tcp://h:port", ErrorKind::InvalidArgument),
        ("tcp://h:70000", ErrorKind::InvalidArgument),
        ("tcp://user@h", ErrorKind::InvalidArgument),
        ("gopher://h", ErrorKind::InvalidArgument),
        ("ssh://user@h", ErrorKind::Unsupported),
        ("npipe:////./pipe/docker_engine", ErrorKind::Unsupported),
    ] {
        let error = resolve(&options().host(host), &[]).unwrap_err();
        assert_eq!((error.kind(), error.field()), (kind, Some("host")), "{host}");
        assert!(error.to_string().contains(host), "{error}");
    }
}

#[test]
fn first_source_of_endpoint_wins() {
    let dir = config();
    let path = dir.path().to_str().unwrap();
    std::fs::write(dir.path().join("config.json"), r#"{"currentContext":"far"}"#).unwrap();
    let all = [
        ("DOCKER_CONFIG", path),
        ("DOCKER_HOST", "unix:///env.sock"),
        ("DOCKER_CONTEXT", "sealed"),
    ];
    let endpoint_of = |options: &DockerOptions, variables: &[(&str, &str)]| {
        resolve(options, variables).unwrap().to_string()
    };
    assert_eq!(
        endpoint_of(&options().host("unix:///a.sock"), &all),
        "unix:///a.sock (from the option host)"
    );
    assert_eq!(
        endpoint_of(&options().context("far"), &all),
        "http://far.example:1234 (from the option context \"far\")"
    );
    assert_eq!(
        endpoint_of(&options().context("default"), &all),
        "unix:///env.sock (from DOCKER_HOST)"
    );
    assert_eq!(endpoint_of(&options(), &all), "unix:///env.sock (from DOCKER_HOST)");
    assert_eq!(
        endpoint_of(&options(), &[all[0], all[2]]),
        "https://sealed.example:2376 (from DOCKER_CONTEXT \"sealed\")"
    );
    assert_eq!(
        endpoint_of(&options(), &all[..1]),
        "http://far.example:1234 (from the current docker context \"far\")"
    );
    assert_eq!(
        endpoint_of(&options(), &[("HOME", "/nowhere")]),
        "unix:///var/run/docker.sock (from the default)"
    );
    assert_eq!(endpoint_of(&options(), &[]), "unix:///var/run/docker.sock (from the default)");
}

#[test]
fn invalid_contexts_return_typed_errors() {
    let dir = config();
    let variables = [("DOCKER_CONFIG", dir.path().to_str().unwrap())];
    for options in [
        options().context("none"),
        options().context("blind"),
        options().context("bare"),
        options().context("far").host("unix:///a"),
    ] {
        let error = resolve(&options, &variables).unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidArgument, Some("context")));
    }
    std::fs::write(dir.path().join("config.json"), "{").unwrap();
    assert_eq!(resolve(&options(), &variables).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn empty_variables_count_as_unset() {
    // The current directory has no configuration.
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join(".docker");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("config.json"), r#"{"currentContext":"none"}"#).unwrap();
    let home = home.path().to_str().unwrap();
    let current = ["DOCKER_CONFIG", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CERT_PATH"];
    let mut variables: Vec<_> = current.iter().map(|name| (*name, "")).collect();
    variables.push(("HOME", home));
    // The configuration of the home directory was read.
    assert!(resolve(&options(), &variables).unwrap_err().to_string().contains("none"));
    variables.push(("DOCKER_TLS_VERIFY", "1"));
    variables[1].1 = "tcp://h";
    let tls = resolve(&options(), &variables).unwrap().tls().cloned();
    assert_eq!(tls, Some(TlsFiles::all_of(&dir)));
    variables[4].1 = "";
    let error = resolve(&options(), &variables).unwrap_err();
    assert_eq!(error.field(), Some("DOCKER_TLS_VERIFY"));
    variables[1].1 = "";
    let unset = &variables[..variables.len() - 1];
    let default = resolve(&options(), unset).unwrap().to_string();
    assert_eq!(default, "unix:///var/run/docker.sock (from the default)");
    assert!(resolve(&options().context("far"), &variables).is_err());
    let error = resolve(&options().host("tcp://h").cert_path(""), &[]).unwrap_err();
    assert_eq!(error.field(), Some("cert_path"));
}

/// Compared with Docker's command line 28.2.
#[test]
fn tls_variables_without_host_select_tcp() {
    let home = ("HOME", "/root");
    for host in [None, Some(("DOCKER_HOST", " "))] {
        let plain: Vec<_> = [home].into_iter().chain(host).collect();
        let default = resolve(&options(), &plain).unwrap().to_string();
        assert_eq!(default, "unix:///var/run/docker.sock (from the default)");
        let verified = [&plain[..], &[("DOCKER_TLS_VERIFY", "1")]].concat();
        let endpoint = resolve(&options(), &verified).unwrap();
        assert_eq!(endpoint.to_string(), "https://localhost:2376 (from DOCKER_TLS_VERIFY)");
        let unverified = [&plain[..], &[("DOCKER_TLS", "1")]].concat();
        let error = resolve(&options(), &unverified).unwrap_err();
        assert_eq!(error.field(), Some("DOCKER_TLS"));
    }
}

#[test]
fn configuration_is_never_read_from_current_directory() {
    let environment = |variables: &'static [(&str, &str)]| {
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Environment { variable: &variable }.config_dir()
    };
    assert_eq!(environment(&[]), None);
    assert_eq!(environment(&[("HOME", "")]), None);
    assert_eq!(environment(&[("DOCKER_CONFIG", ""), ("HOME", "")]), None);
    assert_eq!(environment(&[("DOCKER_CONFIG", ""), ("HOME", "/h")]), Some("/h/.docker".into()));
    assert_eq!(environment(&[("DOCKER_CONFIG", "c"), ("HOME", "/h")]), Some("c".into()));
}

#[test]
fn certificates_are_found_as_in_docker() {
    let host = ("DOCKER_HOST", "tcp://h");
    let verify = ("DOCKER_TLS_VERIFY", "1");
    let all = |path: &str| Some(TlsFiles::all_of(Path::new(path)));
    let tls = |options: &DockerOptions, variables: &[(&str, &str)]| {
        resolve(options, variables).unwrap().tls().cloned()
    };
    assert_eq!(tls(&options(), &[host]), None);
    assert_eq!(tls(&options(), &[host, ("DOCKER_CERT_PATH", "/c")]), None);
    assert_eq!(tls(&options(), &[host, verify, ("DOCKER_CERT_PATH", "/c")]), all("/c"));
    assert_eq!(tls(&options(), &[host, verify, ("HOME", "/h")]), all("/h/.docker"));
    assert_eq!(tls(&options().host("tcp://h").cert_path("/o"), &[]), all("/o"));
    // TLS without verification is refused, and is not replaced by plain text.
    let blind = ("DOCKER_TLS", "1");
    for options in [options(), options().context("default")] {
        let error = resolve(&options, &[host, blind]).unwrap_err();
        let named = (ErrorKind::InvalidArgument, Some("DOCKER_TLS"));
        assert_eq!((error.kind(), error.field()), named);
    }
    assert_eq!(tls(&options(), &[host, blind, verify, ("HOME", "/h")]), all("/h/.docker"));
    assert_eq!(tls(&options().cert_path("/o"), &[host, blind]), all("/o"));
    assert_eq!(tls(&options(), &[("DOCKER_HOST", "unix:///s"), blind]), None);
    assert_eq!(tls(&options(), &[host, ("DOCKER_TLS", "")]), None);
    let dir = config();
    let variables = [("DOCKER_CONFIG", dir.path().to_str().unwrap())];
    let sealed = tls(&options().context("sealed"), &variables).unwrap();
    assert!(sealed.ca.unwrap().ends_with("docker/ca.pem"));
    assert_eq!(sealed.client, None);
}
