//! The fields of a kubeconfig file, decoded with client-go's rules.
//!
//! A value of the wrong type is an error. A `null` and an empty string are an absent value. Unknown
//! fields are ignored. Of a key that is repeated in one mapping the last value counts, and of several
//! YAML documents the first. Two list entries with one name are an error.

use std::collections::BTreeMap;
use std::path::Path;

use runtime_core::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The cluster extension that is handed to an exec plugin.
const EXEC_EXTENSION: &str = "client.authentication.k8s.io/exec";

const NOT_BASE64: &str = "is not base64";

/// Deserializes a value, or the default for `null`.
fn or_default<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A file, or what several files were merged to.
#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) current_context: String,
    pub(super) clusters: BTreeMap<String, Cluster>,
    pub(super) contexts: BTreeMap<String, Context>,
    pub(super) users: BTreeMap<String, User>,
}

#[derive(Deserialize)]
struct FileFields {
    #[serde(default, deserialize_with = "or_default")]
    kind: String,
    #[serde(default, rename = "apiVersion", deserialize_with = "or_default")]
    api_version: String,
    #[serde(default, rename = "current-context", deserialize_with = "or_default")]
    current_context: String,
    #[serde(default, deserialize_with = "or_default")]
    clusters: Vec<Option<NamedCluster>>,
    #[serde(default, deserialize_with = "or_default")]
    contexts: Vec<Option<NamedContext>>,
    #[serde(default, deserialize_with = "or_default")]
    users: Vec<Option<NamedUser>>,
}

macro_rules! named {
    ($name:ident, $field:literal, $of:ty) => {
        #[derive(Deserialize, Default)]
        struct $name {
            #[serde(default, deserialize_with = "or_default")]
            name: String,
            #[serde(default, rename = $field, deserialize_with = "or_default")]
            entry: $of,
        }

        impl From<$name> for (String, $of) {
            fn from(named: $name) -> Self {
                (named.name, named.entry)
            }
        }
    };
}

named!(NamedCluster, "cluster", Cluster);
named!(NamedContext, "context", Context);
named!(NamedUser, "user", User);

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct Cluster {
    #[serde(deserialize_with = "or_default")]
    pub(super) server: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) tls_server_name: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) insecure_skip_tls_verify: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) certificate_authority: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) certificate_authority_data: Encoded,
    #[serde(deserialize_with = "or_default")]
    pub(super) proxy_url: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) disable_compression: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) extensions: Vec<Extension>,
}

impl Cluster {
    /// Returns the extension that is handed to an exec plugin.
    pub(super) fn exec_extension(&self) -> Option<&Value> {
        self.extensions.iter().find(|e| e.name == EXEC_EXTENSION).map(|e| &e.extension)
    }
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Extension {
    #[serde(deserialize_with = "or_default")]
    name: String,
    extension: Value,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Context {
    #[serde(deserialize_with = "or_default")]
    pub(super) cluster: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) user: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) namespace: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct User {
    #[serde(deserialize_with = "or_default")]
    pub(super) username: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) password: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) token: String,
    #[serde(rename = "tokenFile", deserialize_with = "or_default")]
    pub(super) token_file: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) client_certificate: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) client_certificate_data: Encoded,
    #[serde(deserialize_with = "or_default")]
    pub(super) client_key: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) client_key_data: Encoded,
    #[serde(rename = "as", deserialize_with = "or_default")]
    pub(super) impersonate: String,
    #[serde(rename = "as-uid", deserialize_with = "or_default")]
    pub(super) impersonate_uid: String,
    #[serde(rename = "as-groups", deserialize_with = "or_default")]
    pub(super) impersonate_groups: Vec<String>,
    #[serde(rename = "as-user-extra", deserialize_with = "or_default")]
    pub(super) impersonate_extra: BTreeMap<String, Option<Vec<String>>>,
    pub(super) auth_provider: Option<AuthProvider>,
    pub(super) exec: Option<Exec>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct AuthProvider {
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Exec {
    #[serde(deserialize_with = "or_default")]
    pub(super) api_version: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) command: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) args: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) env: Vec<Variable>,
    #[serde(deserialize_with = "or_default")]
    pub(super) install_hint: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) provide_cluster_info: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) interactive_mode: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Variable {
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) value: String,
}

/// Bytes that are written as base64. Line ends inside of the text are ignored.
#[derive(Clone, Default)]
pub(super) struct Encoded(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Encoded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        use base64::Engine as _;
        let mut text = String::deserialize(deserializer)?;
        text.retain(|c| !matches!(c, '\r' | '\n'));
        // The text may be a private key: it is not part of the error.
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .map(Self)
            .map_err(|_| serde::de::Error::custom(NOT_BASE64))
    }
}

impl File {
    /// Reads the text of a file. `directory` is what relative paths in it are resolved against.
    pub(super) fn parse(bytes: &[u8], directory: &Path) -> Result<Self> {
        let text = decode(bytes).ok_or_else(|| bad("is not UTF-8 or UTF-16"))?;
        let fields: FileFields = match document(&text)? {
            Value::Null => return Ok(Self::default()),
            value @ Value::Object(_) => typed(value)?,
            _ => return Err(bad("is not a mapping")),
        };
        if !matches!(fields.api_version.as_str(), "" | "v1")
            || !matches!(fields.kind.as_str(), "" | "Config")
        {
            let FileFields { kind, api_version, .. } = &fields;
            return Err(bad(format!("has the unknown kind {kind:?} in version {api_version:?}")));
        }
        let mut file = Self {
            current_context: fields.current_context,
            clusters: by_name("clusters", fields.clusters)?,
            contexts: by_name("contexts", fields.contexts)?,
            users: by_name("users", fields.users)?,
        };
        file.resolve(directory);
        Ok(file)
    }

    fn resolve(&mut self, directory: &Path) {
        let resolve = |path: &mut String| {
            if !path.is_empty()
                && let Some(absolute) = directory.join(&*path).to_str()
            {
                *path = absolute.to_owned();
            }
        };
        for cluster in self.clusters.values_mut() {
            resolve(&mut cluster.certificate_authority);
        }
        for user in self.users.values_mut() {
            resolve(&mut user.client_certificate);
            resolve(&mut user.client_key);
            resolve(&mut user.token_file);
            // A bare name is looked up in `PATH`.
            if let Some(exec) = &mut user.exec
                && exec.command.contains(std::path::MAIN_SEPARATOR)
            {
                resolve(&mut exec.command);
            }
        }
    }

    /// Adds the entries of a later file. Of entries with the same name the first one is kept.
    pub(super) fn merge(&mut self, later: Self) {
        if self.current_context.is_empty() {
            self.current_context = later.current_context;
        }
        for (name, cluster) in later.clusters {
            self.clusters.entry(name).or_insert(cluster);
        }
        for (name, context) in later.contexts {
            self.contexts.entry(name).or_insert(context);
        }
        for (name, user) in later.users {
            self.users.entry(name).or_insert(user);
        }
    }

    /// Returns whether there is nothing in it to connect with.
    pub(super) fn is_empty(&self) -> bool {
        self.current_context.is_empty()
            && self.clusters.is_empty()
            && self.contexts.is_empty()
            && self.users.is_empty()
    }
}

fn by_name<N, T>(list: &str, named: Vec<Option<N>>) -> Result<BTreeMap<String, T>>
where
    N: Default + Into<(String, T)>,
{
    let mut entries = BTreeMap::new();
    for named in named {
        let (name, entry) = named.unwrap_or_default().into();
        if entries.contains_key(&name) {
            return Err(bad(format!("has two entries named {name:?} in {list}")));
        }
        entries.insert(name, entry);
    }
    Ok(entries)
}

/// Deserializes a value. An error names the field and leaves out its value, which may be a secret.
fn typed<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let cause = error.inner().to_string();
        let cause = match cause.rsplit_once("expected ") {
            Some((_, expected)) => format!("is not {expected}"),
            None if cause.contains(NOT_BASE64) => NOT_BASE64.to_owned(),
            None => "has a wrong value".to_owned(),
        };
        bad(format!("{} {cause}", error.path()))
    })
}

/// Returns the first YAML document of a text.
pub(super) fn document(text: &str) -> Result<Value> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
        // The error quotes the text, which may be a secret.
        .map_err(|error| match error.location() {
            Some(at) => bad(format!("is not YAML at line {}", at.line())),
            None => bad("is not YAML"),
        })?;
    Ok(documents.into_iter().next().unwrap_or_default())
}

/// Decodes UTF-8 with or without a byte order mark, or UTF-16 with one.
fn decode(bytes: &[u8]) -> Option<String> {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units = pairs.iter().map(|pair| unit(*pair));
        let text: std::result::Result<String, _> = char::decode_utf16(units).collect();
        text.ok().filter(|_| rest.is_empty())
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => Some(str::from_utf8(rest).ok()?.to_owned()),
        _ => Some(str::from_utf8(bytes).ok()?.to_owned()),
    }
}

/// Returns the error of a kubeconfig that cannot be used.
pub(super) fn bad(message: impl Into<String>) -> Error {
    Error::invalid("kubeconfig", message)
}
