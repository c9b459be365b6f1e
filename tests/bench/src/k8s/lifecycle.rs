//! Lifecycle of a container that exits immediately.

use anyhow::{Context, Result, ensure};

use super::bare::{BARE_SCOPE, Bare, Template, until_ended};
use super::engine::{Engine, NodeKind};
use crate::common::{ONE_LINE, live};
use crate::measure::median;
use crate::pairs::Pairs;

pub(super) async fn compare(engine: &Engine, pairs: usize) -> Result<()> {
    let template = Template::take(engine, NodeKind::Real, ONE_LINE).await?;
    let (ours, bare) = (engine.ours(NodeKind::Real).await?, engine.bare().await?);
    // One watch for all pods, like in the library.
    let mut watch = bare.watch(BARE_SCOPE).await?;
    // The first containers include one-time setup.
    live(&ours, &engine.spec(ONE_LINE)).await?;
    bare_once(&bare, &mut watch, &template, "first").await?;
    bare.take_requests();
    let (mut our_requests, mut bare_requests) = (Vec::new(), Vec::new());
    let pairs = Pairs::run(
        pairs,
        async |_| {
            let sent = ours.requests_sent();
            live(&ours, &engine.spec(ONE_LINE)).await?;
            our_requests.push((ours.requests_sent() - sent) as f64);
            Ok(())
        },
        async |pair| {
            bare_once(&bare, &mut watch, &template, &pair.to_string()).await?;
            bare_requests.push(bare.take_requests() as f64);
            Ok(())
        },
    )
    .await?;
    let requests = |requests: &[f64]| format!("{:.0}", median(requests));
    pairs.print(
        "requests, median",
        requests(&our_requests),
        ("bare kube", requests(&bare_requests)),
    );
    Ok(())
}

/// Runs the same pod with the library's requests.
async fn bare_once(
    bare: &Bare,
    watch: &mut (
             impl futures_util::Stream<Item = Result<kube::api::WatchEvent<serde_json::Value>>> + Unpin
         ),
    template: &Template,
    number: &str,
) -> Result<()> {
    let name = format!("bare-{}-{number}", std::process::id());
    let pod = bare.create(&template.pod(&name)?).await?;
    let uid = pod.metadata.uid.unwrap_or_default();
    bare.start(&name, &uid, template).await.context("start")?;
    let code = until_ended(watch, &uid).await?;
    let log = bare.log(&name).await.context("log")?;
    // The server does not wait for the node if the pod has ended.
    bare.delete(&name, &uid, 1).await?;
    ensure!(code == 0 && log.lines().count() == 1, "exit code {code}, and {log:?}");
    Ok(())
}
