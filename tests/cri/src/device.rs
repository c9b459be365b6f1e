//! Emulated device in place of a GPU.

use std::path::Path;

use runtime_conformance::{BoxError, GpuProof};
use serde_json::json;

/// Kind of the device; the kind of a GPU would be `nvidia.com/gpu`.
pub(crate) const KIND: &str = "test.example/gpu";

/// Installs the device description in the CDI directory of the engine.
///
/// The device adds a variable and a file to a container.
pub(crate) fn install(cdi: &Path, shared: &Path) -> Result<GpuProof, BoxError> {
    let file = shared.join("made-up-device");
    std::fs::write(&file, "made up\n")?;
    let device = |id: &str| {
        json!({
            "name": id,
            "containerEdits": {
                "env": [format!("MADE_UP_DEVICE={id}")],
                "mounts": [{
                    "hostPath": file,
                    "containerPath": "/made-up-device",
                    "options": ["ro", "bind"],
                }],
            },
        })
    };
    let spec = json!({
        "cdiVersion": "0.5.0",
        "kind": KIND,
        "devices": [device("0"), device("1")],
    });
    // Renamed into place, so that the engine does not read a partial file.
    let temporary = cdi.join(format!(".test-{}", std::process::id()));
    std::fs::write(&temporary, spec.to_string())?;
    std::fs::rename(&temporary, cdi.join("test.json"))?;
    Ok(GpuProof {
        ids: vec!["0".to_owned(), "1".to_owned()],
        command: "test \"$MADE_UP_DEVICE\" = 0 && grep -q 'made up' /made-up-device".to_owned(),
    })
}
