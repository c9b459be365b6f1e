//! `pull`, and the progress of a pull.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use futures_util::StreamExt;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use runtime_core::{Image, PullEvent, PullOptions, PullPolicy, PullSummary, Runtime};

use crate::cli::Pull;
use crate::exit_code::killed_by;
use crate::signals::Signals;

/// `runtime pull`.
pub(crate) async fn pull(runtime: Arc<dyn Runtime>, arguments: Pull) -> Result<u8> {
    let policy = arguments.policy.parse()?;
    let image = Image::new(&arguments.image);
    let mut signals = Signals::listen()?;
    let work = async {
        if arguments.quiet {
            drain(&*runtime, &image, policy, |_| {}).await
        } else {
            show(&*runtime, &image, policy).await
        }
    };
    let summary = tokio::select! {
        summary = work => summary?,
        // Dropping the future cancels the pull.
        signal = signals.end() => return Ok(killed_by(signal.number())),
    };
    crate::format::print(&format!("{}\n", summary.resolved.unwrap_or(summary.requested)))?;
    Ok(0)
}

/// Pulls an image, with progress bars if stderr is a terminal.
pub(crate) async fn show(
    runtime: &dyn Runtime,
    image: &Image,
    policy: PullPolicy,
) -> Result<PullSummary> {
    let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
    let unknown = ProgressStyle::with_template("{prefix} {spinner} {bytes}")?;
    let known = ProgressStyle::with_template(
        "{prefix} [{bar:30}] {bytes:>10} of {total_bytes:<10} {bytes_per_sec}",
    )?
    .progress_chars("=> ");
    let status = all.add(ProgressBar::new_spinner());
    status.set_message(format!("pulling {}", image.reference));
    status.enable_steady_tick(Duration::from_millis(200));
    let mut bars: HashMap<String, ProgressBar> = HashMap::new();
    let pulled = drain(runtime, image, policy, |event| match event {
        PullEvent::Layer { id, current, total } => {
            let bar = bars.entry(id.clone()).or_insert_with(|| {
                let bar = all.add(ProgressBar::no_length().with_style(unknown.clone()));
                let short = id.strip_prefix("sha256:").unwrap_or(&id);
                bar.set_prefix(short.chars().take(12).collect::<String>());
                bar
            });
            if let Some(total) = total
                && bar.length() != Some(total)
            {
                bar.set_style(known.clone());
                bar.set_length(total);
            }
            bar.set_position(current);
        }
        PullEvent::LayerDone { id } => {
            if let Some(bar) = bars.get(&id) {
                bar.finish();
            }
        }
        PullEvent::Message { text } => status.set_message(text),
        _ => {}
    })
    .await;
    status.finish_and_clear();
    if pulled.is_err() {
        let _ = all.clear();
    }
    pulled
}

async fn drain(
    runtime: &dyn Runtime,
    image: &Image,
    policy: PullPolicy,
    mut take: impl FnMut(PullEvent),
) -> Result<PullSummary> {
    let mut events = runtime.pull_image(image, PullOptions::default().policy(policy)).await?;
    while let Some(event) = events.next().await {
        match event? {
            PullEvent::Done(summary) => return Ok(summary),
            event => take(event),
        }
    }
    bail!("the pull ended without a result")
}
