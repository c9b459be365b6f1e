//! Concurrent steps.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Runs all steps, `lanes` at a time. A free lane starts the first step that conflicts with no
/// running step. The results are in the order of the steps.
pub fn run<S: Sync, T: Send>(
    steps: &[S],
    lanes: usize,
    conflicts: impl Fn(&S, &S) -> bool + Sync,
    work: impl Fn(&S) -> T + Sync,
) -> Vec<T> {
    let board = Board {
        steps: Mutex::new(Steps { waiting: (0..steps.len()).collect(), running: Vec::new() }),
        changed: Condvar::new(),
    };
    let results = Mutex::new(Vec::new());
    let may_run = |at: usize, running: &[usize]| {
        !running.iter().any(|other| conflicts(&steps[at], &steps[*other]))
    };
    std::thread::scope(|scope| {
        for _ in 0..lanes.max(1) {
            scope.spawn(|| {
                while let Some(running) = board.take(may_run) {
                    let result = work(&steps[running.at]);
                    lock(&results).push((running.at, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Indices of waiting and running steps.
struct Steps {
    waiting: Vec<usize>,
    running: Vec<usize>,
}

struct Board {
    steps: Mutex<Steps>,
    changed: Condvar,
}

impl Board {
    /// Waits for a step that may run. Returns `None` when all have started.
    fn take(&self, may_run: impl Fn(usize, &[usize]) -> bool) -> Option<Running<'_>> {
        let mut steps = lock(&self.steps);
        loop {
            if steps.waiting.is_empty() {
                return None;
            }
            let free = steps.waiting.iter().position(|at| may_run(*at, &steps.running));
            if let Some(place) = free {
                let at = steps.waiting.remove(place);
                steps.running.push(at);
                return Some(Running { board: self, at });
            }
            steps = self.changed.wait(steps).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A running step. Dropping it ends the step, also on a panic, because other lanes may wait for it.
struct Running<'a> {
    board: &'a Board,
    at: usize,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.board.steps).running.retain(|at| *at != self.at);
        self.board.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn steps_run_concurrently_and_results_keep_order() {
        let both = Barrier::new(2);
        let results = run(
            &[1, 2],
            2,
            |_, _| false,
            |step| {
                both.wait();
                step * 10
            },
        );
        assert_eq!(results, [10, 20]);
    }

    #[test]
    fn conflicting_steps_never_overlap() {
        let running = Mutex::new(Vec::new());
        let conflict = |a: &i32, b: &i32| a % 2 == b % 2;
        let results = run(&[1, 3, 5, 2, 4], 3, conflict, |step| {
            let mut now = lock(&running);
            assert!(!now.iter().any(|other| conflict(step, other)), "{step} beside {now:?}");
            now.push(*step);
            drop(now);
            std::thread::yield_now();
            lock(&running).retain(|other| other != step);
            *step
        });
        assert_eq!(results, [1, 3, 5, 2, 4]);
    }

    #[test]
    fn one_lane_runs_steps_in_order() {
        let order = Mutex::new(Vec::new());
        run(&[3, 1, 2], 1, |_, _| true, |step| lock(&order).push(*step));
        assert_eq!(*lock(&order), [3, 1, 2]);
    }
}
