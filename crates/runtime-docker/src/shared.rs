//! What a runtime and all of its containers share.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use runtime_core::{Capabilities, Deadlines, Operation, Result, ResultExt, Scope};
use serde::de::DeserializeOwned;

use runtime_support::{ExitHub, HalfMade};

use crate::BACKEND;
use crate::engine::Engine;
use crate::http::{Call, Http};
use crate::life::Lives;
use crate::stats::Samples;

/// The connection, and what is known of the engine at its other end.
#[derive(Debug)]
pub(crate) struct Shared {
    /// All requests.
    pub(crate) http: Arc<Http>,
    /// The same connection for bollard's calls.
    pub(crate) docker: bollard::Docker,
    /// Whose containers are made and seen.
    pub(crate) scope: Scope,
    /// How long the operations may take.
    pub(crate) deadlines: Deadlines,
    /// Who is there.
    pub(crate) engine: Engine,
    /// What it can do.
    pub(crate) capabilities: Capabilities,
    /// What is known of the containers beyond what the engine knows.
    pub(crate) lives: Arc<Lives>,
    /// The creates that nobody waits for any more, and their undoing.
    pub(crate) half_made: HalfMade,
    /// Who waits for the end of containers.
    pub(crate) exits: ExitHub,
    /// What the containers used when they were measured last.
    pub(crate) samples: Samples,
}

impl Shared {
    /// Asks a question and reads its JSON answer, within the deadline of questions.
    pub(crate) async fn query<T: DeserializeOwned>(
        &self,
        operation: Operation,
        call: Call,
    ) -> Result<T> {
        within(operation, self.deadlines.query, self.http.json(call)).await
    }

    /// Opens a stream, within the deadline of questions. What follows has none.
    pub(crate) async fn open(
        &self,
        operation: Operation,
        call: Call,
    ) -> Result<Response<Incoming>> {
        within(operation, self.deadlines.query, self.http.call(call)).await
    }
}

/// Does `work`, but no longer than `deadline`.
pub(crate) async fn within<T>(
    operation: Operation,
    deadline: Duration,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    runtime_support::within(operation, deadline, work).await.on(BACKEND)
}
