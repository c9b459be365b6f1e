//! A scheduler and a node that act at once, limited to the states that a pod goes through.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::store::{Key, is_gated, now};

/// Behavior of the one node of a fake cluster.
#[derive(Debug, Clone)]
pub struct FakeNode {
    schedules: bool,
    starts: bool,
    ends: bool,
    exit_code: i32,
}

impl Default for FakeNode {
    fn default() -> Self {
        Self { schedules: true, starts: true, ends: true, exit_code: 143 }
    }
}

impl FakeNode {
    /// Sets whether pods without a hold are bound to the node.
    #[must_use]
    pub fn schedules(self, schedules: bool) -> Self {
        Self { schedules, ..self }
    }

    /// Sets whether the node starts the processes of its pods, or pulls forever.
    #[must_use]
    pub fn starts(self, starts: bool) -> Self {
        Self { starts, ..self }
    }

    /// Sets whether processes exit on TERM, or run until they are killed, which the fake node never does.
    #[must_use]
    pub fn ends(self, ends: bool) -> Self {
        Self { ends, ..self }
    }

    /// Sets the exit code of processes that get TERM.
    #[must_use]
    pub fn exit_code(self, exit_code: i32) -> Self {
        Self { exit_code, ..self }
    }
}

/// Next change of a pod.
pub(super) enum Step {
    /// The pod is replaced by this object.
    Becomes(Box<Value>),
    /// The pod is removed.
    Goes,
}

impl FakeNode {
    /// Returns the next step of a pod, if there is one.
    pub(super) fn next(
        &self,
        pod: &Value,
        objects: &BTreeMap<Key, Value>,
        minor: u32,
    ) -> Option<Step> {
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        let is_final = ["Succeeded", "Failed"].contains(&phase);
        let state = &pod["status"]["containerStatuses"][0]["state"];
        let is_deleted = !pod["metadata"]["deletionTimestamp"].is_null();
        let mut next = pod.clone();
        if pod["spec"]["nodeName"].is_null() {
            if !self.schedules || is_final || is_deleted {
                return None;
            }
            if is_gated(pod) || pod["spec"]["schedulerName"] != "default-scheduler" {
                return None;
            }
            let waits = unsatisfied(pod, objects);
            let condition = match waits {
                true => json!({
                    "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                    "message": "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.",
                }),
                false => json!({"type": "PodScheduled", "status": "True"}),
            };
            let conditions = json!([condition]);
            if waits && next["status"]["conditions"] == conditions {
                return None;
            }
            next["status"]["conditions"] = conditions;
            if !waits {
                next["spec"]["nodeName"] = json!(super::NODE);
            }
            return Some(Step::Becomes(Box::new(next)));
        }
        let ours = pod["spec"]["containers"]
            .as_array()
            .and_then(|all| all.iter().find(|container| container["name"] == "main"));
        let image = ours.and_then(|ours| ours["image"].as_str()).unwrap_or_default();
        let runs = !state["running"].is_null();
        let ended = !state["terminated"].is_null();
        if is_deleted {
            if runs && self.ends {
                self.end(&mut next, None);
                return Some(Step::Becomes(Box::new(next)));
            }
            return (!runs).then_some(Step::Goes);
        }
        if ended || is_final {
            return None;
        }
        let deadline = !pod["spec"]["activeDeadlineSeconds"].is_null();
        if runs {
            if !self.ends {
                return None;
            }
            if image.starts_with('!') {
                self.end(&mut next, None);
            } else if deadline && minor >= 27 {
                self.end(&mut next, Some("DeadlineExceeded"));
            } else if deadline {
                // The exit code is lost permanently.
                next["status"]["phase"] = json!("Failed");
                next["status"]["reason"] = json!("DeadlineExceeded");
                next["status"]["containerStatuses"] = Value::Null;
            } else {
                return None;
            }
            return Some(Step::Becomes(Box::new(next)));
        }
        // The process has not run yet.
        let status = if deadline {
            // As recorded: the node reports an invented code.
            next["status"]["phase"] = json!("Failed");
            next["status"]["reason"] = json!("DeadlineExceeded");
            next["status"]["message"] =
                json!("Pod was active on the node longer than the specified deadline");
            json!({"terminated": {
                "exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": null,
                "finishedAt": null,
                "message": "The container could not be located when the pod was terminated",
            }})
        } else if image.starts_with('!') {
            let message = format!(
                "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": \
                 invalid reference format"
            );
            json!({"waiting": {"reason": "InvalidImageName", "message": message}})
        } else if self.starts {
            next["status"]["phase"] = json!("Running");
            json!({"running": {"startedAt": now()}})
        } else {
            json!({"waiting": {"reason": "ContainerCreating"}})
        };
        if *state == status {
            return None;
        }
        let id = "fake@sha256:0000000000000000000000000000000000000000000000000000000000000000";
        next["status"]["containerStatuses"] = json!([{
            "name": "main", "image": image, "imageID": id, "restartCount": 0, "state": status,
        }]);
        Some(Step::Becomes(Box::new(next)))
    }

    /// Ends the process of a pod.
    fn end(&self, pod: &mut Value, reason: Option<&str>) {
        let status = &mut pod["status"];
        let started = status["containerStatuses"][0]["state"]["running"]["startedAt"].clone();
        let is_failure = self.exit_code != 0 || reason.is_some();
        status["phase"] = json!(if is_failure { "Failed" } else { "Succeeded" });
        if let Some(reason) = reason {
            status["reason"] = json!(reason);
        }
        status["containerStatuses"][0]["state"] = json!({"terminated": {
            "exitCode": self.exit_code,
            "reason": if self.exit_code == 0 { "Completed" } else { "Error" },
            "startedAt": started, "finishedAt": now(),
        }});
    }
}

/// Returns `true` if a required pod affinity has no matching pod. A pod may match its own affinity.
fn unsatisfied(pod: &Value, objects: &BTreeMap<Key, Value>) -> bool {
    let terms =
        &pod["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    terms.as_array().is_some_and(|terms| {
        terms.iter().any(|term| {
            let wanted = term["labelSelector"]["matchLabels"].as_object();
            let matches = |other: &Value| {
                wanted.is_some_and(|wanted| {
                    wanted.iter().all(|(key, value)| other["metadata"]["labels"][key] == *value)
                })
            };
            let placed = objects.iter().any(|((plural, _, _), other)| {
                plural == "pods" && !other["spec"]["nodeName"].is_null() && matches(other)
            });
            !placed && !matches(pod)
        })
    })
}
