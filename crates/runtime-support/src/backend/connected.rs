//! [`Runtime`] over a [`Backend`].

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use runtime_core::{
    Capabilities, Capability, Container, ContainerId, ContainerSpec, ContainerStats, Error,
    ErrorKind, EventStream, EventsOptions, Health, Image, ListOptions, Listed, Operation,
    PullOptions, PullStream, ReapOptions, ReapReport, Result, ResultExt as _, Runtime, Scope,
};
use tracing::Span;
use tracing::field::{Empty, display};

use super::call::call;
use super::{Backend, ContainerRef as _, Handle};
use crate::newest_first;

/// A connection to an engine: implements [`Runtime`] over a [`Backend`].
#[derive(Debug)]
pub struct Connected<B> {
    backend: Arc<B>,
}

impl<B> Clone for Connected<B> {
    fn clone(&self) -> Self {
        Self { backend: Arc::clone(&self.backend) }
    }
}

impl<B: Backend> Connected<B> {
    /// Creates the runtime of a connected backend.
    #[must_use]
    pub fn new(backend: Arc<B>) -> Self {
        Self { backend }
    }

    /// Returns the backend.
    #[must_use]
    pub fn inner(&self) -> &Arc<B> {
        &self.backend
    }

    /// Runs a backend-specific operation like one of [`Runtime`]: in a span, with its deadline,
    /// until the runtime is closed.
    ///
    /// # Errors
    /// The errors of `work`; `InvalidState` if the runtime is closed; `Timeout`.
    pub fn call<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        work: impl Future<Output = Result<T>> + Send + 'a,
    ) -> impl Future<Output = Result<T>> + Send + 'a {
        let work = work.boxed();
        async move { call(&self.backend, operation, None, &self.span(operation), work).await }
    }

    /// Returns the span of an operation. The field `container` is recorded later if the operation
    /// concerns one container.
    fn span(&self, operation: Operation) -> Span {
        tracing::debug_span!(
            "runtime",
            backend = B::NAME,
            operation = operation.as_str(),
            scope = %self.backend.context().scope,
            container = Empty
        )
    }

    fn handle(&self, container: B::Container) -> Arc<dyn Container> {
        Arc::new(Handle::new(&self.backend, container))
    }

    fn require(&self, capability: Capability) -> Result<()> {
        self.backend.context().capabilities.require(capability)
    }
}

#[async_trait]
impl<B: Backend> Runtime for Connected<B> {
    fn backend(&self) -> &'static str {
        B::NAME
    }

    fn scope(&self) -> &Scope {
        &self.backend.context().scope
    }

    fn capabilities(&self) -> &Capabilities {
        &self.backend.context().capabilities
    }

    async fn health(&self) -> Result<Health> {
        self.call(Operation::Health, self.backend.health()).await
    }

    async fn pull_image(&self, image: &Image, options: PullOptions) -> Result<PullStream> {
        let work = async {
            self.require(Capability::PullImage)?;
            let reference = image.resolve()?;
            self.backend.pull(reference, image.auth.clone(), options.policy).await
        };
        self.call(Operation::Pull, work).await.about(&image.reference)
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>> {
        let context = self.backend.context();
        let work = async {
            let prepared = spec.prepare(&context.scope, &context.capabilities)?;
            let name = prepared.name.clone();
            self.backend.create(prepared).await.map_err(|error| match error.kind() {
                ErrorKind::ImageNotFound => error.about(&spec.image.reference),
                _ => error.about(name),
            })
        };
        let span = self.span(Operation::Create);
        let made = call(&self.backend, Operation::Create, None, &span, work.boxed()).await;
        let container = match (made, &spec.name) {
            (Ok(container), _) => container,
            (Err(error), Some(name)) => return Err(error.about(name)),
            (Err(error), None) => return Err(error),
        };
        span.record("container", display(container.id()));
        Ok(self.handle(container))
    }

    async fn container(&self, id: &ContainerId) -> Result<Arc<dyn Container>> {
        let span = self.span(Operation::Reattach);
        span.record("container", display(id));
        let find = self.backend.find(id);
        let found =
            call(&self.backend, Operation::Reattach, None, &span, find.boxed()).await.about(id)?;
        Ok(self.handle(found))
    }

    async fn list_containers(&self, options: ListOptions) -> Result<Vec<Listed>> {
        let found = self.call(Operation::List, self.backend.list(&options.labels)).await?;
        let mut listed: Vec<_> = found
            .into_iter()
            .map(|(container, info)| Listed::new(self.handle(container), info))
            .collect();
        newest_first(&mut listed);
        Ok(listed)
    }

    async fn stats(
        &self,
        containers: &[ContainerId],
    ) -> Result<Vec<(ContainerId, ContainerStats)>> {
        let work = async {
            self.require(Capability::BulkStats)?;
            self.backend.stats_of(containers).await
        };
        self.call(Operation::Stats, work).await
    }

    async fn events(&self, options: EventsOptions) -> Result<EventStream> {
        let work = async {
            if options.since.is_some() {
                self.require(Capability::EventsSince)
                    .map_err(|error: Error| error.with_field("since"))?;
            }
            self.backend.events(options).await
        };
        self.call(Operation::Events, work).await
    }

    async fn reap(&self, options: ReapOptions) -> Result<ReapReport> {
        self.call(Operation::Reap, self.backend.reap(options)).await
    }

    async fn close(&self) -> Result<()> {
        let context = self.backend.context();
        context.closed.cancel();
        // The cleanup needs the connection.
        context.half_made.close(context.deadlines.remove).await;
        self.backend.close().await.during(Operation::Close).on(B::NAME)
    }
}
