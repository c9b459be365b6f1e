//! Cases of the suite and the macro that lists them.

use std::pin::Pin;
use std::time::Duration;

use runtime_core::Capability;

use crate::{Context, Outcome};

/// Future of a running case. It stays on one thread.
pub type Body = Pin<Box<dyn Future<Output = Outcome>>>;

/// Function that creates the body of a case.
pub type CaseFn = fn(Context) -> Body;

/// Named requirement that every backend has to meet.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [Capability],
    pub(crate) limit: Duration,
    pub(crate) heavy: bool,
    pub(crate) exclusive: bool,
    pub(crate) kills_engine: bool,
    pub(crate) long: bool,
    pub(crate) body: CaseFn,
}

impl Case {
    /// Creates a case with a time limit of one minute.
    pub(crate) const fn new(
        name: &'static str,
        needs: &'static [Capability],
        body: CaseFn,
    ) -> Self {
        Self {
            name,
            needs,
            limit: Duration::from_secs(60),
            heavy: false,
            exclusive: false,
            kills_engine: false,
            long: false,
            body,
        }
    }

    /// Marks the case as heavy: it starts before the others and has ten minutes, because other engines may be
    /// under test at the same time.
    pub(crate) const fn heavy(mut self) -> Self {
        self.heavy = true;
        self.limit = Duration::from_secs(600);
        self
    }

    /// Marks the case as exclusive: no other case runs at the same time.
    pub(crate) const fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self.limit = Duration::from_secs(180);
        self
    }

    /// Marks the case as one that kills the engine; it runs alone.
    pub(crate) const fn kills_engine(mut self) -> Self {
        self.kills_engine = true;
        self.exclusive()
    }

    /// Marks the case as long: it runs on one engine of each backend only, unless every engine is tested in
    /// full. For expensive cases that test the backend rather than one version of an engine.
    pub(crate) const fn long(mut self) -> Self {
        self.long = true;
        self
    }

    /// Returns the name, `area::what`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the required capabilities.
    #[must_use]
    pub const fn needs(&self) -> &'static [Capability] {
        self.needs
    }
}

/// Creates the table of a file of cases: `area, name [Capability, ...] modifier, ...`.
macro_rules! cases {
    ($area:literal: $($name:ident [$($need:ident),*] $($modifier:ident)*;)*) => {
        pub(super) const CASES: &[crate::Case] = &[$(
            crate::Case::new(
                concat!($area, "::", stringify!($name)),
                &[$(runtime_core::Capability::$need),*],
                |t| Box::pin($name(t)),
            )$(.$modifier())*,
        )*];
    };
}

pub(crate) use cases;
