//! What can have been lost of a log that the node has rotated.

use std::time::{Duration, SystemTime};

use runtime_core::{Error, ErrorKind};
use tokio::time::Instant;

/// The kubelet looks every 10 s at what is to be rotated, so a file lives at least that long.
const FILE_LIFE: Duration = Duration::from_secs(10);

/// What has been read over all opens.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Progress {
    pub(super) newest: Option<SystemTime>,
    /// When something last came, or was known to have come.
    pub(super) at: Option<Instant>,
    /// Whether the file that was open is known to have been read to its end.
    pub(super) drained: bool,
    /// The time of the last line when a log without follow was found to be cut off.
    pub(super) target: Option<SystemTime>,
}

impl Progress {
    /// What can have been lost between this and a log that was `opened` then and begins with a chunk
    /// of the time `first`, or has none.
    ///
    /// If what was read before is not there any more, the log was rotated in between. If that can
    /// have been twice, what stood in the file between is gone; and of the file before only who has
    /// read it to its end has everything.
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

    /// Whether nothing can have been lost before a log that was `opened` then, wherever it begins.
    pub(super) fn is_whole(&self, opened: Instant) -> bool {
        self.newest.is_none() || (self.drained && self.is_within(opened))
    }

    /// Whether the log can have been rotated only once since.
    fn is_within(&self, opened: Instant) -> bool {
        self.at.is_none_or(|at| opened.saturating_duration_since(at) < FILE_LIFE)
    }
}

/// What a rotation can have taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap {
    /// A whole file: the log was not seen for longer than a file lives.
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
    async fn what_was_read_before_has_to_be_there_or_to_have_ended() {
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let read = Instant::now();
        let at_end =
            Progress { newest: Some(time(5)), at: Some(read), drained: true, target: None };
        let cut_off = Progress { drained: false, ..at_end };
        let (soon, late) = (read + Duration::from_secs(9), read + Duration::from_secs(10));
        for (before, opened, first, gap) in [
            // The same file.
            (cut_off, late, Some(4), None),
            (cut_off, late, Some(5), None),
            // The next file, and all of the one before was read.
            (at_end, soon, Some(6), None),
            // Who was cut off may not have had the end of it.
            (cut_off, soon, Some(6), Some(Gap::End)),
            // There may have been another between.
            (at_end, late, Some(6), Some(Gap::File)),
            // A file that is empty still.
            (at_end, soon, None, None),
            (cut_off, soon, None, None),
            (at_end, late, None, Some(Gap::File)),
            // Nothing was read before.
            (Progress::default(), late, Some(6), None),
            (Progress::default(), late, None, None),
        ] {
            let first = first.map(time);
            assert_eq!(before.gap(first, opened), gap, "{before:?} {first:?}");
        }
        assert!(at_end.is_whole(soon) && !at_end.is_whole(late) && !cut_off.is_whole(soon));
    }
}
