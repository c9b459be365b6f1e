//! Resolution of container names, ids, and filters.

use std::sync::Arc;

use anyhow::Result;
use runtime_core::{
    Container, ContainerId, ContainerInfo, ContainerStatus, Error, ErrorKind, ImageRef,
    LabelFilter, ListOptions, Listed, Runtime,
};

/// Returns the container with this name, id, or unique id prefix.
pub(crate) async fn container(runtime: &dyn Runtime, name: &str) -> Result<Arc<dyn Container>> {
    Ok(listed(runtime, name).await?.container)
}

/// Returns the container with its list entry.
pub(crate) async fn listed(runtime: &dyn Runtime, name: &str) -> Result<Listed> {
    if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        // A full id needs no list.
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

/// Parsed `--filter` options.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    /// Label filters, which the engine applies.
    pub(crate) labels: LabelFilter,
    others: Vec<(String, String)>,
}

impl Filters {
    /// Parses filters: labels and the keys in `others`.
    pub(crate) fn parse(filters: &[String], others: &[&str]) -> Result<Self> {
        let mut parsed = Self::default();
        for filter in filters {
            match filter.split_once('=') {
                Some(("label", label)) => {
                    let (key, value) = match label.split_once('=') {
                        Some((key, value)) => (key, Some(value.to_owned())),
                        None => (label, None),
                    };
                    parsed.add_label(key, value)?;
                }
                Some(("status", status)) if others.contains(&"status") && !is_status(status) => {
                    anyhow::bail!("{filter:?}: a status is created, running or exited")
                }
                Some((key, value)) if others.contains(&key) => {
                    parsed.others.push((key.to_owned(), value.to_owned()));
                }
                _ => anyhow::bail!(
                    "{filter:?} is not a filter; supported: label=KEY[=VALUE]{}",
                    others.iter().map(|key| format!(", {key}=VALUE")).collect::<String>()
                ),
            }
        }
        Ok(parsed)
    }

    /// Adds a label filter. Of a filter with and one without a value, the one with a value is kept.
    fn add_label(&mut self, key: &str, value: Option<String>) -> Result<()> {
        let Some(before) = self.labels.get_mut(key) else {
            self.labels.insert(key.to_owned(), value);
            return Ok(());
        };
        match (&*before, &value) {
            (Some(one), Some(other)) if one != other => anyhow::bail!(
                "no container has two values for the label {key:?}: {one:?} and {other:?}"
            ),
            (None, Some(_)) => *before = value,
            _ => {}
        }
        Ok(())
    }

    /// Returns true if there is a filter with this key.
    pub(crate) fn has(&self, kind: &str) -> bool {
        self.others.iter().any(|(key, _)| key == kind)
    }

    /// Returns true if a container matches: any of the filters with the same key, and all keys.
    pub(crate) fn pass(&self, info: &ContainerInfo) -> bool {
        let one = |key: &str, value: &str| match key {
            "name" => name_matches(&info.name, value),
            "id" => info.id.as_str().starts_with(value),
            "status" => info.status.to_string() == value,
            "ancestor" => image_matches(info.image.requested.as_deref().unwrap_or_default(), value),
            _ => false,
        };
        self.others
            .iter()
            .all(|(kind, _)| self.others.iter().any(|(key, value)| key == kind && one(key, value)))
    }
}

/// Returns true for the name of a status.
fn is_status(text: &str) -> bool {
    use ContainerStatus::{Created, Exited, Running};
    [Created, Running, Exited].iter().any(|status| status.to_string() == text)
}

/// Returns true if the name contains this part; `^` anchors it at the start and `$` at the end.
fn name_matches(name: &str, part: &str) -> bool {
    let (part, first) = part.strip_prefix('^').map_or((part, false), |part| (part, true));
    let (part, last) = part.strip_suffix('$').map_or((part, false), |part| (part, true));
    match (first, last) {
        (true, true) => name == part,
        (true, false) => name.starts_with(part),
        (false, true) => name.ends_with(part),
        (false, false) => name.contains(part),
    }
}

/// Returns true if `meant` refers to this image: the same normalized reference, or its last
/// components.
fn image_matches(image: &str, meant: &str) -> bool {
    let same = match (ImageRef::parse(image), ImageRef::parse(meant)) {
        (Ok(image), Ok(meant)) => image == meant,
        _ => false,
    };
    same || image == meant || image.ends_with(&format!("/{meant}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS: [&str; 4] = ["name", "id", "status", "ancestor"];

    fn filters(words: &str) -> Result<Filters> {
        let words: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
        Filters::parse(&words, &OTHERS)
    }

    #[test]
    fn filter_matches_containers() {
        let id = ContainerId::new("abcdef");
        let mut info = ContainerInfo::new(id, "the-web-1", ContainerStatus::Running);
        info.image.requested = Some("docker.io/library/busybox:1.35".to_owned());
        for (words, passes) in [
            ("", true),
            ("name=web", true),
            ("name=wob", false),
            ("name=^the", true),
            ("name=^web", false),
            ("name=1$", true),
            ("name=web$", false),
            ("name=^the-web-1$", true),
            ("name=^web$", false),
            ("id=abc", true),
            ("id=bcd", false),
            ("status=running", true),
            ("status=exited", false),
            ("ancestor=docker.io/library/busybox:1.35", true),
            ("ancestor=busybox:1.35", true),
            ("ancestor=index.docker.io/library/busybox:1.35", true),
            ("ancestor=box:1.35", false),
            ("ancestor=busybox", false),
            // Filters with the same key are alternatives, and every key must match.
            ("name=wob name=web", true),
            ("status=exited status=running", true),
            ("name=web status=exited", false),
            ("name=web id=abc status=running ancestor=busybox:1.35", true),
        ] {
            assert_eq!(filters(words).unwrap().pass(&info), passes, "{words}");
        }
    }

    #[test]
    fn image_without_tag_matches_latest() {
        let requested = "docker.io/library/busybox:latest";
        for (meant, same) in [
            ("busybox", true),
            ("library/busybox", true),
            ("docker.io/busybox", true),
            ("busybox:latest", true),
            ("busybox:1", false),
            ("Busybox", false),
        ] {
            assert_eq!(image_matches(requested, meant), same, "{meant}");
        }
    }

    #[test]
    fn label_with_value_overrides_label_without() {
        for words in ["label=a=1 label=a", "label=a label=a=1", "label=a=1 label=a=1"] {
            let parsed = filters(words).unwrap();
            let labels: Vec<_> = parsed.labels.iter().collect();
            assert_eq!(labels, [(&"a".to_owned(), &Some("1".to_owned()))], "{words}");
        }
        let error = filters("label=a=1 label=a=2").unwrap_err().to_string();
        assert!(error.contains("two values"), "{error}");
    }

    #[test]
    fn label_filters_are_passed_to_engine() {
        let parsed = filters("label=bare label=key=va=lue status=exited").unwrap();
        let labels: Vec<_> = parsed.labels.iter().collect();
        let value = Some("va=lue".to_owned());
        assert_eq!(labels, [(&"bare".to_owned(), &None), (&"key".to_owned(), &value)]);
        assert!(parsed.has("status") && !parsed.has("name"));
        for wrong in ["name", "colour=red", "label"] {
            let error = filters(wrong).unwrap_err().to_string();
            assert!(error.contains("ancestor=VALUE"), "{wrong}: {error}");
        }
        let error = filters("status=exitd").unwrap_err().to_string();
        assert!(error.contains("running"), "{error}");
        let error = Filters::parse(&["name=x".to_owned()], &[]).unwrap_err().to_string();
        assert!(!error.contains("name=VALUE"), "{error}");
    }
}
