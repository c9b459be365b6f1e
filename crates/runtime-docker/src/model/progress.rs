//! The progress of a pull, from the lines of the engine's response.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use runtime_core::PullEvent;
use serde::Deserialize;

/// A line of the response.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Line {
    id: Option<String>,
    status: Option<String>,
    error: Option<String>,
    progress_detail: Detail,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Detail {
    current: Option<i64>,
    total: Option<i64>,
}

/// The length limit of a line. The engines' have a few hundred bytes.
const LINE_LENGTH_MAX: usize = 1 << 20;

/// Splits a stream of bytes into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: BytesMut,
    /// The length of the buffer's start without a line end.
    searched: usize,
}

impl Lines {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next whole line without its end. Podman ends some lines with `\r\n`.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let at = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n');
        let Some(at) = at else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + at + 1).freeze();
        self.searched = 0;
        Some(line.slice(..line.trim_ascii_end().len()))
    }

    /// Returns the rest after the end of the stream.
    pub(crate) fn rest(&mut self) -> Bytes {
        self.searched = 0;
        self.buffer.split().freeze()
    }

    pub(crate) fn is_too_long(&self) -> bool {
        self.buffer.len() > LINE_LENGTH_MAX
    }
}

/// The progress of the layers.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    layers: BTreeMap<String, Layer>,
}

#[derive(Debug, Default)]
struct Layer {
    current: u64,
    total: Option<u64>,
    done: bool,
}

impl Progress {
    /// Parses a line of the response.
    ///
    /// # Errors
    /// The engine's message if the pull failed, or a message that the line is invalid.
    pub(crate) fn take(&mut self, line: &[u8]) -> Result<Vec<PullEvent>, String> {
        if line.is_empty() {
            return Ok(Vec::new());
        }
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            return Err(format!(
                "failed to parse the engine's response: {:?}",
                String::from_utf8_lossy(&line[..line.len().min(200)])
            ));
        };
        if let Some(error) = line.error {
            return Err(error);
        }
        let Some(status) = line.status else { return Ok(Vec::new()) };
        let Some(id) = line.id else { return Ok(vec![PullEvent::Message { text: status }]) };
        let count = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
        let (current, total) =
            (count(line.progress_detail.current), count(line.progress_detail.total));
        let moved = |layer: &mut Layer, current: u64, total: Option<u64>| {
            layer.total = total.filter(|total| *total > 0).or(layer.total);
            // A retried download begins at 0. The progress does not go back.
            let current = current.min(layer.total.unwrap_or(u64::MAX));
            let news = current > layer.current;
            layer.current = layer.current.max(current);
            news
        };
        let mut events = Vec::new();
        match status.as_str() {
            "Pulling fs layer" | "Waiting" | "Verifying Checksum" => {
                self.layers.entry(id).or_default();
            }
            "Downloading" => {
                let layer = self.layers.entry(id.clone()).or_default();
                if let Some(current) = current
                    && moved(layer, current, total)
                {
                    events.push(PullEvent::Layer {
                        id,
                        current: layer.current,
                        total: layer.total,
                    });
                }
            }
            // Only downloaded bytes are counted, and not the extraction of the same bytes.
            "Extracting" | "Download complete" => {
                let layer = self.layers.entry(id.clone()).or_default();
                let whole = total.or(layer.total).unwrap_or(0);
                if moved(layer, whole, total) {
                    events.push(PullEvent::Layer {
                        id,
                        current: layer.current,
                        total: layer.total,
                    });
                }
            }
            "Pull complete" | "Already exists" => {
                let layer = self.layers.entry(id.clone()).or_default();
                if !std::mem::replace(&mut layer.done, true) {
                    events.push(PullEvent::LayerDone { id });
                }
            }
            _ => events.push(PullEvent::Message { text: format!("{id}: {status}") }),
        }
        Ok(events)
    }

    /// Returns `LayerDone` for the layers without that status. Podman never sends it.
    pub(crate) fn finish(self) -> impl Iterator<Item = PullEvent> {
        self.layers
            .into_iter()
            .filter(|(_, layer)| !layer.done)
            .map(|(id, _)| PullEvent::LayerDone { id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(lines: &[&str]) -> Vec<PullEvent> {
        let mut progress = Progress::default();
        let mut events: Vec<_> =
            lines.iter().flat_map(|line| progress.take(line.as_bytes()).unwrap()).collect();
        events.extend(progress.finish());
        events
    }

    #[test]
    fn layer_progress_grows_to_total() {
        let events = take_all(&[
            r#"{"status":"Pulling from a","id":"1"}"#,
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"l"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":5,"total":9},"id":"l"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":2,"total":9},"id":"l"}"#,
            r#"{"status":"Download complete","progressDetail":{},"id":"l"}"#,
            r#"{"status":"Extracting","progressDetail":{"current":1,"total":9},"id":"l"}"#,
            r#"{"status":"Pull complete","progressDetail":{},"id":"l"}"#,
            r#"{"status":"Digest: sha256:0"}"#,
        ]);
        let layer = |current| PullEvent::Layer { id: "l".into(), current, total: Some(9) };
        assert_eq!(
            events,
            [
                PullEvent::Message { text: "1: Pulling from a".into() },
                layer(5),
                layer(9),
                PullEvent::LayerDone { id: "l".into() },
                PullEvent::Message { text: "Digest: sha256:0".into() },
            ]
        );
    }

    #[test]
    fn layers_without_status_are_done_at_end() {
        let events = take_all(&[
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"l"}"#,
            r#"{"status":"Download complete","progressDetail":{},"id":"l"}"#,
            r#"{"status":"Download complete","progressDetail":{},"id":"l"}"#,
        ]);
        assert_eq!(events, [PullEvent::LayerDone { id: "l".into() }]);
    }

    #[test]
    fn error_line_returns_error() {
        let mut progress = Progress::default();
        let failed = progress.take(br#"{"errorDetail":{"message":"x"},"error":"x"}"#);
        assert_eq!(failed, Err("x".to_owned()));
        assert!(progress.take(b"<html>").is_err());
    }

    proptest::proptest! {
        #[test]
        fn lines_in_any_pieces_are_same(
            text in "[ab\r\n]{0,60}", cuts in proptest::collection::vec(0_usize..60, 0..8)
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            cuts.push(text.len());
            let mut lines = Lines::default();
            let (mut got, mut from) = (Vec::new(), 0);
            for cut in cuts {
                lines.push(&text.as_bytes()[from..cut]);
                got.extend(std::iter::from_fn(|| lines.next()));
                from = cut;
            }
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let expected: Vec<_> = if text.contains('\n') {
                whole.split('\n').map(|line| line.trim_ascii_end().as_bytes().to_vec()).collect()
            } else {
                Vec::new()
            };
            proptest::prop_assert_eq!(got.iter().map(|l| l.to_vec()).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn any_line_does_not_panic(line in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Progress::default().take(&line);
        }
    }
}
