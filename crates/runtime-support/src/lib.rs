//! Code shared by several backends that requires an async executor.
//!
//! - [`backend`]: the [`Backend`](backend::Backend) trait, and the implementation of
//!   [`Runtime`](runtime_core::Runtime) and [`Container`](runtime_core::Container) over it.
//! - [`follow`]: log readers that resume after a lost connection.
//! - [`ExitHub`]: one exit watcher per connection, for any number of waiters.
//! - `session` (a feature): exec and attach sessions over Kubernetes' remote command protocol.
//! - [`copy`]: copies by the container's own `tar`.
//! - [`process`], [`kernel_log`], [`locality`], [`ports`]: the host of an engine that runs on it.

mod attach;
pub mod backend;
mod check;
pub mod copy;
mod credentials;
mod deadline;
mod error;
mod exec_start;
mod exits;
pub mod follow;
mod half_made;
pub mod kernel_log;
mod labels;
pub mod locality;
#[cfg(unix)]
mod mounts;
mod on_executor;
mod order;
pub mod ports;
pub mod process;
mod progress;
#[cfg(feature = "session")]
pub mod session;
mod tar;
mod version;

pub use attach::main_exit;
pub use check::{check_exec, check_path, exec_command};
pub use credentials::{Credential, LoginsOf, docker_config_dir, find_credential};
pub use deadline::within;
pub use error::{find_source, is_unclear};
pub use exec_start::killed_at_start;
pub use exits::{ExitHub, ExitSource, Sight, Wake, WakeStream};
pub use half_made::HalfMade;
pub use labels::{has_labels, is_old};
#[cfg(unix)]
pub use mounts::check_mount_kind;
pub use on_executor::OnExecutor;
pub use order::newest_first;
pub use progress::report_pending_start;
pub use tar::TarEnd;
pub use version::version_numbers;
