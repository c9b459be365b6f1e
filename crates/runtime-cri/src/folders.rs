//! Folders of log files, watched through one inotify instance: a user has few of those.

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

use crate::host::readable;

/// All watched folders.
#[derive(Debug, Clone, Default)]
pub(crate) struct FolderWatch {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    /// Told when a file that was written to is closed, in any of the folders.
    closed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    instance: Option<Instance>,
    folders: HashMap<PathBuf, Folder>,
    by_number: HashMap<i32, watch::Sender<()>>,
}

#[derive(Debug)]
struct Instance {
    fd: Arc<OwnedFd>,
    /// Ends the task that reads it.
    _stop: DropGuard,
    /// The task, which ends with its executor.
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Folder {
    number: i32,
    changed: watch::Sender<()>,
    /// Who wants to know when a file is closed.
    closes: usize,
    /// Who wants to know of every write.
    writes: usize,
}

/// What somebody wants to know of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// That a file which was written to is closed.
    Closes,
    /// Every write, and files that come and go.
    Writes,
}

/// A watched folder. Dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Subscription {
    watch: FolderWatch,
    path: PathBuf,
    wanted: Wanted,
    changed: watch::Receiver<()>,
}

impl FolderWatch {
    /// Watches a folder. `None` where that is not possible: then one has to look.
    pub(crate) fn subscribe(&self, path: &Path, wanted: Wanted) -> Option<Subscription> {
        match self.try_subscribe(path, wanted) {
            Ok(subscription) => Some(subscription),
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "a folder cannot be watched");
                None
            }
        }
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        *self.inner.lock() = State::default();
    }

    /// Completes when a file that was written to is closed, in any of the folders.
    pub(crate) fn any_closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let closed = self.inner.closed.clone();
        async move { closed.notified().await }
    }

    fn try_subscribe(&self, path: &Path, wanted: Wanted) -> io::Result<Subscription> {
        let mut state = self.inner.lock();
        if state.instance.as_ref().is_none_or(|instance| instance.task.is_finished()) {
            let instance = Instance::start(&self.inner)?;
            state.watch_again(&instance);
            state.instance = Some(instance);
        }
        let State { instance: Some(instance), folders, by_number } = &mut *state else {
            return Err(io::Error::other("no instance"));
        };
        let (closes, writes) =
            folders.get(path).map_or((0, 0), |folder| (folder.closes, folder.writes));
        let flags = flags(writes > 0 || wanted == Wanted::Writes);
        let number = inotify::add_watch(&instance.fd, path, flags)?;
        let folder = folders.entry(path.to_owned()).or_insert_with(|| Folder {
            number,
            changed: watch::Sender::new(()),
            closes,
            writes,
        });
        // A folder that was removed and made again has another number.
        folder.number = number;
        match wanted {
            Wanted::Closes => folder.closes += 1,
            Wanted::Writes => folder.writes += 1,
        }
        by_number.insert(number, folder.changed.clone());
        Ok(Subscription {
            watch: self.clone(),
            path: path.to_owned(),
            wanted,
            changed: folder.changed.subscribe(),
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
    /// Watches the folders with a new instance. Something may have happened in each meanwhile.
    fn watch_again(&mut self, instance: &Instance) {
        self.by_number.clear();
        for (path, folder) in &mut self.folders {
            if let Ok(number) = inotify::add_watch(&instance.fd, path, flags(folder.writes > 0)) {
                folder.number = number;
                self.by_number.insert(number, folder.changed.clone());
            }
            folder.changed.send_replace(());
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsubscribe(&self, path: &Path, wanted: Wanted) {
        let mut state = self.lock();
        let State { instance: Some(instance), folders, by_number } = &mut *state else { return };
        let Some(folder) = folders.get_mut(path) else { return };
        match wanted {
            Wanted::Closes => folder.closes -= 1,
            Wanted::Writes => folder.writes -= 1,
        }
        if folder.closes + folder.writes == 0 {
            // The kernel has dropped it already where the folder is gone.
            let _ = inotify::remove_watch(&instance.fd, folder.number);
            by_number.remove(&folder.number);
            folders.remove(path);
        } else if folder.writes == 0 && wanted == Wanted::Writes {
            let _ = inotify::add_watch(&instance.fd, path, flags(false));
        }
    }

    fn tell(&self, number: i32, events: ReadFlags) {
        if events.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::DELETE_SELF) {
            self.closed.notify_one();
        }
        let state = self.lock();
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.closed.notify_one();
            for folder in state.folders.values() {
                folder.changed.send_replace(());
            }
        } else if let Some(changed) = state.by_number.get(&number) {
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
                Ok(event) => inner.tell(event.wd(), event.events()),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        ready.clear_ready();
    }
}

impl Subscription {
    /// Completes when something has happened in the folder since the last call.
    pub(crate) async fn changed(&mut self) {
        // The sender lives as long as the subscription.
        let _ = self.changed.changed().await;
    }

    /// What has happened up to now is known.
    pub(crate) fn forget(&mut self) {
        self.changed.mark_unchanged();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.watch.inner.unsubscribe(&self.path, self.wanted);
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
    fn watch_goes_on_after_the_end_of_its_executor() {
        let executor =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (first, second) = (executor(), executor());
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let watch = FolderWatch::default();
        let subscribe = |at: usize| watch.subscribe(folders[at].path(), Wanted::Writes).unwrap();
        let mut old = first.block_on(async { subscribe(0) });
        drop(first);
        second.block_on(async {
            let mut new = subscribe(1);
            for (subscription, folder) in [(&mut old, &folders[0]), (&mut new, &folders[1])] {
                subscription.forget();
                fs::write(folder.path().join("a"), "x").unwrap();
                soon(subscription.changed()).await;
            }
            drop((old, new));
            assert!(watch.inner.lock().folders.is_empty());
        });
    }

    #[tokio::test]
    async fn writes_and_closes_are_told_to_those_who_want_them() {
        let folder = tempfile::tempdir().unwrap();
        let watch = FolderWatch::default();
        let mut closes = watch.subscribe(folder.path(), Wanted::Closes).unwrap();
        let mut writes = watch.subscribe(folder.path(), Wanted::Writes).unwrap();
        let mut file = File::create(folder.path().join("a")).unwrap();
        soon(writes.changed()).await;
        writes.forget();
        file.write_all(b"x").unwrap();
        soon(writes.changed()).await;
        drop(writes);
        closes.forget();
        let closed = watch.any_closed();
        file.write_all(b"y").unwrap();
        drop(file);
        soon(closes.changed()).await;
        soon(closed).await;
        drop(closes);
        let state = watch.inner.lock();
        assert!(state.folders.is_empty() && state.by_number.is_empty());
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_cannot_be_watched() {
        let folder = tempfile::tempdir().unwrap();
        let watch = FolderWatch::default();
        assert!(watch.subscribe(&folder.path().join("none"), Wanted::Closes).is_none());
    }

    #[tokio::test]
    async fn a_folder_that_goes_away_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("in");
        fs::create_dir(&inside).unwrap();
        let watch = FolderWatch::default();
        let mut subscription = watch.subscribe(&inside, Wanted::Closes).unwrap();
        fs::remove_dir(&inside).unwrap();
        soon(subscription.changed()).await;
    }
}
