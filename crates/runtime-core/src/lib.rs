//! One interface that runs a container the same way on Docker, on containerd through the CRI, and on
//! Kubernetes.
//!
//! This crate holds what every backend shares and every caller sees: the [`Runtime`] and
//! [`Container`] traits, the types they speak in, the [`Error`], the [`Capabilities`], and
//! the check that every [`ContainerSpec`] goes through before an engine hears of it. It
//! depends on no backend, no HTTP stack and no async executor.
//!
//! The words of the field are used as they are: an *engine* is the daemon that runs
//! containers, a *backend* is the crate that speaks to one kind of engine, a *scope* is the
//! set of containers that belong to one user of this library on one engine.
//!
//! # Rules that hold for every operation
//!
//! - **Nothing differs in silence.** What an engine cannot do is false in its
//!   [`Capabilities`], and asking for it is [`ErrorKind::Unsupported`].
//! - **Every operation has a deadline**, see [`Deadlines`]. When it passes, the operation
//!   fails with [`ErrorKind::Timeout`].
//! - **Every future may be dropped** at any await without leaking a container, a
//!   connection or a task.
//! - **Handles are shared**: [`Container`] handles are `Send + Sync` and may be used from
//!   many tasks at once.
//! - **Absent is `None`**: a value that an engine does not give is never a zero, an empty
//!   string or a date in the year 1.

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
