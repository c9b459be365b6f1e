//! Known differences of an engine from the suite, asserted.

use futures_util::StreamExt as _;
use runtime_conformance::{Context, Difference, Failure, Outcome};
use runtime_core::{CopyOutOptions, ErrorKind, Mount};

/// Returns the differences of an engine, by its name in the environment.
pub(crate) fn of(engine: &str) -> Vec<Difference> {
    match engine {
        "podman" | "podman-54" | "podman-58" => PODMAN.to_vec(),
        _ => Vec::new(),
    }
}

const PODMAN: [Difference; 3] = [
    Difference {
        case: "fields::system_calls_are_filtered",
        reason: "Podman's filter allows user namespaces, so that Podman runs in its containers",
        instead: |t| Box::pin(user_namespaces_are_allowed(t)),
    },
    Difference {
        case: "fields::mount_of_an_odd_path",
        reason: "Podman's Docker API puts a mount together as source:target:options, and refuses \
                 a path with one of these signs",
        instead: |t| Box::pin(odd_path_is_refused(t)),
    },
    Difference {
        case: "files::modes_and_owners_out",
        reason: "Podman says of all that it copies out that root owns it",
        instead: |t| Box::pin(owners_are_root(t)),
    },
];

async fn odd_path_is_refused(t: Context) -> Outcome {
    let file = t.folder()?.join("with:colons,commas=and $(SIGNS)");
    std::fs::write(&file, "content")?;
    let spec = t.spec().mount(Mount::new(&file, "/etc/config"));
    match t.runtime().create_container(&spec).await {
        Err(error) if error.kind() == ErrorKind::InvalidArgument => {
            assert!(error.field().is_some_and(|field| field.starts_with("mounts")), "{error}");
            t.nothing_left().await
        }
        Err(error) => Err(error.into()),
        Ok(_) => Err(Failure::new("Podman takes such a path now: the difference is none")),
    }
}

async fn user_namespaces_are_allowed(t: Context) -> Outcome {
    let script = "grep Seccomp: /proc/self/status | tr -d '\\t'; unshare -U echo made";
    assert_eq!(t.output(&t.script(script)).await?, "Seccomp:2\nmade\n");
    Ok(())
}

async fn owners_are_root(t: Context) -> Outcome {
    let script = "echo x > /srv/owned; chown 1000:44 /srv/owned; chmod 4640 /srv/owned";
    let (container, _) = t.run(&t.script(script)).await?;
    let mut stream = container.copy_out("/srv/owned", CopyOutOptions::default()).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
    }
    let mut archive = tar::Archive::new(&bytes[..]);
    let mut entries = archive.entries()?;
    let Some(entry) = entries.next() else { return Err(Failure::new("the archive is empty")) };
    let entry = entry?;
    let header = entry.header();
    assert_eq!((header.uid()?, header.gid()?, header.mode()? & 0o7777), (0, 0, 0o4640));
    Ok(())
}
