//! Objects of the fake server, and their changes in order.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::hooks::Refusal;
use super::node::FakeNode;
use super::patch;

/// Key of an object: its plural kind, its namespace (empty if it has none), its name.
pub(super) type Key = (String, String, String);

/// Change of an object.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) plural: String,
    pub(super) namespace: String,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(super) kind: &'static str,
    pub(super) object: Value,
}

/// All objects, and the changes that the server applies to new ones.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) minor: u32,
    pub(super) version: u64,
    pub(super) objects: BTreeMap<Key, Value>,
    pub(super) changes: Vec<Change>,
    /// Changes up to this version are no longer available.
    pub(super) forgotten: u64,
    /// Fields that the server removes from new pods, as JSON pointers.
    pub(super) dropped_fields: Vec<String>,
    pub(super) node: Option<FakeNode>,
    /// Log lines by the pod's name: time and content.
    pub(super) logs: HashMap<String, Vec<(String, Vec<u8>)>>,
    /// Increases with each change.
    pub(super) changed: watch::Sender<u64>,
    /// Increases when all watches get a bookmark.
    pub(super) bookmarks: watch::Sender<u64>,
}

impl Store {
    pub(super) fn new(minor: u32) -> Self {
        let mut store = Self {
            minor,
            version: 1000,
            objects: BTreeMap::new(),
            changes: Vec::new(),
            forgotten: 0,
            dropped_fields: Vec::new(),
            node: None,
            logs: HashMap::new(),
            changed: watch::Sender::new(1000),
            bookmarks: watch::Sender::new(0),
        };
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": super::NODE},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        store.put("nodes", "", node);
        store
    }

    /// Stores an object unchanged, with a new version. Creates or replaces the object.
    pub(super) fn put(&mut self, plural: &str, namespace: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let name = text(&object, "/metadata/name");
        let key = (plural.to_owned(), namespace.to_owned(), name);
        let old = self.objects.insert(key, object.clone());
        self.note(plural, namespace, if old.is_some() { "MODIFIED" } else { "ADDED" }, &object);
        object
    }

    fn note(&mut self, plural: &str, namespace: &str, kind: &'static str, object: &Value) {
        self.changes.push(Change {
            version: self.version,
            plural: plural.to_owned(),
            namespace: namespace.to_owned(),
            kind,
            object: object.clone(),
        });
        self.changed.send_replace(self.version);
    }

    pub(super) fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(plural.to_owned(), namespace.to_owned(), name.to_owned()))
    }

    /// Creates an object on a client's request.
    pub(super) fn create(
        &mut self,
        plural: &str,
        namespace: &str,
        mut object: Value,
        dry: bool,
    ) -> Result<Value, Refusal> {
        let mut name = text(&object, "/metadata/name");
        if name.is_empty() {
            name = format!("{}{}", text(&object, "/metadata/generateName"), self.version);
            object["metadata"]["name"] = json!(name);
        }
        if self.get(plural, namespace, &name).is_some() {
            let message = format!("{plural} \"{name}\" already exists");
            return Err(Refusal::new(409, "AlreadyExists", message)
                .details(json!({"name": name, "kind": plural})));
        }
        let meta = &mut object["metadata"];
        meta["uid"] = json!(format!("{:08x}-0000-4000-8000-{:012x}", self.version, self.version));
        meta["namespace"] = json!(namespace);
        meta["creationTimestamp"] = json!(now());
        if plural == "pods" {
            self.admit(&mut object);
        }
        if dry {
            return Ok(object);
        }
        let object = self.put(plural, namespace, object);
        self.settle();
        // The object as created, before the node changes it.
        Ok(object)
    }

    /// Applies the admission of a server of this version to a new pod.
    fn admit(&self, pod: &mut Value) {
        let mut dropped = self.dropped_fields.clone();
        if self.minor < 27 {
            dropped.push("/spec/schedulingGates".to_owned());
        }
        if self.minor < 25 {
            dropped.push("/spec/os".to_owned());
        }
        // Still alpha, and off by default.
        dropped.push("/spec/containers/0/lifecycle/stopSignal".to_owned());
        for field in &dropped {
            let (parent, key) = field.rsplit_once('/').unwrap_or(("", field));
            if let Some(Value::Object(fields)) = pod.pointer_mut(parent) {
                fields.remove(key);
            }
        }
        pod["metadata"]["generation"] = json!(1);
        let spec = &mut pod["spec"];
        default(spec, "schedulerName", json!("default-scheduler"));
        default(spec, "serviceAccountName", json!("default"));
        default(spec, "dnsPolicy", json!("ClusterFirst"));
        default(spec, "terminationGracePeriodSeconds", json!(30));
        default(spec, "restartPolicy", json!("Always"));
        let mut status = json!({"phase": "Pending", "qosClass": "BestEffort"});
        if is_gated(pod) {
            status["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastTransitionTime": now(),
            }]);
        }
        pod["status"] = status;
    }

    /// Changes a pod on a client's request.
    pub(super) fn patch(
        &mut self,
        plural: &str,
        namespace: &str,
        name: &str,
        change: &Value,
    ) -> Result<Value, Refusal> {
        let Some(old) = self.get(plural, namespace, name) else {
            return Err(missing(plural, name));
        };
        let new = patch::apply(old, change).map_err(|message| {
            // As for a failed test: no field, and no details.
            let message = format!(
                "the server rejected our request due to an error in our request: {message}"
            );
            Refusal::new(422, "Invalid", message)
        })?;
        if plural == "pods" {
            check_update(name, old, &new)?;
        }
        if new == *old {
            return Ok(new);
        }
        let mut new = new;
        if let Some(generation) = new["metadata"]["generation"].as_u64()
            && new["spec"] != old["spec"]
        {
            new["metadata"]["generation"] = json!(generation + 1);
        }
        let object = self.put(plural, namespace, new);
        self.settle();
        Ok(object)
    }

    /// Deletes an object on a client's request.
    pub(super) fn delete(
        &mut self,
        plural: &str,
        namespace: &str,
        name: &str,
        options: &Value,
    ) -> Result<Value, Refusal> {
        let Some(old) = self.get(plural, namespace, name).cloned() else {
            return Err(missing(plural, name));
        };
        let (uid, wanted) = (&old["metadata"]["uid"], &options["preconditions"]["uid"]);
        if !wanted.is_null() && wanted != uid {
            let message = format!(
                "Operation cannot be fulfilled on {plural} \"{name}\": the UID in the precondition \
                 ({wanted}) does not match the UID in record ({uid}). The object might have been \
                 deleted and then recreated"
            );
            return Err(Refusal::new(409, "Conflict", message));
        }
        let spec_grace = old["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
        let mut grace = options["gracePeriodSeconds"].as_u64().unwrap_or(spec_grace);
        let phase = text(&old, "/status/phase");
        // An object without a node or with a finished process is removed at once.
        if plural != "pods"
            || old["spec"]["nodeName"].is_null()
            || ["Succeeded", "Failed"].contains(&phase.as_str())
        {
            grace = 0;
        }
        if grace == 0 {
            return Ok(self.remove(plural, namespace, name).unwrap_or(old));
        }
        let mut going = old;
        if going["metadata"]["deletionTimestamp"].is_null()
            || going["metadata"]["deletionGracePeriodSeconds"].as_u64() > Some(grace)
        {
            going["metadata"]["deletionTimestamp"] = json!(seconds_from_now(grace));
            going["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            going = self.put(plural, namespace, going);
            self.settle();
        }
        Ok(going)
    }

    /// Removes an object at once, with its dependents.
    pub(super) fn remove(&mut self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let mut object = self.objects.remove(&key)?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if plural == "pods" {
            let meta = &mut object["metadata"];
            if meta["deletionTimestamp"].is_null() {
                meta["deletionTimestamp"] = json!(now());
            }
            meta["deletionGracePeriodSeconds"] = json!(0);
        }
        self.note(plural, namespace, "DELETED", &object);
        let uid = object["metadata"]["uid"].clone();
        let owned: Vec<Key> = self
            .objects
            .iter()
            .filter(|(_, other)| {
                let owners = other["metadata"]["ownerReferences"].as_array();
                owners.is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == uid))
            })
            .map(|(key, _)| key.clone())
            .collect();
        for (plural, namespace, name) in owned {
            self.remove(&plural, &namespace, &name);
        }
        Some(object)
    }

    /// Applies the steps of the node until none is left.
    pub(super) fn settle(&mut self) {
        let Some(node) = self.node.clone() else { return };
        // A pod takes a handful of steps in its life.
        for _ in 0..1000 {
            let next = self.objects.iter().find_map(|((plural, namespace, name), pod)| {
                if plural != "pods" {
                    return None;
                }
                let step = node.next(pod, &self.objects, self.minor)?;
                Some((namespace.clone(), name.clone(), step))
            });
            match next {
                None => return,
                Some((namespace, _, super::node::Step::Becomes(pod))) => {
                    self.put("pods", &namespace, *pod);
                }
                Some((namespace, name, super::node::Step::Goes)) => {
                    self.remove("pods", &namespace, &name);
                }
            }
        }
    }

    /// Adds a cluster event about a pod.
    pub(super) fn add_event(&mut self, namespace: &str, pod: &str, reason: &str, message: &str) {
        let uid = self.get("pods", namespace, pod).map(|pod| pod["metadata"]["uid"].clone());
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{pod}.{}", self.version), "namespace": namespace},
            "involvedObject": {"kind": "Pod", "namespace": namespace, "name": pod, "uid": uid},
            "reason": reason, "message": message, "type": "Warning",
        });
        self.put("events", namespace, event);
    }
}

fn default(spec: &mut Value, field: &str, value: Value) {
    if spec[field].is_null() {
        spec[field] = value;
    }
}

pub(super) fn is_gated(pod: &Value) -> bool {
    pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty())
}

/// Refuses changes of immutable fields.
fn check_update(name: &str, old: &Value, new: &Value) -> Result<(), Refusal> {
    let fixed = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        if let Some(fields) = spec.as_object_mut() {
            fields.remove("activeDeadlineSeconds");
            fields.remove("tolerations");
            fields.remove("schedulingGates");
            // While gated, a pod may be restricted to fewer nodes.
            if is_gated(old) {
                fields.remove("affinity");
                fields.remove("nodeSelector");
            }
        }
        for container in spec["containers"].as_array_mut().into_iter().flatten() {
            container["image"] = Value::Null;
        }
        spec
    };
    let refuse = |field: &str, message: &str| {
        let whole = format!("Pod \"{name}\" is invalid: {field}: {message}");
        Err(Refusal::new(422, "Invalid", whole).details(json!({
            "name": name, "kind": "Pod",
            "causes": [{"reason": "FieldValueForbidden", "message": message, "field": field}],
        })))
    };
    if fixed(old) != fixed(new) {
        return refuse("spec", "Forbidden: pod updates may not change fields other than some");
    }
    let gates =
        |pod: &Value| pod["spec"]["schedulingGates"].as_array().cloned().unwrap_or_default();
    let before = gates(old);
    if gates(new).iter().any(|gate| !before.contains(gate)) {
        return refuse("spec.schedulingGates", "Forbidden: only deletion is allowed");
    }
    let deadline = |pod: &Value| pod["spec"]["activeDeadlineSeconds"].as_u64();
    match (deadline(old), deadline(new)) {
        (Some(old), Some(new)) if new > old => {
            refuse("spec.activeDeadlineSeconds", "must be less than or equal to previous value")
        }
        (Some(_), None) => refuse(
            "spec.activeDeadlineSeconds",
            "must not update from a positive integer to nil value",
        ),
        _ => Ok(()),
    }
}

fn missing(plural: &str, name: &str) -> Refusal {
    Refusal::new(404, "NotFound", format!("{plural} \"{name}\" not found"))
        .details(json!({"name": name, "kind": plural}))
}

pub(super) fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Returns the time in the API's format: whole seconds.
pub(super) fn now() -> String {
    seconds_from_now(0)
}

pub(super) fn seconds_from_now(seconds: u64) -> String {
    let at = Timestamp::now().as_second() + seconds as i64;
    Timestamp::from_second(at).unwrap_or_default().to_string()
}

/// Returns `true` if an object has the labels of a selector: `key=value` and `key`, joined by commas.
pub(super) fn is_selected(object: &Value, selector: &str) -> bool {
    let labels = &object["metadata"]["labels"];
    selector.split(',').filter(|part| !part.is_empty()).all(|part| match part.split_once('=') {
        Some((key, value)) => labels[key] == value,
        None => !labels[part].is_null(),
    })
}

/// Returns `true` if an object has the fields of a field selector: `a.b=value`, joined by commas.
pub(super) fn has_fields(object: &Value, selector: &str) -> bool {
    selector
        .split(',')
        .filter_map(|part| part.split_once('='))
        .all(|(path, value)| text(object, &format!("/{}", path.replace('.', "/"))) == value)
}
