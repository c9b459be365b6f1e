//! Watches of directories through one inotify instance, because a user may have only a few.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::peer::readable;

/// Watcher of directories.
#[derive(Debug, Clone, Default)]
pub(crate) struct DirectoryWatcher {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    /// Notified when a file that was written to is closed, in any directory.
    closed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    instance: Option<Instance>,
    directories: HashMap<PathBuf, Directory>,
    by_descriptor: HashMap<i32, watch::Sender<()>>,
}

#[derive(Debug)]
struct Instance {
    fd: Arc<OwnedFd>,
    /// Stops the task when dropped.
    _stop: DropGuard,
    /// The task that reads the instance, which ends with its executor.
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Directory {
    descriptor: i32,
    changed: watch::Sender<()>,
    /// Number of watches with [`WatchMode::Close`].
    close_watches: usize,
    /// Number of watches with [`WatchMode::Write`].
    write_watches: usize,
}

/// Events of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WatchMode {
    /// A file that was written to is closed.
    Close,
    /// A file is written to, closed, created, renamed or removed.
    Write,
}

/// Watch of a directory, which ends when dropped.
#[derive(Debug)]
pub(crate) struct DirectoryWatch {
    watcher: DirectoryWatcher,
    path: PathBuf,
    mode: WatchMode,
    changed: watch::Receiver<()>,
}

impl DirectoryWatcher {
    /// Watches a directory. Returns `None` if that fails; the caller then has to poll.
    pub(crate) fn watch(&self, path: &Path, mode: WatchMode) -> Option<DirectoryWatch> {
        match self.try_watch(path, mode) {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "failed to watch a directory");
                None
            }
        }
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        *self.inner.lock() = State::default();
    }

    /// Completes when a file that was written to is closed, in any of the directories.
    pub(crate) fn any_closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let closed = self.inner.closed.clone();
        async move { closed.notified().await }
    }

    fn try_watch(&self, path: &Path, mode: WatchMode) -> io::Result<DirectoryWatch> {
        let mut state = self.inner.lock();
        if state.instance.as_ref().is_none_or(|instance| instance.task.is_finished()) {
            let instance = Instance::start(&self.inner)?;
            state.watch_again(&instance);
            state.instance = Some(instance);
        }
        let State { instance: Some(instance), directories, by_descriptor } = &mut *state else {
            return Err(io::Error::other("no instance"));
        };
        let (closes, writes) = directories
            .get(path)
            .map_or((0, 0), |directory| (directory.close_watches, directory.write_watches));
        let flags = flags(writes > 0 || mode == WatchMode::Write);
        let descriptor = inotify::add_watch(&instance.fd, path, flags)?;
        let directory = directories.entry(path.to_owned()).or_insert_with(|| Directory {
            descriptor,
            changed: watch::Sender::new(()),
            close_watches: closes,
            write_watches: writes,
        });
        // A directory that was removed and created again has another descriptor.
        directory.descriptor = descriptor;
        match mode {
            WatchMode::Close => directory.close_watches += 1,
            WatchMode::Write => directory.write_watches += 1,
        }
        by_descriptor.insert(descriptor, directory.changed.clone());
        Ok(DirectoryWatch {
            watcher: self.clone(),
            path: path.to_owned(),
            mode,
            changed: directory.changed.subscribe(),
        })
    }
}

fn flags(writes: bool) -> WatchFlags {
    let more = WatchFlags::MODIFY
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO;
    let least = WatchFlags::CLOSE_WRITE | WatchFlags::DELETE_SELF | WatchFlags::ONLYDIR;
    if writes { least | more } else { least }
}

impl State {
    /// Watches the directories with a new instance, and reports a change of each, because events
    /// may have been missed.
    fn watch_again(&mut self, instance: &Instance) {
        self.by_descriptor.clear();
        for (path, directory) in &mut self.directories {
            if let Ok(descriptor) =
                inotify::add_watch(&instance.fd, path, flags(directory.write_watches > 0))
            {
                directory.descriptor = descriptor;
                self.by_descriptor.insert(descriptor, directory.changed.clone());
            }
            directory.changed.send_replace(());
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unwatch(&self, path: &Path, mode: WatchMode) {
        let mut state = self.lock();
        let State { instance: Some(instance), directories, by_descriptor } = &mut *state else {
            return;
        };
        let Some(directory) = directories.get_mut(path) else { return };
        match mode {
            WatchMode::Close => directory.close_watches -= 1,
            WatchMode::Write => directory.write_watches -= 1,
        }
        if directory.close_watches + directory.write_watches == 0 {
            // Fails if the directory is gone, because the kernel has removed the watch then.
            let _ = inotify::remove_watch(&instance.fd, directory.descriptor);
            by_descriptor.remove(&directory.descriptor);
            directories.remove(path);
        } else if directory.write_watches == 0 && mode == WatchMode::Write {
            let _ = inotify::add_watch(&instance.fd, path, flags(false));
        }
    }

    fn notify(&self, descriptor: i32, events: ReadFlags) {
        if events.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::DELETE_SELF) {
            self.closed.notify_one();
        }
        let state = self.lock();
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.closed.notify_one();
            for directory in state.directories.values() {
                directory.changed.send_replace(());
            }
        } else if let Some(changed) = state.by_descriptor.get(&descriptor) {
            changed.send_replace(());
        }
    }
}

impl Instance {
    fn start(inner: &Arc<Inner>) -> io::Result<Self> {
        let fd = Arc::new(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?);
        let events = readable(fd.clone())?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(read(events, Arc::downgrade(inner), stop.clone()));
        Ok(Self { fd, _stop: stop.drop_guard(), task })
    }
}

async fn read(events: AsyncFd<Arc<OwnedFd>>, inner: Weak<Inner>, stop: CancellationToken) {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    loop {
        let ready = tokio::select! {
            ready = events.readable() => ready,
            () = stop.cancelled() => return,
        };
        let (Ok(mut ready), Some(inner)) = (ready, inner.upgrade()) else { return };
        let mut reader = inotify::Reader::new(events.get_ref(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => inner.notify(event.wd(), event.events()),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        ready.clear_ready();
    }
}

impl DirectoryWatch {
    /// Completes after an event in the directory since the last call.
    pub(crate) async fn changed(&mut self) {
        // The sender lives as long as the watch.
        let _ = self.changed.changed().await;
    }

    /// Discards earlier events.
    pub(crate) fn clear(&mut self) {
        self.changed.mark_unchanged();
    }
}

impl Drop for DirectoryWatch {
    fn drop(&mut self) {
        self.watcher.inner.unwatch(&self.path, self.mode);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    async fn soon<T>(work: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(10), work).await.unwrap()
    }

    #[test]
    fn watch_survives_the_end_of_its_executor() {
        let executor =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (first, second) = (executor(), executor());
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let watcher = DirectoryWatcher::default();
        let watch_at = |at: usize| watcher.watch(directories[at].path(), WatchMode::Write).unwrap();
        let mut old = first.block_on(async { watch_at(0) });
        drop(first);
        second.block_on(async {
            let mut new = watch_at(1);
            for (subscription, directory) in
                [(&mut old, &directories[0]), (&mut new, &directories[1])]
            {
                subscription.clear();
                fs::write(directory.path().join("a"), "x").unwrap();
                soon(subscription.changed()).await;
            }
            drop((old, new));
            assert!(watcher.inner.lock().directories.is_empty());
        });
    }

    #[tokio::test]
    async fn watch_reports_the_events_of_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let watcher = DirectoryWatcher::default();
        let mut closes = watcher.watch(directory.path(), WatchMode::Close).unwrap();
        let mut writes = watcher.watch(directory.path(), WatchMode::Write).unwrap();
        let mut file = File::create(directory.path().join("a")).unwrap();
        soon(writes.changed()).await;
        writes.clear();
        file.write_all(b"x").unwrap();
        soon(writes.changed()).await;
        drop(writes);
        closes.clear();
        let closed = watcher.any_closed();
        file.write_all(b"y").unwrap();
        drop(file);
        soon(closes.changed()).await;
        soon(closed).await;
        drop(closes);
        let state = watcher.inner.lock();
        assert!(state.directories.is_empty() && state.by_descriptor.is_empty());
    }

    #[tokio::test]
    async fn watch_of_missing_directory_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let watcher = DirectoryWatcher::default();
        assert!(watcher.watch(&directory.path().join("none"), WatchMode::Close).is_none());
    }

    #[tokio::test]
    async fn removed_directory_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("in");
        fs::create_dir(&inside).unwrap();
        let watcher = DirectoryWatcher::default();
        let mut subscription = watcher.watch(&inside, WatchMode::Close).unwrap();
        fs::remove_dir(&inside).unwrap();
        soon(subscription.changed()).await;
    }
}
