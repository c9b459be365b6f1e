//! Asks the engine for its identity: `/version` and `/info`.

use std::time::SystemTime;

use runtime_core::{Error, ErrorKind, Operation, Result};

use super::http::{Call, Http};
use crate::model::engine::{Clock, Engine, Flavour, Info, Version};
use crate::model::time::parse_rfc3339;

/// Asks who is there, and decides on the version to speak.
pub(crate) async fn identify(http: &mut Http) -> Result<Engine> {
    // Without a version in its path this is answered by every engine, in its newest form.
    let version: Version =
        http.json(Call::get(Operation::Connect, "/version")).await.map_err(|error| match error
            .kind()
        {
            ErrorKind::Internal | ErrorKind::NotFound => Error::new(ErrorKind::Unavailable)
                .with_message(format!("what answers at {} is no Docker engine", http.endpoint()))
                .with_source(error),
            _ => error,
        })?;
    http.speak(version.negotiate()?);
    let info: Info = http.json(Call::get(Operation::Connect, "/info")).await?;
    let clock = Clock::compare(parse_rfc3339(info.system_time.as_bytes()), SystemTime::now());
    let engine = Engine { clock, ..Engine::from_answers(version, info)? };
    if engine.flavour == Flavour::Docker {
        http.is_docker(clock);
    }
    Ok(engine)
}

/// Returns the name and the version that the engine reports now.
pub(crate) async fn identify_again(http: &Http, engine: &Engine) -> Result<(String, String)> {
    let version = http.json(Call::get(Operation::Health, "/version")).await?;
    Ok(engine.name_and_version(version))
}
