//! Identifies the engine: `/version` and `/info`.

use std::time::SystemTime;

use runtime_core::{Error, ErrorKind, Operation, Result};

use super::http::{ApiRequest, Http};
use crate::model::engine::{ClockOffset, Engine, Flavour, Info, Version};
use crate::model::time::parse_rfc3339;

/// Requests the identity of the engine, and negotiates the API version.
pub(crate) async fn identify(http: &mut Http) -> Result<Engine> {
    // Every engine supports this path without a version, and responds in its newest format.
    let version: Version = http
        .json(ApiRequest::get(Operation::Connect, "/version"))
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::Internal | ErrorKind::NotFound => Error::new(ErrorKind::Unavailable)
                .with_message(format!("the server at {} is not a Docker engine", http.endpoint()))
                .with_source(error),
            _ => error,
        })?;
    http.set_version(version.negotiate()?);
    let info: Info = http.json(ApiRequest::get(Operation::Connect, "/info")).await?;
    let clock = ClockOffset::compare(parse_rfc3339(info.system_time.as_bytes()), SystemTime::now());
    let engine = Engine { clock, ..Engine::from_responses(version, info)? };
    if engine.flavour == Flavour::Docker {
        http.set_docker(clock);
    }
    Ok(engine)
}

/// Returns the name and the version that the engine reports now.
pub(crate) async fn identify_again(http: &Http, engine: &Engine) -> Result<(String, String)> {
    let version = http.json(ApiRequest::get(Operation::Health, "/version")).await?;
    Ok(engine.name_and_version(version))
}
