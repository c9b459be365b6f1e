//! Compiles the programs of the guides in `docs/`, as documentation tests, and checks that the links
//! of all documents lead to files.

/// Includes documents, whose Rust programs are compiled by `cargo test --doc -p guides`.
macro_rules! compile_programs {
    ($($name:ident: $path:literal,)*) => {
        $(
            #[cfg(doctest)]
            #[doc = include_str!(concat!("../../../docs/", $path))]
            pub struct $name;
        )*
    };
}

compile_programs! {
    Capabilities: "capabilities.md",
    Containerd: "containerd.md",
    Docker: "docker.md",
    Kubernetes: "kubernetes.md",
    Limitations: "limitations.md",
    MigratingFromGo: "migrating-from-go.md",
    Performance: "performance.md",
    WritingABackend: "writing-a-backend.md",
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    /// The root of the repository.
    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    /// The Markdown files in these directories.
    fn documents() -> Vec<PathBuf> {
        let directories = ["", "docs", ".github", ".github/ISSUE_TEMPLATE"];
        let mut found = Vec::new();
        for directory in directories {
            for entry in fs::read_dir(root().join(directory)).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "md") {
                    found.push(path);
                }
            }
        }
        found
    }

    /// The targets of the inline links of a document, without those of its code blocks.
    fn links(text: &str) -> Vec<&str> {
        let mut in_code = false;
        let prose = text.lines().filter(|line| {
            let is_fence = line.trim_start().starts_with("```");
            in_code ^= is_fence;
            !in_code && !is_fence
        });
        prose
            .flat_map(|line| line.split("](").skip(1))
            .filter_map(|rest| Some(rest.split_once(')')?.0))
            .collect()
    }

    #[test]
    fn links_of_documents_lead_to_files() {
        let mut broken = Vec::new();
        for document in documents() {
            let text = fs::read_to_string(&document).unwrap();
            let directory = document.parent().unwrap();
            for link in links(&text) {
                let (file, _anchor) = link.split_once('#').unwrap_or((link, ""));
                let is_local = !file.is_empty() && !file.contains("://");
                if is_local && !directory.join(file).exists() {
                    broken.push(format!("{}: {link}", document.display()));
                }
            }
        }
        assert!(broken.is_empty(), "{broken:#?}");
    }

    #[test]
    fn links_in_code_blocks_are_ignored() {
        let text = "[a](one) and [b](two#x)\n```\n[c](three)\n```\n";
        assert_eq!(links(text), ["one", "two#x"]);
    }
}
