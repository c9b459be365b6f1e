//! Detection of lines that a rotation of the log may have removed.

use std::time::{Duration, SystemTime};

use runtime_core::{Error, ErrorKind};
use tokio::time::Instant;

/// Minimum interval between two rotations: the kubelet checks the size of logs every 10 s.
const ROTATION_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// Progress over all opens of a log.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct ReadProgress {
    pub(super) newest: Option<SystemTime>,
    /// The time at which the progress was last known to be complete.
    pub(super) at: Option<Instant>,
    /// Whether the open file was read to its end.
    pub(super) drained: bool,
    /// The time of the last line of a log that was cut off and is not followed.
    pub(super) target: Option<SystemTime>,
}

impl ReadProgress {
    /// Returns the loss between this progress and a log that was `opened` later and whose first
    /// chunk has the time `first`.
    ///
    /// If the log begins after the progress, it was rotated in between. If it may have been rotated
    /// twice, a whole file may be missing. Otherwise the end of the previous file is missing,
    /// unless that was read to its end.
    pub(super) fn gap(&self, first: Option<SystemTime>, opened: Instant) -> Option<Gap> {
        let newest = self.newest?;
        if first.is_some_and(|first| first <= newest) {
            return None;
        }
        if !self.is_within(opened) {
            return Some(Gap::File);
        }
        (first.is_some() && !self.drained).then_some(Gap::End)
    }

    /// Returns whether nothing was lost before a log that was `opened` then, independently of its
    /// first chunk.
    pub(super) fn is_whole(&self, opened: Instant) -> bool {
        self.newest.is_none() || (self.drained && self.is_within(opened))
    }

    /// Returns whether the log was rotated at most once since.
    fn is_within(&self, opened: Instant) -> bool {
        self.at.is_none_or(|at| opened.saturating_duration_since(at) < ROTATION_INTERVAL_MIN)
    }
}

/// Part of a log that a rotation may have removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap {
    /// A whole file: the log was not read for longer than the interval of rotations.
    File,
    /// The end of the file that was read.
    End,
}

impl Gap {
    pub(super) fn error(self) -> Error {
        Error::new(ErrorKind::Lost).with_message(match self {
            Self::File => {
                "the log could not be read for so long that the node may have rotated it twice, and \
                 a part of it may be lost"
            }
            Self::End => {
                "the node has rotated the log while it could not be read, and a part of it may be \
                 lost"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gap_is_detected_after_rotation() {
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let read = Instant::now();
        let at_end =
            ReadProgress { newest: Some(time(5)), at: Some(read), drained: true, target: None };
        let cut_off = ReadProgress { drained: false, ..at_end };
        let (soon, late) = (read + Duration::from_secs(9), read + Duration::from_secs(10));
        for (before, opened, first, gap) in [
            // The same file.
            (cut_off, late, Some(4), None),
            (cut_off, late, Some(5), None),
            // The next file, after the previous one was read to its end.
            (at_end, soon, Some(6), None),
            // After a cut the end of the file may be missing.
            (cut_off, soon, Some(6), Some(Gap::End)),
            // Another file may be missing in between.
            (at_end, late, Some(6), Some(Gap::File)),
            // The new file is still empty.
            (at_end, soon, None, None),
            (cut_off, soon, None, None),
            (at_end, late, None, Some(Gap::File)),
            // Nothing was read before.
            (ReadProgress::default(), late, Some(6), None),
            (ReadProgress::default(), late, None, None),
        ] {
            let first = first.map(time);
            assert_eq!(before.gap(first, opened), gap, "{before:?} {first:?}");
        }
        assert!(at_end.is_whole(soon) && !at_end.is_whole(late) && !cut_off.is_whole(soon));
    }
}
