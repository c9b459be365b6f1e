//! A case.

use std::pin::Pin;
use std::time::Duration;

use runtime_core::Capability;

use crate::{Context, Outcome};

/// The body of a case while it runs. It stays on one thread.
pub type Body = Pin<Box<dyn Future<Output = Outcome>>>;

/// Makes the body of a case.
pub type CaseFn = fn(Context) -> Body;

/// One thing that every backend has to keep.
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
    /// A case that may take a minute.
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

    /// It takes long: it begins before the others and may take ten minutes, beside other engines.
    pub(crate) const fn heavy(mut self) -> Self {
        self.heavy = true;
        self.limit = Duration::from_secs(600);
        self
    }

    /// Nothing else may run beside it.
    pub(crate) const fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self.limit = Duration::from_secs(180);
        self
    }

    /// It kills the engine, and runs alone.
    pub(crate) const fn kills_engine(mut self) -> Self {
        self.kills_engine = true;
        self.exclusive()
    }

    /// Runs on one engine of each backend only, unless every engine is tested in full: the case is
    /// expensive, and shows a promise of the backend rather than of one version of an engine.
    pub(crate) const fn long(mut self) -> Self {
        self.long = true;
        self
    }

    /// Its name, `area::what`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The capabilities that it needs.
    #[must_use]
    pub const fn needs(&self) -> &'static [Capability] {
        self.needs
    }
}

/// Makes the table of a file of cases: `area, name [Capability, ...] modifier, ...`.
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
