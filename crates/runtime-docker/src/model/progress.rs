//! The progress of a pull, from the lines of the engine's answer.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use runtime_core::PullEvent;
use serde::Deserialize;

/// A line of the answer.
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

/// The longest line that is believed. The engines' are a few hundred bytes.
const LONGEST_LINE: usize = 1 << 20;

/// Lines of bytes that come in any pieces.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: BytesMut,
    /// How far it was searched for a line end.
    searched: usize,
}

impl Lines {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line, without its end. Podman ends some with `\r\n`.
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

    /// What is left when no more comes.
    pub(crate) fn rest(&mut self) -> Bytes {
        self.searched = 0;
        self.buffer.split().freeze()
    }

    pub(crate) fn is_too_long(&self) -> bool {
        self.buffer.len() > LONGEST_LINE
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
    /// Takes a line of the answer.
    ///
    /// # Errors
    /// The engine's words when the line says that the pull failed, or that it makes no sense.
    pub(crate) fn take(&mut self, line: &[u8]) -> Result<Vec<PullEvent>, String> {
        if line.is_empty() {
            return Ok(Vec::new());
        }
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            return Err(format!(
                "the engine's answer makes no sense: {:?}",
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
            // A download that is tried again begins at 0: the bar waits for it.
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
            // Only the bytes that come are counted: extracting them is a second way through.
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

    /// The layers that nobody said were done. Podman never says it.
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
    fn the_bytes_of_a_layer_only_grow_and_end_at_the_total() {
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
    fn podman_never_says_that_a_layer_is_done() {
        let events = take_all(&[
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"l"}"#,
            r#"{"status":"Download complete","progressDetail":{},"id":"l"}"#,
            r#"{"status":"Download complete","progressDetail":{},"id":"l"}"#,
        ]);
        assert_eq!(events, [PullEvent::LayerDone { id: "l".into() }]);
    }

    #[test]
    fn a_failure_in_the_middle_is_one() {
        let mut progress = Progress::default();
        let said = progress.take(br#"{"errorDetail":{"message":"x"},"error":"x"}"#);
        assert_eq!(said, Err("x".to_owned()));
        assert!(progress.take(b"<html>").is_err());
    }

    proptest::proptest! {
        #[test]
        fn lines_are_the_same_in_whatever_pieces(
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
        fn no_line_makes_it_panic(line in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Progress::default().take(&line);
        }
    }
}
