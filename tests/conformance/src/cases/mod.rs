//! Cases, with one file for each area.

mod attach;
mod backpressure;
mod cleanup;
mod create;
mod events;
mod exec;
mod executors;
pub(crate) mod fields;
mod files;
mod leaks;
mod lifecycle;
mod list;
pub(crate) mod logs;
mod logs_follow;
mod pull;
pub(crate) mod recovery;
mod resources;
mod runtime;
mod stats;
mod stop;
mod wait;

use crate::Case;

pub(crate) fn all() -> Vec<Case> {
    [
        runtime::CASES,
        create::CASES,
        cleanup::CASES,
        fields::CASES,
        resources::CASES,
        lifecycle::CASES,
        wait::CASES,
        stop::CASES,
        logs::CASES,
        logs_follow::CASES,
        list::CASES,
        stats::CASES,
        exec::CASES,
        executors::CASES,
        backpressure::CASES,
        attach::CASES,
        pull::CASES,
        recovery::CASES,
        files::CASES,
        events::CASES,
        leaks::CASES,
    ]
    .concat()
}
