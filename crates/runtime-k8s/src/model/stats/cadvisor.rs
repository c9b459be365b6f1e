//! Parses cAdvisor's metrics in the text format of Prometheus.

use std::collections::HashMap;

use super::NodeCapacity;
use crate::model::labels::CONTAINER;

/// Bytes that a container has read from and written to block devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) read: u64,
    pub(crate) written: u64,
}

const READS: &str = "container_fs_reads_bytes_total";
const WRITES: &str = "container_fs_writes_bytes_total";

/// Parses `/metrics/cadvisor`. Returns the capacity of the node, and the block IO of the pods of a
/// namespace by their names, all devices together.
///
/// A page grows with the number of pods, so other lines are skipped early.
pub(crate) fn read(text: &[u8], namespace: &str) -> (NodeCapacity, HashMap<String, Block>) {
    let text = String::from_utf8_lossy(text);
    let mut machine = NodeCapacity::default();
    let mut blocks: HashMap<String, Block> = HashMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("machine_cpu_cores") {
            machine.cores = value(rest);
        } else if let Some(rest) = line.strip_prefix("machine_memory_bytes") {
            machine.memory = value(rest).and_then(crate::quantity::whole);
        } else if let Some(rest) = line.strip_prefix(READS) {
            if let Some((block, bytes)) = of_pod(rest, namespace, &mut blocks) {
                block.read += bytes;
            }
        } else if let Some(rest) = line.strip_prefix(WRITES)
            && let Some((block, bytes)) = of_pod(rest, namespace, &mut blocks)
        {
            block.written += bytes;
        }
    }
    (machine, blocks)
}

fn of_pod<'a>(
    rest: &str,
    namespace: &str,
    blocks: &'a mut HashMap<String, Block>,
) -> Option<(&'a mut Block, u64)> {
    if label(rest, "container") != Some(CONTAINER) || label(rest, "namespace") != Some(namespace) {
        return None;
    }
    let bytes = value(rest).and_then(crate::quantity::whole)?;
    Some((blocks.entry(label(rest, "pod")?.to_owned()).or_default(), bytes))
}

/// Returns the value after the labels. A time may follow it.
fn value(rest: &str) -> Option<f64> {
    let after = match rest.strip_prefix('{') {
        Some(labels) => labels.rsplit_once('}')?.1,
        None => rest,
    };
    after.split_ascii_whitespace().next()?.parse().ok()
}

/// Returns the value of a label. The values in use have no escaped characters.
fn label<'a>(rest: &'a str, name: &str) -> Option<&'a str> {
    let labels = rest.strip_prefix('{')?;
    let mut from = 0;
    while let Some(at) = labels[from..].find(name) {
        let at = from + at;
        let begins = at == 0 || labels.as_bytes()[at - 1] == b',';
        if begins && let Some(value) = labels[at + name.len()..].strip_prefix("=\"") {
            return value.split_once('"').map(|(value, _)| value);
        }
        from = at + name.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cadvisor_metrics_are_parsed() {
        let page = "# TYPE container_fs_reads_bytes_total counter\n\
            container_fs_reads_bytes_total{container=\"main\",device=\"/dev/vda\",id=\"/x\",image=\"i\",name=\"n\",namespace=\"ns\",pod=\"p\"} 4096 1606150000000\n\
            container_fs_reads_bytes_total{container=\"main\",device=\"/dev/vdb\",id=\"/x\",image=\"i\",name=\"n\",namespace=\"ns\",pod=\"p\"} 1e3 1606150000000\n\
            container_fs_reads_bytes_total{container=\"\",device=\"/dev/vda\",id=\"/pod\",image=\"\",name=\"\",namespace=\"ns\",pod=\"p\"} 0\n\
            container_fs_writes_bytes_total{container=\"main\",device=\"/dev/vda\",id=\"/x\",image=\"i\",name=\"n\",namespace=\"ns\",pod=\"p\"} 7\n\
            container_fs_writes_bytes_total{container=\"main\",device=\"/dev/vda\",id=\"/y\",image=\"i\",name=\"n\",namespace=\"other\",pod=\"p\"} 9\n\
            machine_cpu_cores{boot_id=\"b\",machine_id=\"m\"} 2\n\
            machine_memory_bytes 2.5e+10\n";
        let (machine, blocks) = read(page.as_bytes(), "ns");
        assert_eq!(machine, NodeCapacity { cores: Some(2.0), memory: Some(25_000_000_000) });
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks["p"], Block { read: 5096, written: 7 });
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(text in "(container_fs_reads_bytes_total|machine_cpu_cores|x)[{}=\",a-z 0-9\n]{0,80}") {
            let _ = read(text.as_bytes(), "ns");
        }
    }
}
