//! Processes that the engine has put into a container beside its main process.
//!
//! The CRI does not name the process of an exec. containerd's helper, the parent of the main
//! process, is the parent of each exec's as well, and of nothing else in the container: what a
//! process of the container leaves behind goes to the first of the container. A child of the
//! helper that is new since just before an exec is therefore that of the exec, unless somebody
//! else has made one at that very moment. This process makes one at a time in a container, and
//! where two are seen, the command line tells them apart or none is taken.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use runtime_support::process::Process;

/// Whether the kernel tells the children of a process.
pub(crate) fn can_look() -> bool {
    fs::exists("/proc/thread-self/children").unwrap_or(false)
}

/// The processes of a container that the engine has made, before one more of them.
#[derive(Debug)]
pub(crate) struct Inside {
    parent: i32,
    /// The pid namespace of the container.
    namespace: PathBuf,
    before: HashSet<i32>,
}

impl Inside {
    /// Takes note of those that are there now, by the number of the main process.
    pub(crate) fn look(main: i32) -> io::Result<Self> {
        let parent = parent(main)?;
        let namespace = namespace(main)?;
        if fs::read_link("/proc/self/ns/pid")? == namespace {
            return Err(io::Error::other("the container is in our own pid namespace"));
        }
        let before = children(parent)?.into_iter().collect();
        Ok(Self { parent, namespace, before })
    }

    /// The process that was made since, with this command.
    pub(crate) fn find(&self, command: &[String]) -> io::Result<Option<Process>> {
        let mut new = self.since()?;
        if new.len() > 1 {
            let wanted: Vec<u8> = command.iter().flat_map(|word| word.bytes().chain([0])).collect();
            new.retain(|pid| {
                fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words == wanted)
            });
        }
        let &[pid] = &new[..] else { return Ok(None) };
        let process = match Process::hold(pid) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            process => process?,
        };
        // It is there still: then it is the one that we have hold of, and was not replaced by
        // another between the look and the hold.
        Ok(self.since()?.contains(&pid).then_some(process))
    }

    fn since(&self) -> io::Result<Vec<i32>> {
        let mut new = children(self.parent)?;
        // The helper's other children are not inside: they work for it.
        new.retain(|pid| {
            !self.before.contains(pid) && namespace(*pid).is_ok_and(|seen| seen == self.namespace)
        });
        Ok(new)
    }
}

fn namespace(pid: i32) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid"))
}

fn parent(pid: i32) -> io::Result<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before it can have anything in it.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let parent = rest.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok());
    parent.filter(|pid| *pid > 1).ok_or_else(|| io::Error::other("the container has no helper"))
}

fn children(pid: i32) -> io::Result<Vec<i32>> {
    let mut all = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read_to_string(thread?.path().join("children")) {
            Ok(list) => {
                all.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
            }
            // The thread has ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(3) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn children_and_parents_know_each_other() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (mine, pid) = (std::process::id() as i32, child.id() as i32);
        assert!(children(mine).unwrap().contains(&pid));
        assert_eq!(parent(pid).unwrap(), mine);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children(mine).unwrap().contains(&pid));
    }

    #[test]
    fn one_that_is_in_our_namespace_is_not_looked_into() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(Inside::look(child.id() as i32).is_err());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
