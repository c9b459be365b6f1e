//! Traits and types for running a container the same way on Docker, on containerd through the CRI,
//! and on Kubernetes.
//!
//! This crate contains everything that backends share and callers see: the [`Runtime`] and
//! [`Container`] traits with their types, [`Error`], [`Capabilities`], and the validation of a
//! [`ContainerSpec`] before any request is sent. The crate depends on no backend, no HTTP stack and
//! no async executor.
//!
//! - An *engine* is the daemon that runs containers: Docker, containerd, a Kubernetes cluster.
//! - A *backend* is a crate that implements [`Runtime`] for one kind of engine.
//! - A *scope* is the set of containers that belong to one user of this library on one engine.
//!
//! # Run a container
//!
//! Every backend returns a type that implements [`Runtime`]. The rest of a program does not depend on
//! the backend:
//!
//! ```
//! use runtime_core::{ContainerExt, ContainerSpec, Exit, Result, Runtime};
//!
//! async fn hello(runtime: &dyn Runtime) -> Result<Exit> {
//!     let spec = ContainerSpec::new("busybox:1.36").command(["echo", "hello"]).memory(64 << 20);
//!     let container = runtime.create_container(&spec).await?;
//!     let exit = container.run().await;
//!     container.ensure_removed().await?;
//!     exit
//! }
//! ```
//!
//! [`Runtime::create_container`] pulls the image if it is missing. [`RuntimeExt::pull`] pulls an image
//! in advance, and [`Runtime::pull_image`] reports the progress.
//!
//! # Read logs
//!
//! A [`LogReader`] is a stream of records. With [`Follow::Yes`] it continues until the container has
//! ended, and resumes after a lost connection:
//!
//! ```
//! use futures_util::StreamExt;
//! use runtime_core::{Container, Follow, LogOptions, Result};
//!
//! async fn print_logs(container: &dyn Container) -> Result<()> {
//!     let mut records = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
//!     while let Some(record) = records.next().await {
//!         let record = record?;
//!         print!("{}: {}", record.stream, String::from_utf8_lossy(&record.bytes));
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Run a command in a container
//!
//! A [`Session`] has separate streams, and an exit code that is exact or an error:
//!
//! ```
//! use runtime_core::{Bytes, Container, ExecOptions, Result, SessionMode};
//!
//! async fn sort(container: &dyn Container, lines: &'static str) -> Result<i32> {
//!     let options = ExecOptions::new(["sort", "-o", "/tmp/sorted"]).mode(SessionMode::Stdin);
//!     let mut session = container.exec(options).await?;
//!     if let Some(stdin) = &mut session.stdin {
//!         stdin.write(Bytes::from(lines)).await?;
//!         stdin.close().await?;
//!     }
//!     Ok(session.control.wait().await?.code)
//! }
//! ```
//!
//! # Stop a container
//!
//! [`Container::stop`] does not remove the container. Its exit and its logs remain readable until
//! [`Container::remove`]:
//!
//! ```
//! use std::time::Duration;
//!
//! use runtime_core::{Container, Exit, Result, StopOptions, StopOutcome};
//!
//! async fn stop(container: &dyn Container) -> Result<Option<Exit>> {
//!     let options = StopOptions::default().grace(Duration::from_secs(5));
//!     Ok(match container.stop(options).await? {
//!         StopOutcome::Stopped(exit) | StopOutcome::AlreadyExited(exit) => Some(exit),
//!         StopOutcome::NotStarted => None,
//!     })
//! }
//! ```
//!
//! # Resume after a crash
//!
//! Store the [`ContainerId`]. After a restart, [`Runtime::container`] returns a handle for the same
//! container, and [`Runtime::reap`] removes the containers of a scope that are no longer needed:
//!
//! ```
//! use std::time::Duration;
//!
//! use runtime_core::{ContainerId, Exit, ReapOptions, ReapReport, Result, Runtime};
//!
//! async fn resume(runtime: &dyn Runtime, id: &ContainerId) -> Result<Exit> {
//!     runtime.container(id).await?.wait().await
//! }
//!
//! async fn clean_up(runtime: &dyn Runtime) -> Result<ReapReport> {
//!     let day = Duration::from_secs(24 * 60 * 60);
//!     runtime.reap(ReapOptions::default().older_than(day)).await
//! }
//! ```
//!
//! # Handle errors
//!
//! Match on [`Error::kind`]. [`Error::field`] names an invalid field of the caller's input,
//! [`Error::capability`] a missing capability of the engine:
//!
//! ```
//! use runtime_core::{Error, ErrorKind};
//!
//! fn advice(error: &Error) -> String {
//!     match error.kind() {
//!         ErrorKind::InvalidArgument => format!("correct the field {:?}", error.field()),
//!         ErrorKind::Unsupported => format!("the engine lacks {:?}", error.capability()),
//!         _ if error.is_retryable() => "try again later".to_owned(),
//!         _ => error.to_string(),
//!     }
//! }
//! ```
//!
//! # Rules for all operations
//!
//! - **No silent differences.** A feature that the engine lacks is `false` in its [`Capabilities`],
//!   and a request for it fails with [`ErrorKind::Unsupported`].
//! - **Deadlines.** Every operation has a deadline, see [`Deadlines`]. After the deadline the
//!   operation fails with [`ErrorKind::Timeout`].
//! - **Cancellation.** Every future may be dropped at any await point; no container, connection or
//!   task is leaked.
//! - **Sharing.** [`Container`] handles are `Send + Sync` and may be used from many tasks at once.
//! - **Absent values are `None`.** A value that the engine does not report is never a zero, an
//!   empty string or a zero time.

mod backoff;
mod capabilities;
mod container;
mod deadlines;
mod error;
mod event;
mod exec;
mod exit;
mod forward;
mod health;
mod ident;
mod image;
mod info;
mod join;
mod logs;
mod options;
mod prepare;
mod progress;
mod runtime;
mod spec;
mod stats;

pub use async_trait::async_trait;
pub use backoff::Backoff;
pub use bytes::Bytes;
pub use capabilities::{Capabilities, Capability, Limits};
pub use container::{Container, ContainerExt};
pub use deadlines::{Deadlines, bounded};
pub use error::{Error, ErrorKind, Operation, Result, ResultExt};
pub use event::{Event, EventKind};
pub use exec::{
    AttachOptions, ByteStream, ExecExit, ExecOptions, Session, SessionControl, SessionInput,
    SessionMode, TerminalSize,
};
pub use exit::{Exit, ExitReason, Signal};
pub use health::Health;
pub use ident::{
    ContainerId, ContainerName, LABEL_CREATED_AT, LABEL_MANAGED, LABEL_NONCE, LABEL_PREFIX,
    LABEL_SCOPE, Nonce, Scope,
};
pub use image::{Image, ImageRef, PullEvent, PullPolicy, PullSummary, RegistryAuth};
pub use info::{ContainerInfo, ContainerStatus, ImageInfo, Listed, TcpPortBinding};
pub use join::{Chunk, LineJoiner};
pub use logs::{LogCursor, LogReader, LogRecord, LogStream, RawLog, RawLogs, UnfinishedLine};
pub use options::{
    CopyInOptions, CopyOutOptions, EventsOptions, Follow, LabelFilter, ListOptions, LogOptions,
    PullOptions, ReapOptions, ReapReport, StartOutcome, StatsOptions, StopOptions, StopOutcome,
};
pub use prepare::{CpuLimit, PreparedSpec};
pub use progress::PENDING_START;
pub use runtime::{EventStream, PullStream, Runtime, RuntimeExt};
pub use spec::{
    ContainerSpec, Gpus, Interactive, Mount, MountAccess, MountKind, NVIDIA_VISIBLE_DEVICES,
    OOM_SCORE_ADJ_EVICTABLE,
};
pub use stats::{ContainerStats, StatType, StatsStream};
