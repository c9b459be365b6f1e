//! The source of the exit watcher: the engine's events, lists and inspects.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, future};
use runtime_core::{
    ContainerId, ContainerStatus, Deadlines, ErrorKind, Exit, ExitReason, Operation, Result, Scope,
    Signal,
};
use runtime_support::{ExitSource, Sight, Wake, WakeStream};
use serde::Deserialize;

use super::containers::{ContainerStates, Started};
use crate::client::deadline::within;
use crate::client::events::{self, EVENTS_MARGIN};
use crate::client::http::{ApiRequest, Http};
use crate::client::inspect::inspect;
use crate::client::list;
use crate::model::engine::{ClockOffset, Flavour};
use crate::model::events::Message;
use crate::model::info::Summary;
use crate::model::time::to_query;

/// The number of containers up to which a list is requested by ids. For more, the scope is listed.
const LIST_IDS_MAX: usize = 64;

/// The source of exits.
pub(crate) struct DockerExits {
    pub(crate) http: Arc<Http>,
    pub(crate) deadlines: Deadlines,
    pub(crate) scope: Scope,
    pub(crate) flavour: Flavour,
    pub(crate) clock: ClockOffset,
    /// Whether the engine runs on this host and reads its clock.
    pub(crate) same_clock: bool,
    pub(crate) containers: Arc<ContainerStates>,
}

#[async_trait]
impl ExitSource for DockerExits {
    async fn watch(&self) -> Result<WakeStream> {
        let filters = events::filters(self.flavour, &self.scope, &["die", "destroy"]);
        // The engines send the response head before they subscribe to their own events. An event in
        // between is only sent to a request for the past.
        let request = ApiRequest::get(Operation::Wait, "/events")
            .query("filters", filters)
            .query("since", to_query(self.clock.at(SystemTime::now() - EVENTS_MARGIN)));
        let open = within(Operation::Wait, self.deadlines.query, self.http.call(request));
        let response = open.await?;
        let bytes = self.http.stream(Operation::Wait, response);
        let (clock, same_clock) = (self.clock, self.same_clock);
        let wakes = events::messages(Operation::Wait, bytes).filter_map(move |message| {
            future::ready(match message {
                Ok(message) => wake(&message, |time| clock.earliest(time, same_clock)).map(Ok),
                Err(error) => Some(Err(error)),
            })
        });
        Ok(wakes.boxed())
    }

    async fn look(&self, ids: &[ContainerId]) -> Result<Vec<(ContainerId, Sight)>> {
        let filter = if ids.len() <= LIST_IDS_MAX {
            list::Filter::Ids(ids)
        } else {
            list::Filter::Labels(&self.scope, &[])
        };
        let request = list::request(Operation::Wait, &filter);
        let listed: Vec<Summary> =
            within(Operation::Wait, self.deadlines.query, self.http.json(request)).await?;
        let listed: HashMap<&str, &Summary> =
            listed.iter().map(|summary| (summary.id.as_str(), summary)).collect();
        Ok(ids
            .iter()
            .map(|id| {
                let sight = listed.get(id.as_str()).map_or(Sight::Gone, |summary| {
                    match summary.status() {
                        ContainerStatus::Running => Sight::Alive,
                        // A container is also Created after a failed start.
                        ContainerStatus::Created if self.is_not_started(id) => Sight::Alive,
                        ContainerStatus::Created | ContainerStatus::Exited => Sight::Unclear,
                    }
                });
                (id.clone(), sight)
            })
            .collect())
    }

    async fn inspect(&self, id: &ContainerId, seen: Option<Exit>) -> Result<Sight> {
        observe(&self.http, &self.deadlines, &self.containers, id, seen).await
    }

    /// Waits for one container by the engine's wait request, which is the cheapest way for a single
    /// job. It returns the exit code, and one inspect the rest (out of memory, end time, message).
    /// A stream of events needs one inspect more, for the state at its opening. Only used for
    /// started containers, because a created one is not running either, and only on Docker, because
    /// Podman implements it by polling four times a second.
    fn alone(&self, id: &ContainerId) -> Option<BoxFuture<'static, Result<Sight>>> {
        let started = self.containers.get(id)?.started() == Started::Yes;
        if self.flavour != Flavour::Docker || !started {
            return None;
        }
        let (http, deadlines) = (Arc::clone(&self.http), self.deadlines.clone());
        let (containers, id) = (Arc::clone(&self.containers), id.clone());
        Some(
            async move {
                let request = ApiRequest::post(Operation::Wait, format!("/containers/{id}/wait"))
                    .query("condition", "not-running");
                let seen = match http.json::<Waited>(request).await {
                    Ok(waited) => i32::try_from(waited.status_code).ok().map(Exit::from_code),
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Sight::Gone),
                    Err(error) => return Err(error),
                };
                // The container existed, because the engine has waited for it.
                match observe(&http, &deadlines, &containers, &id, seen).await? {
                    Sight::Gone => Ok(Sight::Ended(Exit::new(ExitReason::Removed))),
                    sight => Ok(sight),
                }
            }
            .boxed(),
        )
    }
}

impl DockerExits {
    fn is_not_started(&self, id: &ContainerId) -> bool {
        self.containers.get(id).is_some_and(|state| state.started() == Started::No)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Waited {
    status_code: i64,
}

async fn observe(
    http: &Arc<Http>,
    deadlines: &Deadlines,
    containers: &ContainerStates,
    id: &ContainerId,
    seen: Option<Exit>,
) -> Result<Sight> {
    let exit = match inspect(http, deadlines.query, Operation::Wait, id).await {
        Ok(inspect) => match inspect.exit() {
            Some(exit) => exit,
            None => match containers.get(id).and_then(|state| state.exit().cloned()) {
                Some(exit) => exit,
                None => return Ok(Sight::Alive),
            },
        },
        // Removed between its exit and this inspect. The exit code of a kill is ignored, because
        // the kill may have been a part of the removal.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            match seen.filter(|exit| exit.signal != Some(Signal::KILL)) {
                Some(exit) => exit,
                None => return Ok(Sight::Gone),
            }
        }
        Err(error) => return Err(error),
    };
    Ok(Sight::Ended(containers.settle(id, exit).await))
}

/// Returns the wake-up of an event. `earliest` converts the time of the event.
fn wake(message: &Message, earliest: impl Fn(SystemTime) -> SystemTime) -> Option<Wake> {
    let id = message.container()?;
    match message.action() {
        "die" => Some(Wake::Container(id, message.exit())),
        "destroy" | "remove" => Some(Wake::Removed(id, earliest(message.time()))),
        _ => None,
    }
}
