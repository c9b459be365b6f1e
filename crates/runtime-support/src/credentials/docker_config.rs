//! The registry credentials in Docker's `config.json`, by the rules of Docker's own loader
//! (docker/cli, `cli/config`).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use runtime_core::RegistryAuth;
use serde::Deserialize;

use super::Credential;

/// Key of the credentials for Docker Hub.
pub(super) const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Standard base64 that ignores trailing bits, like Go's decoder.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Credentials of a configuration file. As in Go, `null` is an empty value everywhere.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DockerConfig {
    auths: Option<BTreeMap<String, Option<Entry>>>,
    cred_helpers: Option<BTreeMap<String, Option<String>>>,
    creds_store: Option<String>,
}

/// Credentials of one registry.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").finish_non_exhaustive()
    }
}

/// Source of the credentials of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// The credential helper of this name, called with this key.
    Helper { name: String, key: String },
    /// The configuration itself.
    Config(Credential),
    /// No credentials.
    Nothing,
}

/// An entry whose `auth` is not base64 of `NAME:PASSWORD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadEntry;

impl DockerConfig {
    /// Parses a configuration file.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// Parses the variable `DOCKER_AUTH_CONFIG`, which contains only `auths`, each with an `auth`.
    pub(super) fn parse_variable(text: &[u8]) -> Option<Self> {
        let Self { auths, .. } = Self::parse(text)?;
        let is_whole = |entry: &Option<Entry>| {
            entry
                .as_ref()
                .and_then(|entry| entry.auth.as_ref())
                .is_some_and(|auth| !auth.is_empty())
        };
        let auths = auths.filter(|auths| auths.values().all(is_whole))?;
        Some(Self { auths: Some(auths), ..Self::default() })
    }

    /// Returns the source of the credentials of a registry.
    ///
    /// A credential helper, of this registry or of all registries, takes precedence over `auths`,
    /// because an entry there may be older than the helper.
    pub(super) fn source(&self, registry: &str) -> Result<Source, BadEntry> {
        let keys = keys(registry);
        if let Some((name, key)) = self.helper(&keys) {
            return Ok(Source::Helper { name, key });
        }
        let Some(auths) = &self.auths else { return Ok(Source::Nothing) };
        let exact = keys.iter().find_map(|key| auths.get(*key));
        let entry = exact.or_else(|| {
            auths.iter().find(|(key, _)| keys.contains(&hostname(key))).map(|(_, entry)| entry)
        });
        let Some(Some(entry)) = entry else { return Ok(Source::Nothing) };
        Ok(entry.credential(registry)?.map_or(Source::Nothing, Source::Config))
    }

    /// Returns the source of the credentials of a repository by Podman's rules
    /// (containers-auth.json(5)): the helper of its registry, else the entry of the repository, of
    /// its enclosing namespaces from the inside to the outside, and of its registry.
    pub(super) fn podman_source(
        &self,
        repository: &str,
        registry: &str,
    ) -> Result<Source, BadEntry> {
        let helpers = self.cred_helpers.as_ref();
        let helper = helpers.and_then(|helpers| helpers.get(registry)?.clone());
        if let Some(name) = helper.filter(|name| !name.is_empty()) {
            return Ok(Source::Helper { name, key: registry.to_owned() });
        }
        let Some(auths) = &self.auths else { return Ok(Source::Nothing) };
        let around = std::iter::successors(Some(repository), |key| Some(key.rsplit_once('/')?.0));
        let own = around.into_iter().find_map(|key| auths.get(key));
        let entry = own.or_else(|| {
            let is_of_registry = |key: &str| podman_key(key) == podman_key(registry);
            auths.iter().find(|(key, _)| is_of_registry(key)).map(|(_, entry)| entry)
        });
        let Some(Some(entry)) = entry else { return Ok(Source::Nothing) };
        Ok(entry.credential(registry)?.map_or(Source::Nothing, Source::Config))
    }

    fn helper(&self, keys: &[&str]) -> Option<(String, String)> {
        let helpers = self.cred_helpers.as_ref();
        let own = helpers.and_then(|helpers| {
            keys.iter().find_map(|key| helpers.get(*key).map(|name| (name, *key)))
        });
        // An empty helper of a registry disables the global helper for that registry.
        let (name, key) = own.unwrap_or((&self.creds_store, keys.first()?));
        let name = name.as_ref().filter(|name| !name.is_empty())?;
        Some((name.clone(), key.to_owned()))
    }
}

impl Entry {
    /// Returns the credentials. A token takes precedence over a user name and a password, as in the
    /// engine.
    fn credential(&self, registry: &str) -> Result<Option<Credential>, BadEntry> {
        let text = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        if let Some(token) = text(&self.registrytoken) {
            return Ok(Some(Credential::RegistryToken(token)));
        }
        if let Some(token) = text(&self.identitytoken) {
            return Ok(Some(Credential::IdentityToken(token)));
        }
        let (username, password) = match text(&self.auth) {
            Some(auth) => decode(&auth).ok_or(BadEntry)?,
            None => (
                self.username.clone().unwrap_or_default(),
                self.password.clone().unwrap_or_default(),
            ),
        };
        if username.is_empty() && password.is_empty() {
            return Ok(None);
        }
        Ok(Some(Credential::Login(RegistryAuth::new(username, password).server_address(registry))))
    }
}

/// Returns the keys under which the credentials of a registry are stored. Docker writes the first.
fn keys(registry: &str) -> Vec<&str> {
    match registry {
        // Docker accepts only the first key; Podman writes the second.
        "docker.io" => vec![DOCKER_HUB_KEY, "docker.io", "index.docker.io"],
        registry => vec![registry],
    }
}

/// Returns the host and port of a key of `auths`. Older versions of Docker stored URLs; a path
/// after the host is ignored.
fn hostname(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split_once('/').map_or(rest, |(host, _)| host)
}

/// Returns the registry that Podman reads from a key: the host of a URL, with the aliases of Docker
/// Hub unified.
fn podman_key(key: &str) -> &str {
    let registry = if key.contains("://") { hostname(key) } else { key };
    match registry {
        "docker.io" | "registry-1.docker.io" => "index.docker.io",
        registry => registry,
    }
}

/// Decodes `auth`, which is base64 of `NAME:PASSWORD`. Go's decoder ignores line ends, and Docker
/// removes NUL bytes around the password.
fn decode(auth: &str) -> Option<(String, String)> {
    let auth: String = auth.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let text = String::from_utf8(BASE64.decode(auth).ok()?).ok()?;
    let (username, password) = text.split_once(':').filter(|(username, _)| !username.is_empty())?;
    Some((username.to_owned(), password.trim_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> DockerConfig {
        DockerConfig::parse(text.as_bytes()).unwrap()
    }

    fn login(username: &str, password: &str, registry: &str) -> Result<Source, BadEntry> {
        let auth = RegistryAuth::new(username, password).server_address(registry);
        Ok(Source::Config(Credential::Login(auth)))
    }

    fn helper(name: &str, key: &str) -> Result<Source, BadEntry> {
        Ok(Source::Helper { name: name.to_owned(), key: key.to_owned() })
    }

    #[test]
    fn keys_with_scheme_or_path_match_host() {
        for key in [
            "r.example:5000",
            "r.example:5000/",
            "r.example:5000/v2/",
            "r.example:5000/team/image",
            "http://r.example:5000",
            "https://r.example:5000/",
            "https://r.example:5000/v1/",
        ] {
            // "bob:pass:word".
            let config =
                config(&format!(r#"{{"auths":{{"{key}":{{"auth":"Ym9iOnBhc3M6d29yZA=="}}}}}}"#));
            let found = config.source("r.example:5000");
            assert_eq!(found, login("bob", "pass:word", "r.example:5000"), "{key}");
            for other in ["r.example", "r.example:5001", "example", "docker.io"] {
                assert_eq!(config.source(other), Ok(Source::Nothing), "{key} for {other}");
            }
        }
    }

    #[test]
    fn exact_key_takes_precedence_over_key_with_path() {
        let config = config(
            r#"{"auths":{"a.example/v2/":{"username":"old","password":"x"},
                         "a.example":{"username":"new","password":"y"}}}"#,
        );
        assert_eq!(config.source("a.example"), login("new", "y", "a.example"));
    }

    #[test]
    fn entry_fields_follow_docker_rules() {
        let config = config(
            r#"{"auths":{
                "plain.example":{"auth":"","username":"ada","password":"hunter2"},
                "noauth.example":{"username":"ada","password":"hunter2","email":null},
                "both.example":{"auth":"Ym9iOng=","username":"ada","password":"hunter2"},
                "lines.example":{"auth":"Ym9\niOng\r\n="},
                "nul.example":{"auth":"Ym9iOngAAA=="},
                "empty.example":{},
                "null.example":null,
                "nulls.example":{"auth":null,"identitytoken":null},
                "identity.example":{"auth":"","identitytoken":"t0ken"},
                "registry.example":{"auth":"Ym9iOng=","registrytoken":"bearer"},
                "garbled.example":{"auth":"!"},
                "nocolon.example":{"auth":"Ym9i"},
                "noname.example":{"auth":"Ong="}},
               "HttpHeaders":{"User-Agent":"x"},"credHelpers":null,"credsStore":"","psFormat":"x"}"#,
        );
        let token = |credential| Ok(Source::Config(credential));
        for (registry, found) in [
            ("plain.example", login("ada", "hunter2", "plain.example")),
            ("noauth.example", login("ada", "hunter2", "noauth.example")),
            ("both.example", login("bob", "x", "both.example")),
            ("lines.example", login("bob", "x", "lines.example")),
            ("nul.example", login("bob", "x", "nul.example")),
            ("empty.example", Ok(Source::Nothing)),
            ("null.example", Ok(Source::Nothing)),
            ("nulls.example", Ok(Source::Nothing)),
            ("none.example", Ok(Source::Nothing)),
            ("identity.example", token(Credential::IdentityToken("t0ken".into()))),
            ("registry.example", token(Credential::RegistryToken("bearer".into()))),
            ("garbled.example", Err(BadEntry)),
            ("nocolon.example", Err(BadEntry)),
            ("noname.example", Err(BadEntry)),
        ] {
            assert_eq!(config.source(registry), found, "{registry}");
        }
    }

    #[test]
    fn helper_takes_precedence_over_stored_credentials() {
        let config = config(
            r#"{"auths":{"a.example":{"auth":"Ym9iOng="},"off.example":{"auth":"Ym9iOng="},
                         "https://index.docker.io/v1/":{}},
                "credHelpers":{"own.example":"own","off.example":"","null.example":null},
                "credsStore":"all"}"#,
        );
        for (registry, source) in [
            ("a.example", helper("all", "a.example")),
            ("own.example", helper("own", "own.example")),
            ("off.example", login("bob", "x", "off.example")),
            ("null.example", Ok(Source::Nothing)),
            ("docker.io", helper("all", DOCKER_HUB_KEY)),
        ] {
            assert_eq!(config.source(registry), source, "{registry}");
        }
    }

    #[test]
    fn docker_hub_has_keys_of_docker_and_podman() {
        for key in [DOCKER_HUB_KEY, "docker.io", "index.docker.io", "https://index.docker.io/v2/"] {
            let config = config(&format!(r#"{{"auths":{{"{key}":{{"auth":"Ym9iOng="}}}}}}"#));
            assert_eq!(config.source("docker.io"), login("bob", "x", "docker.io"), "{key}");
        }
    }

    #[test]
    fn variable_contains_only_auths() {
        let parsed = |text: &str| DockerConfig::parse_variable(text.as_bytes());
        let config = parsed(r#"{"auths":{"a.example":{"auth":"Ym9iOng="}},"credsStore":"x"}"#);
        assert_eq!(config.unwrap().source("a.example"), login("bob", "x", "a.example"));
        for text in [
            "",
            "{",
            "{}",
            r#"{"auths":{"a.example":{}}}"#,
            r#"{"auths":{"a.example":{"username":"bob","password":"x"}}}"#,
        ] {
            assert!(parsed(text).is_none(), "{text}");
        }
    }

    #[test]
    fn debug_output_has_no_secret() {
        let config = config(r#"{"auths":{"a.example":{"username":"ada","password":"hunter2"}}}"#);
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    }

    #[test]
    fn podman_entries_match_namespaces() {
        // "ada:hunter2", "bob:x", "eve:x".
        let config = config(
            r#"{"auths":{
                "docker.io":{"auth":"YWRhOmh1bnRlcjI="},
                "r.example:5000/team/app":{"auth":"YWRhOmh1bnRlcjI="},
                "r.example:5000/team":{"auth":"Ym9iOng="},
                "https://old.example/v1/":{"auth":"ZXZlOng="}},
                "credHelpers":{"h.example":"pass","off.example":""},
                "credsStore":"not-of-podman"}"#,
        );
        let source = |repository: &str| {
            let registry = repository.split('/').next().unwrap();
            config.podman_source(repository, registry)
        };
        for (repository, user, password) in [
            ("docker.io/library/busybox", "ada", "hunter2"),
            ("r.example:5000/team/app", "ada", "hunter2"),
            ("r.example:5000/team/app/part", "ada", "hunter2"),
            ("r.example:5000/team/other", "bob", "x"),
            ("old.example/app", "eve", "x"),
        ] {
            let registry = repository.split('/').next().unwrap();
            assert_eq!(source(repository), login(user, password, registry), "{repository}");
        }
        for repository in ["r.example:5000/teams", "r.example/team/app", "off.example/app"] {
            assert_eq!(source(repository), Ok(Source::Nothing), "{repository}");
        }
        let helper = Source::Helper { name: "pass".to_owned(), key: "h.example".to_owned() };
        assert_eq!(source("h.example/app"), Ok(helper));
    }
}
