//! State that a connection keeps between calls.

pub(crate) mod connection;
pub(crate) mod exec_locks;
pub(crate) mod exits;
pub(crate) mod inspect;
pub(crate) mod journal;
pub(crate) mod poller;
pub(crate) mod rotation;
pub(crate) mod samples;

use std::sync::Arc;

use runtime_support::ExitHub;

use self::connection::Connection;
use self::exec_locks::ExecLocks;
use self::journal::Journal;
use self::poller::Poller;
use self::rotation::Rotator;
use self::samples::StatsSamples;
use crate::host::directory_watcher::DirectoryWatcher;

/// The backend of a connected engine.
#[derive(Debug)]
pub(crate) struct CriBackend {
    pub(crate) connection: Arc<Connection>,
    pub(crate) poller: Poller,
    pub(crate) exits: ExitHub,
    pub(crate) rotator: Rotator,
    pub(crate) journal: Journal,
    pub(crate) samples: StatsSamples,
    pub(crate) exec_locks: ExecLocks,
    pub(crate) watcher: DirectoryWatcher,
}

impl CriBackend {
    /// Closes the connection, and ends the poller and the watches.
    pub(crate) fn disconnect(&self) {
        self.poller.poll_now();
        self.connection.client.close();
        self.watcher.close();
    }
}
