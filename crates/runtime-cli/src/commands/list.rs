//! `ps` and `inspect`.

use std::sync::Arc;

use anyhow::Result;
use runtime_core::{ContainerInfo, ContainerStatus, ListOptions, Runtime};
use serde_json::{Value, json};

use crate::cli::{Inspect, Ps};
use crate::format::{Format, print};
use crate::resolve::{self, Filters};
use crate::{style, units};

/// `runtime ps`.
pub(crate) async fn ps(runtime: Arc<dyn Runtime>, arguments: Ps) -> Result<u8> {
    let filters = Filters::parse(&arguments.filter, &["name", "id", "status", "ancestor"])?;
    let format = Format::parse(arguments.format.as_deref())?;
    let mut options = ListOptions::default();
    options.labels.clone_from(&filters.labels);
    let mut listed = runtime.list_containers(options).await?;
    let all = arguments.all || filters.has("status");
    listed.retain(|listed| {
        (all || listed.info.status == ContainerStatus::Running) && filters.pass(&listed.info)
    });
    if arguments.quiet {
        let ids = listed.iter().map(|l| format!("{}\n", short(&l.info, arguments.no_trunc)));
        print(&ids.collect::<String>())?;
        return Ok(0);
    }
    let nodes = listed.iter().any(|listed| listed.info.node.is_some());
    let mut heads = vec!["CONTAINER ID", "IMAGE", "CREATED", "STATUS", "PORTS", "NAME"];
    if nodes {
        heads.push("NODE");
    }
    let json = matches!(format, Format::Json);
    let rows = listed.iter().map(|listed| {
        let row = Row::of(&listed.info, arguments.no_trunc);
        let mut columns = vec![
            row.id.clone(),
            row.image.clone(),
            row.created.clone(),
            row.status.clone(),
            row.ports.clone(),
            row.name.clone(),
        ];
        if nodes {
            columns.push(listed.info.node.clone().unwrap_or_default());
        }
        let value = if json { details(&listed.info) } else { row.value(&listed.info) };
        (value, columns)
    });
    print(&format.render(&heads, rows)?)?;
    Ok(0)
}

/// `runtime inspect`.
pub(crate) async fn inspect(runtime: Arc<dyn Runtime>, arguments: Inspect) -> Result<u8> {
    let format = match arguments.format.as_deref() {
        None | Some("json") => None,
        text => Format::without_table(text)?,
    };
    let mut found = Vec::new();
    let mut failed = false;
    for name in &arguments.containers {
        let info = async {
            let container = resolve::container(&*runtime, name).await?;
            Ok::<_, anyhow::Error>(container.info().await?)
        };
        match info.await {
            Ok(info) => found.push(details(&info)),
            Err(error) => {
                style::print_error(&error);
                failed = true;
            }
        }
    }
    match format {
        Some(format) => {
            print(&format.render(&[], found.into_iter().map(|value| (value, Vec::new())))?)?;
        }
        None => print(&format!("{}\n", serde_json::to_string_pretty(&found)?))?,
    }
    Ok(u8::from(failed))
}

/// Returns all fields of a container, with times in RFC 3339.
fn details(info: &ContainerInfo) -> Value {
    let mut value = serde_json::to_value(info).unwrap_or_default();
    let time = |time: Option<std::time::SystemTime>| json!(time.map(units::rfc3339));
    value["created_at"] = time(info.created_at);
    value["started_at"] = time(info.started_at);
    value["ended_at"] = time(info.ended_at);
    if let Some(exit) = &info.exit {
        value["exit"]["ended_at"] = time(exit.ended_at);
    }
    value
}

/// Returns the id to show: twelve digits of a hexadecimal id, unless `whole` is set.
fn short(info: &ContainerInfo, whole: bool) -> String {
    let id = info.id.as_str();
    let hex = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if whole || !hex { id.to_owned() } else { id[..12].to_owned() }
}

/// A line of `ps`.
struct Row {
    id: String,
    image: String,
    created: String,
    status: String,
    ports: String,
    name: String,
}

impl Row {
    fn of(info: &ContainerInfo, whole: bool) -> Self {
        let image = info.image.requested.as_deref().unwrap_or_default();
        let familiar = image
            .strip_prefix("docker.io/library/")
            .or_else(|| image.strip_prefix("docker.io/"))
            .unwrap_or(image);
        let status = match (&info.exit, info.status) {
            (Some(exit), _) => exit.to_string(),
            (None, status) => status.to_string(),
        };
        let ports = info.tcp_ports.iter();
        let ports = ports.map(|port| match port.host_port {
            0 => format!("{}/tcp", port.container_port),
            host => format!("{host}->{}/tcp", port.container_port),
        });
        Self {
            id: short(info, whole),
            image: if whole { image.to_owned() } else { familiar.to_owned() },
            created: info.created_at.map(units::ago).unwrap_or_default(),
            status,
            ports: ports.collect::<Vec<_>>().join(", "),
            name: info.name.clone(),
        }
    }

    /// Returns the fields for templates, named as in Docker's CLI.
    fn value(self, info: &ContainerInfo) -> Value {
        json!({
            "id": self.id,
            "image": self.image,
            "created_at": info.created_at.map(units::rfc3339),
            "running_for": self.created,
            "status": self.status,
            "state": info.status.to_string(),
            "ports": self.ports,
            "name": self.name,
            "names": self.name,
            "labels": info.labels,
            "node": info.node,
            "exit": info.exit,
        })
    }
}
