//! Containers by what people call them.

use std::sync::Arc;

use anyhow::Result;
use runtime_core::{
    Container, ContainerId, ContainerInfo, Error, ErrorKind, LabelFilter, ListOptions, Listed,
    Runtime,
};

/// The container of this name or id, or the one whose id begins so.
pub(crate) async fn container(runtime: &dyn Runtime, name: &str) -> Result<Arc<dyn Container>> {
    Ok(listed(runtime, name).await?.container)
}

/// The same with what the list says of it.
pub(crate) async fn listed(runtime: &dyn Runtime, name: &str) -> Result<Listed> {
    if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        // All of an id needs no list.
        let container = runtime.container(&ContainerId::new(name)).await?;
        let info = container.info().await?;
        return Ok(Listed::new(container, info));
    }
    let mut all = runtime.list_containers(ListOptions::default()).await?;
    let exact = all.iter().position(|listed| listed.info.name == name);
    let exact = exact.or_else(|| all.iter().position(|l| l.info.id.as_str() == name));
    if let Some(at) = exact {
        return Ok(all.swap_remove(at));
    }
    all.retain(|listed| !name.is_empty() && listed.info.id.as_str().starts_with(name));
    match all.len() {
        1 => Ok(all.swap_remove(0)),
        0 => Err(Error::new(ErrorKind::NotFound).about(name).with_message(format!(
            "the scope {:?} has no such container",
            runtime.scope().as_str()
        )))?,
        several => Err(Error::invalid(
            "container",
            format!("{several} containers have an id that begins with {name:?}"),
        ))?,
    }
}

/// What `--filter` selects.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    /// By labels: the engine selects.
    pub(crate) labels: LabelFilter,
    others: Vec<(String, String)>,
}

impl Filters {
    /// Reads filters, of which these may be other than labels.
    pub(crate) fn parse(filters: &[String], others: &[&str]) -> Result<Self> {
        let mut parsed = Self::default();
        for filter in filters {
            match filter.split_once('=') {
                Some(("label", label)) => {
                    let (key, value) = match label.split_once('=') {
                        Some((key, value)) => (key, Some(value.to_owned())),
                        None => (label, None),
                    };
                    parsed.labels.insert(key.to_owned(), value);
                }
                Some((key, value)) if others.contains(&key) => {
                    parsed.others.push((key.to_owned(), value.to_owned()));
                }
                _ => anyhow::bail!(
                    "{filter:?} is no filter; there are: label=KEY[=VALUE]{}",
                    others.iter().map(|key| format!(", {key}=VALUE")).collect::<String>()
                ),
            }
        }
        Ok(parsed)
    }

    /// Whether there is one of this kind.
    pub(crate) fn has(&self, kind: &str) -> bool {
        self.others.iter().any(|(key, _)| key == kind)
    }

    /// Whether a container passes. Of several filters of one kind, one is enough.
    pub(crate) fn pass(&self, info: &ContainerInfo) -> bool {
        let one = |key: &str, value: &str| match key {
            "name" => info.name.contains(value),
            "id" => info.id.as_str().starts_with(value),
            "status" => info.status.to_string() == value,
            "ancestor" => {
                let image = info.image.requested.as_deref().unwrap_or_default();
                image == value || image.ends_with(&format!("/{value}"))
            }
            _ => false,
        };
        self.others
            .iter()
            .all(|(kind, _)| self.others.iter().any(|(key, value)| key == kind && one(key, value)))
    }
}

#[cfg(test)]
mod tests {
    use runtime_core::ContainerStatus;

    use super::*;

    const OTHERS: [&str; 4] = ["name", "id", "status", "ancestor"];

    fn filters(words: &str) -> Result<Filters> {
        let words: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
        Filters::parse(&words, &OTHERS)
    }

    #[test]
    fn what_passes_a_filter() {
        let id = ContainerId::new("abcdef");
        let mut info = ContainerInfo::new(id, "the-web-1", ContainerStatus::Running);
        info.image.requested = Some("docker.io/library/busybox:1.35".to_owned());
        for (words, passes) in [
            ("", true),
            ("name=web", true),
            ("name=wob", false),
            ("id=abc", true),
            ("id=bcd", false),
            ("status=running", true),
            ("status=run", false),
            ("status=exited", false),
            ("ancestor=docker.io/library/busybox:1.35", true),
            ("ancestor=busybox:1.35", true),
            ("ancestor=box:1.35", false),
            ("ancestor=busybox", false),
            // One of a kind is enough, and each kind counts.
            ("name=wob name=web", true),
            ("status=exited status=running", true),
            ("name=web status=exited", false),
            ("name=web id=abc status=running ancestor=busybox:1.35", true),
        ] {
            assert_eq!(filters(words).unwrap().pass(&info), passes, "{words}");
        }
    }

    #[test]
    fn labels_are_the_engines() {
        let parsed = filters("label=bare label=key=va=lue status=exited").unwrap();
        let labels: Vec<_> = parsed.labels.iter().collect();
        let value = Some("va=lue".to_owned());
        assert_eq!(labels, [(&"bare".to_owned(), &None), (&"key".to_owned(), &value)]);
        assert!(parsed.has("status") && !parsed.has("name"));
        for wrong in ["name", "colour=red", "label"] {
            let error = filters(wrong).unwrap_err().to_string();
            assert!(error.contains("ancestor=VALUE"), "{wrong}: {error}");
        }
        let error = Filters::parse(&["name=x".to_owned()], &[]).unwrap_err().to_string();
        assert!(!error.contains("name=VALUE"), "{error}");
    }
}
