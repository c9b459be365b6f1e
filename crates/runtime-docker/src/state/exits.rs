//! The ends of containers: Docker's events, list and inspect as a source for the waiters.

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
use crate::client::http::{Call, Http};
use crate::client::inspect::inspect;
use crate::client::list;
use crate::model::engine::{Clock, Flavour};
use crate::model::events::Message;
use crate::model::info::Summary;
use crate::model::time::to_query;

/// How many containers a list is asked for by id; for more of them it is asked for the scope.
const LISTED_BY_ID: usize = 64;

/// Where the waiters of a Docker runtime learn of exits.
pub(crate) struct DockerExits {
    pub(crate) http: Arc<Http>,
    pub(crate) deadlines: Deadlines,
    pub(crate) scope: Scope,
    pub(crate) flavour: Flavour,
    pub(crate) clock: Clock,
    pub(crate) containers: Arc<ContainerStates>,
}

#[async_trait]
impl ExitSource for DockerExits {
    async fn watch(&self) -> Result<WakeStream> {
        let filters = events::filters(self.flavour, &self.scope, &["die", "destroy"]);
        // The engines begin to answer before they begin to listen to their own events, so that
        // one from between is only there for who asks for the past.
        let call = Call::get(Operation::Wait, "/events")
            .query("filters", filters)
            .query("since", to_query(self.clock.at(SystemTime::now() - EVENTS_MARGIN)));
        let open = within(Operation::Wait, self.deadlines.query, self.http.call(call));
        let answer = open.await?;
        let bytes = self.http.stream(Operation::Wait, answer);
        let clock = self.clock;
        let wakes = events::messages(Operation::Wait, bytes).filter_map(move |message| {
            future::ready(match message {
                Ok(message) => wake(&message, clock).map(Ok),
                Err(error) => Some(Err(error)),
            })
        });
        Ok(wakes.boxed())
    }

    async fn look(&self, ids: &[ContainerId]) -> Result<Vec<(ContainerId, Sight)>> {
        let filter = if ids.len() <= LISTED_BY_ID {
            list::Filter::Ids(ids)
        } else {
            list::Filter::Labels(&self.scope, &[])
        };
        let call = list::call(Operation::Wait, &filter);
        let listed: Vec<Summary> =
            within(Operation::Wait, self.deadlines.query, self.http.json(call)).await?;
        let listed: HashMap<&str, &Summary> =
            listed.iter().map(|summary| (summary.id.as_str(), summary)).collect();
        Ok(ids
            .iter()
            .map(|id| {
                let sight = listed.get(id.as_str()).map_or(Sight::Gone, |summary| {
                    match summary.status() {
                        ContainerStatus::Running => Sight::Alive,
                        // A start that failed leaves it Created. If one did, it was ours or not.
                        ContainerStatus::Created if self.surely_not_started(id) => Sight::Alive,
                        ContainerStatus::Created | ContainerStatus::Exited => Sight::Unclear,
                    }
                });
                (id.clone(), sight)
            })
            .collect())
    }

    async fn inspect(&self, id: &ContainerId, seen: Option<Exit>) -> Result<Sight> {
        look_at(&self.http, &self.deadlines, &self.containers, id, seen).await
    }

    /// The cheapest way for a single job: its one request for the wait gives the code, and one
    /// inspect gives what the code does not say (out of memory, the end time, the engine's
    /// words). The stream of events would take an inspect more, for the state at its opening.
    /// It is only good for what was started, since a container that was not is not running
    /// either, and only on Docker: Podman polls four times a second to answer it.
    fn alone(&self, id: &ContainerId) -> Option<BoxFuture<'static, Result<Sight>>> {
        let started = self.containers.get(id)?.started() == Started::Yes;
        if self.flavour != Flavour::Docker || !started {
            return None;
        }
        let (http, deadlines) = (Arc::clone(&self.http), self.deadlines.clone());
        let (containers, id) = (Arc::clone(&self.containers), id.clone());
        Some(
            async move {
                let call = Call::post(Operation::Wait, format!("/containers/{id}/wait"))
                    .query("condition", "not-running");
                let seen = match http.json::<Waited>(call).await {
                    Ok(waited) => i32::try_from(waited.status_code).ok().map(Exit::from_code),
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Sight::Gone),
                    Err(error) => return Err(error),
                };
                // The engine has waited for it, so that it was there.
                match look_at(&http, &deadlines, &containers, &id, seen).await? {
                    Sight::Gone => Ok(Sight::Ended(Exit::new(ExitReason::Removed))),
                    sight => Ok(sight),
                }
            }
            .boxed(),
        )
    }
}

impl DockerExits {
    fn surely_not_started(&self, id: &ContainerId) -> bool {
        self.containers.get(id).is_some_and(|state| state.started() == Started::No)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Waited {
    status_code: i64,
}

async fn look_at(
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
        // It went away between its end and this look. A kill may have been that of the removal,
        // so that its code says nothing of the container.
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

fn wake(message: &Message, clock: Clock) -> Option<Wake> {
    let id = message.container()?;
    match message.action() {
        "die" => Some(Wake::Container(id, message.exit())),
        "destroy" | "remove" => Some(Wake::Removed(id, clock.here(message.time()))),
        _ => None,
    }
}
