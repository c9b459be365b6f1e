//! `info`.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::Result;
use runtime_core::{Capability, Runtime};
use serde_json::json;

use crate::cli::Info;
use crate::format::{Format, print};
use crate::style;

/// `runtime info`.
pub(crate) async fn info(runtime: Arc<dyn Runtime>, arguments: Info) -> Result<u8> {
    let format = Format::without_table(arguments.format.as_deref())?;
    let health = runtime.health().await?;
    if let Some(format) = format {
        let mut value = serde_json::to_value(&health)?;
        value["scope"] = json!(runtime.scope());
        print(&format.render(&[], [(value, Vec::new())])?)?;
        return Ok(0);
    }
    let mut text = String::new();
    let api = health.api_version.as_deref().unwrap_or("unknown");
    let _ = writeln!(text, "Backend   {}", health.backend);
    let _ = writeln!(text, "Engine    {} {}", health.engine, health.version);
    let _ = writeln!(text, "API       {api}");
    let _ = writeln!(text, "Scope     {}", runtime.scope());
    for warning in &health.warnings {
        let _ = writeln!(text, "Warning   {warning}");
    }
    let _ = writeln!(text, "\n{}", style::head("Capabilities"));
    for &capability in Capability::ALL {
        let mark = if health.capabilities.has(capability) { "yes" } else { "no " };
        let _ = writeln!(text, "  {mark}  {:<21} {}", capability.name(), capability.description());
    }
    print(&text)?;
    Ok(0)
}
