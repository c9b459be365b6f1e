//! Import cycles between the modules of a crate.
//!
//! A module imports another one if it uses a path into it that starts with `crate` or `super`. A
//! module and its descendants count as one: imports between them form no cycle. Test modules and
//! generated code are ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, Macro, Meta, MetaList, UseTree, VisRestricted};

use crate::workspace::root;

/// Checks every crate in `crates/`.
pub fn check() -> Result<()> {
    let crates = root().join("crates");
    let mut names = Vec::new();
    for entry in fs::read_dir(&crates).context("failed to list crates/")? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let mut faults = 0;
    for name in &names {
        let modules = read_modules(&crates.join(name).join("src"))?;
        let cycles = cycles(&modules).with_context(|| format!("failed to check {name}"))?;
        if !cycles.is_empty() {
            faults += 1;
            println!("{name} has {} import cycles:", cycles.len());
            for cycle in &cycles {
                println!("  {}", cycle.join(", "));
            }
        }
    }
    ensure!(faults == 0, "{faults} crates have import cycles");
    Ok(())
}

/// Reads the modules of a crate, source text by path: `a::b` is in `a/b.rs` or `a/b/mod.rs`.
fn read_modules(src: &Path) -> Result<BTreeMap<String, String>> {
    let mut modules = BTreeMap::new();
    let pattern = src.join("**/*.rs");
    for file in glob::glob(&pattern.to_string_lossy())? {
        let file = file?;
        let relative = file.strip_prefix(src)?.with_extension("");
        let mut parts: Vec<_> =
            relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if parts.last().is_some_and(|part| part == "mod") {
            parts.pop();
        }
        let is_root = matches!(&parts[..], [name] if name == "lib" || name == "main");
        let is_ignored = parts.iter().any(|part| part == "generated" || part == "tests");
        if parts.is_empty() || is_root || is_ignored {
            continue;
        }
        let text = fs::read_to_string(&file)
            .with_context(|| format!("failed to read {}", file.display()))?;
        modules.insert(parts.join("::"), text);
    }
    Ok(modules)
}

/// Returns the import cycles between modules, each as a sorted list of its modules.
fn cycles(modules: &BTreeMap<String, String>) -> Result<Vec<Vec<&str>>> {
    let mut imports = Vec::new();
    let mut tests = BTreeSet::new();
    for (name, text) in modules {
        let file = syn::parse_file(text).with_context(|| format!("failed to parse {name}"))?;
        let mut found = Imports::new(name);
        found.visit_file(&file);
        tests.append(&mut found.tests);
        imports.push((name.as_str(), found.paths));
    }
    let is_test = |module: &str| tests.iter().any(|test| is_same_or_within(module, test));
    let mut graph = DiGraphMap::<&str, ()>::new();
    for (name, paths) in &imports {
        for path in paths {
            let Some(target) = module_of(path, modules) else { continue };
            let is_one_module = is_same_or_within(target, name) || is_same_or_within(name, target);
            if !is_one_module && !is_test(name) && !is_test(target) {
                graph.add_edge(*name, target, ());
            }
        }
    }
    let mut cycles = tarjan_scc(&graph);
    cycles.retain(|cycle| cycle.len() > 1);
    for cycle in &mut cycles {
        cycle.sort_unstable();
    }
    cycles.sort_unstable();
    Ok(cycles)
}

/// Returns the innermost module that contains the item at `path`.
fn module_of<'a>(path: &[String], modules: &'a BTreeMap<String, String>) -> Option<&'a str> {
    (1..=path.len()).rev().find_map(|length| {
        modules.get_key_value(&path[..length].join("::")).map(|(name, _)| name.as_str())
    })
}

/// Returns true if `module` is `ancestor` or one of its descendants.
fn is_same_or_within(module: &str, ancestor: &str) -> bool {
    module.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Collects the imports of a module.
struct Imports {
    /// The current module, which is an inline one within inline modules.
    module: Vec<String>,
    /// Imported paths, from the root of the crate.
    paths: Vec<Vec<String>>,
    /// Test modules, in this file or in their own.
    tests: BTreeSet<String>,
}

impl Imports {
    fn new(module: &str) -> Self {
        Self {
            module: module.split("::").map(str::to_owned).collect(),
            paths: Vec::new(),
            tests: BTreeSet::new(),
        }
    }

    /// Adds a path, if it starts with `crate` or `super`.
    fn add(&mut self, path: &[String]) {
        let supers = path.iter().take_while(|part| *part == "super").count();
        let rest = &path[supers..];
        if supers > 0 {
            let parent = &self.module[..self.module.len().saturating_sub(supers)];
            self.paths.push([parent, rest].concat());
        } else if let Some((first, rest)) = rest.split_first()
            && first == "crate"
        {
            self.paths.push(rest.to_vec());
        }
    }

    fn add_use(&mut self, prefix: &[String], tree: &UseTree) {
        let joined = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.add_use(&joined(&path.ident), &path.tree),
            UseTree::Name(name) => self.add(&joined(&name.ident)),
            UseTree::Rename(rename) => self.add(&joined(&rename.ident)),
            UseTree::Glob(_) => self.add(prefix),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_use(prefix, tree)),
        }
    }

    /// Adds the paths in the arguments of a macro or attribute, which are not parsed.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.add(&std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.add(&std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.add_tokens(group.stream());
                    }
                }
            }
        }
        self.add(&path);
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_mod(&mut self, node: &'ast ItemMod) {
        self.module.push(node.ident.to_string());
        if is_for_tests(&node.attrs) {
            self.tests.insert(self.module.join("::"));
        } else {
            visit::visit_item_mod(self, node);
        }
        self.module.pop();
    }

    fn visit_item_use(&mut self, node: &'ast ItemUse) {
        if !is_for_tests(&node.attrs) {
            self.add_use(&[], &node.tree);
        }
    }

    fn visit_path(&mut self, node: &'ast syn::Path) {
        let parts: Vec<_> = node.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(&parts);
        visit::visit_path(self, node);
    }

    fn visit_macro(&mut self, node: &'ast Macro) {
        self.add_tokens(node.tokens.clone());
        visit::visit_macro(self, node);
    }

    fn visit_meta_list(&mut self, node: &'ast MetaList) {
        self.add_tokens(node.tokens.clone());
        visit::visit_meta_list(self, node);
    }

    /// Ignores `pub(in crate::a)`, which is not an import.
    fn visit_vis_restricted(&mut self, _: &'ast VisRestricted) {}
}

/// Returns true for `#[cfg(test)]`.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the cycles between modules with these sources.
    fn cycles_of(sources: &[(&str, &str)]) -> Vec<String> {
        let modules =
            sources.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        cycles(&modules).unwrap().into_iter().map(|cycle| cycle.join(", ")).collect()
    }

    #[test]
    fn imports_in_both_directions_are_a_cycle() {
        for import in [
            "use crate::b::Item;",
            "use crate::{b::{self, Item as Other}, c};",
            "use super::b::*;",
            "pub(crate) use crate::b::{Item};",
            "fn f() { crate::b::f() }",
            "fn f() -> Vec<super::b::Item> { Vec::new() }",
            "fn f() { println!(\"{}\", [crate::b::f()].len()) }",
            "mod inline { use super::super::b; }",
            "#[derive(crate::b::Item)] struct S;",
        ] {
            let sources = [("a", import), ("b", "use crate::a::X;"), ("c", "")];
            assert_eq!(cycles_of(&sources), ["a, b"], "{import}");
        }
    }

    #[test]
    fn longer_and_separate_cycles_are_found() {
        let sources = [
            ("a", "use crate::b::nested::X;"),
            ("b::nested", "use crate::c::X;"),
            ("c", "use crate::a::X; use crate::d::X;"),
            ("d", "use crate::e::X;"),
            ("e", "use crate::d::X;"),
        ];
        assert_eq!(cycles_of(&sources), ["a, b::nested, c", "d, e"]);
    }

    #[test]
    fn imports_between_parent_and_child_are_no_cycle() {
        let sources =
            [("a", "mod b; use self::b::X; use crate::a::b::Y;"), ("a::b", "use super::Z;")];
        assert_eq!(cycles_of(&sources), [""; 0]);
        // A path to an item of the parent's sibling is an import of the sibling.
        let sources = [("a::b", "use super::super::c::X;"), ("c", "use crate::a::b::X;")];
        assert_eq!(cycles_of(&sources), ["a::b, c"]);
    }

    #[test]
    fn other_text_is_no_import() {
        for text in [
            "// crate::b::X",
            "/// See [`crate::b::X`].\nfn f() {}",
            "const S: &str = \"crate::b::X\";",
            "#[cfg(test)] mod tests { use crate::b::X; }",
            "#[cfg(test)] use crate::b::X;",
            "mod b;",
            "pub(in crate::b) fn f() {}",
            "use std::b::X;",
            "use crate::bb::X;",
        ] {
            let sources = [("a", text), ("b", "use crate::a::X;")];
            assert_eq!(cycles_of(&sources), [""; 0], "{text}");
        }
    }

    #[test]
    fn test_module_in_own_file_is_ignored() {
        let sources = [
            ("a", "#[cfg(test)] mod fake; use crate::b::X;"),
            ("a::fake", "use crate::b::Y;"),
            ("b", "use crate::a::fake::X;"),
        ];
        assert_eq!(cycles_of(&sources), [""; 0]);
    }

    #[test]
    fn modules_are_named_by_their_path() {
        let src = tempfile::tempdir().unwrap();
        for file in ["lib.rs", "a.rs", "a/b.rs", "c/mod.rs", "a/tests.rs", "generated/x.rs"] {
            let path = src.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let modules = read_modules(src.path()).unwrap();
        assert_eq!(modules.keys().collect::<Vec<_>>(), ["a", "a::b", "c"]);
    }
}
