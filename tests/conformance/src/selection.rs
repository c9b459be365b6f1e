//! Cases that a run leaves out, and the reasons.

use glob::Pattern;
use runtime_core::Capability;

use crate::failure::fail;
use crate::{BoxError, Case, Failure};

/// Environment variable with the groups that a run leaves out, separated by commas: [`LONG`], [`UNFOCUSED`].
/// If unset, nothing is left out.
const LEAVE_OUT: &str = "RUNTIME_TEST_LEAVE_OUT";

/// Environment variable with the patterns of the only cases to run, separated by commas.
const CASES: &str = "RUNTIME_TEST_CASES";

/// Group of the cases that are marked as long.
const LONG: &str = "long";

/// Group of the cases outside of the [`Focus`] of the program.
const UNFOCUSED: &str = "unfocused";

/// Cases of a program that reaches an engine in another way than the program that runs all cases.
#[derive(Debug, Clone, Copy)]
pub struct Focus {
    /// Patterns of the cases in the focus.
    pub(crate) cases: &'static [&'static str],
    /// Capabilities: a case that needs one of them is in the focus as well.
    pub(crate) needs: &'static [Capability],
    /// Patterns of all cases that the program runs if nothing is left out. If empty, all cases.
    pub(crate) at_most: &'static [&'static str],
}

impl Focus {
    /// Every case.
    pub const ALL: Self = Self { cases: &["*"], needs: &[], at_most: &[] };

    /// Returns a focus on the cases whose names match one of the patterns, in the syntax of
    /// [`glob::Pattern`].
    #[must_use]
    pub const fn on(cases: &'static [&'static str]) -> Self {
        Self { cases, ..Self::ALL }
    }

    /// Adds the cases that need one of these capabilities.
    #[must_use]
    pub const fn and_needing(mut self, needs: &'static [Capability]) -> Self {
        self.needs = needs;
        self
    }

    /// Limits the cases that the program runs if nothing is left out.
    #[must_use]
    pub const fn at_most(mut self, cases: &'static [&'static str]) -> Self {
        self.at_most = cases;
        self
    }

    /// Returns `true` if the program offers the case at all.
    pub(crate) fn offers(&self, case: &Case) -> bool {
        self.at_most.is_empty() || matches_any(self.at_most, case.name) || self.includes(case)
    }

    fn includes(&self, case: &Case) -> bool {
        matches_any(self.cases, case.name)
            || case.needs.iter().any(|need| self.needs.contains(need))
    }
}

/// Cases that were requested by name, with `RUNTIME_TEST_CASES`.
#[derive(Debug, Clone, Default)]
pub struct Requested(Vec<Pattern>);

impl Requested {
    /// Reads the environment.
    ///
    /// # Errors
    /// If a pattern is invalid.
    pub fn from_env() -> Result<Self, BoxError> {
        Self::parse(&std::env::var(CASES).unwrap_or_default())
    }

    fn parse(patterns: &str) -> Result<Self, BoxError> {
        Ok(Self(words(patterns).map(Pattern::new).collect::<Result<_, _>>()?))
    }

    /// Returns `true` if the case with this name is to run. Other cases are not reported, as with a filter of
    /// the test harness.
    #[must_use]
    pub fn includes(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.matches(name))
    }
}

/// Groups of cases that this run leaves out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    long: bool,
    unfocused: bool,
}

impl Selection {
    /// Reads the environment.
    pub(crate) fn from_env() -> Result<Self, Failure> {
        Self::parse(&std::env::var(LEAVE_OUT).unwrap_or_default())
    }

    fn parse(leave_out: &str) -> Result<Self, Failure> {
        let mut selection = Self::default();
        for word in words(leave_out) {
            match word {
                LONG => selection.long = true,
                UNFOCUSED => selection.unfocused = true,
                unknown => fail!("{LEAVE_OUT} has the unknown word {unknown:?}"),
            }
        }
        Ok(selection)
    }

    /// Returns the reason if the run leaves the case out.
    pub(crate) fn leaves_out(&self, case: &Case, focus: &Focus) -> Option<&'static str> {
        if self.unfocused && !focus.includes(case) {
            return Some("goes the same way in another row");
        }
        (self.long && case.long).then_some("long: runs in another row of the backend")
    }
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn matches_any(patterns: &[&str], name: &str) -> bool {
    patterns.iter().any(|pattern| Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Case = Case::new("stop::twice", &[], |_| Box::pin(async { Ok(()) }));
    const LONG_CASE: Case =
        Case::new("list::five_hundred", &[], |_| Box::pin(async { Ok(()) })).long();
    const KILLS: Case =
        Case::new("wait::killed", &[Capability::Kill], |_| Box::pin(async { Ok(()) }));

    #[test]
    fn nothing_is_left_out_without_the_variables() {
        let (all, every) = (Selection::parse("").unwrap(), Requested::parse("").unwrap());
        let focus = Focus::on(&["stop::*"]);
        for case in [SHORT, LONG_CASE, KILLS] {
            assert!(every.includes(case.name));
            assert_eq!(all.leaves_out(&case, &focus), None);
        }
    }

    #[test]
    fn each_word_leaves_out_its_own_cases() {
        let focus = Focus::on(&["stop::*", "list::*"]).and_needing(&[Capability::Kill]);
        let long = Selection::parse("long").unwrap();
        assert_eq!(long.leaves_out(&SHORT, &Focus::on(&[])), None);
        assert!(long.leaves_out(&LONG_CASE, &focus).is_some());
        let unfocused = Selection::parse("unfocused").unwrap();
        assert_eq!(unfocused.leaves_out(&LONG_CASE, &focus), None);
        assert_eq!(unfocused.leaves_out(&KILLS, &focus), None);
        assert!(unfocused.leaves_out(&KILLS, &Focus::on(&["stop::*"])).is_some());
    }

    #[test]
    fn unknown_word_and_bad_pattern_are_refused() {
        assert!(Selection::parse("long, shrot").is_err());
        assert!(Requested::parse("stop::[").is_err());
    }

    #[test]
    fn only_the_requested_cases_are_wanted() {
        let some = Requested::parse("stop::*,wait::killed").unwrap();
        let names = [SHORT, KILLS, LONG_CASE].map(|case| some.includes(case.name));
        assert_eq!(names, [true, true, false]);
        let part = Requested::parse("twice").unwrap();
        assert!(!part.includes(SHORT.name), "a pattern is for the whole name");
    }

    #[test]
    fn bounds_do_not_take_from_the_focus() {
        let focus = Focus::on(&["stop::*"]).at_most(&["list::*"]);
        assert!(focus.offers(&SHORT) && focus.offers(&LONG_CASE) && !focus.offers(&KILLS));
        assert!(Focus::ALL.offers(&KILLS));
    }
}
