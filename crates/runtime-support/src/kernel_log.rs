//! OOM kills in the kernel log.
//!
//! On cgroup v1 an engine is notified of an OOM kill through the container's control group.
//! containerd (observed with 1.6 and 1.7, alone and under Docker) misses the notification if the
//! control group is removed before containerd has read it (containerd#8893). The kernel log still
//! contains the kill, with the control group of the killed process, whose name contains the
//! container's id. This evidence is reliable: ids are random and long enough to be unique, and only
//! the kernel can write records as the kernel.
//!
//! The log may be unreadable (`/dev/kmsg` requires `CAP_SYSLOG` if `kernel.dmesg_restrict` is set),
//! its oldest records are overwritten, and the kernel writes at most ten such records in five
//! seconds. Therefore a kill that is not found may have happened nevertheless.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use runtime_core::ContainerId;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Device of the kernel log. Each read returns one record.
const KMSG_PATH: &str = "/dev/kmsg";

/// Maximum size in bytes of a record with its header and escapes.
const RECORD_SIZE_MAX: usize = 8192;

/// Maximum number of kills that are cached. Cached kills outlive the kernel's records.
const CACHED_KILLS_MAX: usize = 1024;

/// Maximum duration of one read of the log, because a log may grow faster than it is read.
const READ_DURATION_MAX: Duration = Duration::from_secs(1);

/// Maximum size in bytes of a line that is joined from pieces: two paths of 4096 bytes and some
/// text.
const LINE_SIZE_MAX: usize = 16 << 10;

/// A reader of the kernel log that continues at its last position. Clones share the position.
#[derive(Debug, Clone, Default)]
pub struct KernelLog {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Opened by the first read, because most programs never read the log.
    log: Option<OwnedFd>,
    parser: Parser,
    kills: VecDeque<MemoryKill>,
}

impl KernelLog {
    /// Returns `true` if the kernel has logged an OOM kill of a process of this container, caused
    /// by the memory limit of the container or of an enclosing control group.
    ///
    /// The kernel logs before it kills, so the result is final once the process has ended. The
    /// result is also `false` if the log is unreadable or no longer contains the record. The method
    /// blocks a thread of the blocking pool while it reads new records: a few milliseconds for a
    /// whole log.
    pub async fn tells_out_of_memory(&self, id: &ContainerId) -> bool {
        if !is_full_id(id.as_str()) {
            return false;
        }
        let (state, id) = (Arc::clone(&self.state), id.clone());
        let read = move || {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.read_new();
            state.kills.iter().any(|kill| kill.is_of(&id))
        };
        // The task fails only when the executor shuts down.
        tokio::task::spawn_blocking(read).await.unwrap_or(false)
    }
}

impl State {
    fn read_new(&mut self) {
        let log = match self.log.take() {
            Some(log) => Ok(log),
            None => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                rustix::fs::open(KMSG_PATH, flags, Mode::empty())
            }
        };
        let done = log.and_then(|log| {
            self.read_all(
                |buffer| rustix::io::read(&log, buffer),
                Instant::now() + READ_DURATION_MAX,
            )?;
            self.log = Some(log);
            Ok(())
        });
        if let Err(error) = done {
            tracing::debug!(%error, "failed to read the kernel log");
        }
    }

    /// Reads all available records.
    fn read_all(
        &mut self,
        mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
        deadline: Instant,
    ) -> rustix::io::Result<()> {
        let mut buffer = vec![0; RECORD_SIZE_MAX];
        while Instant::now() < deadline {
            match read(&mut buffer) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(()),
                Ok(length) => {
                    let record = buffer.get(..length).unwrap_or_default();
                    if let Some(kill) = self.parser.record(record) {
                        if self.kills.len() == CACHED_KILLS_MAX {
                            self.kills.pop_front();
                        }
                        self.kills.push_back(kill);
                    }
                }
                // The next record was overwritten before it was read. The kernel continues with the
                // oldest record.
                Err(Errno::PIPE) => self.parser = Parser::default(),
                // The record exceeds the documented maximum. The kernel has skipped it.
                Err(Errno::INVAL | Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// An OOM kill caused by a memory limit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MemoryKill {
    /// Control group whose limit was reached.
    pub limit: String,
    /// Control group of the killed process: the same one or a descendant.
    pub victim: String,
}

impl MemoryKill {
    /// Returns `true` if a process of this container was killed because of the limit of the
    /// container or of an enclosing control group. Limits that the container has set for parts of
    /// itself do not count.
    #[must_use]
    pub fn is_of(&self, id: &ContainerId) -> bool {
        let id = id.as_str();
        if !is_full_id(id) || !self.victim.contains(id) {
            return false;
        }
        let parts = |path: &str| path.split('/').any(|part| is_group_of(part, id));
        let inner = self.limit.rsplit_once('/').is_some_and(|(above, _)| parts(above));
        parts(&self.victim) && !inner
    }
}

/// Returns `true` if the name of a control group is that of a container: `ID`, `docker-ID.scope`,
/// `cri-containerd-ID.scope`, `libpod-ID`.
fn is_group_of(name: &str, id: &str) -> bool {
    // The monitor process of CRI-O and Podman runs beside the container, with the same id in the
    // name of its control group.
    !name.contains("conmon") && name.split(|c: char| !c.is_ascii_hexdigit()).any(|word| word == id)
}

/// Requires a full id, because a prefix is ambiguous.
fn is_full_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Parser of OOM kills in kernel log records.
///
/// The record format is documented in Linux, `Documentation/ABI/testing/dev-kmsg`; the line is
/// written by `dump_oom_victim` in `mm/oom_kill.c` (formerly `dump_oom_summary`) since 5.0.
#[derive(Debug, Default)]
pub struct Parser {
    /// Beginning of a line that the kernel writes in several records because other output
    /// interrupted it.
    partial_line: String,
}

impl Parser {
    /// Parses the next record, as returned by one read.
    pub fn record(&mut self, record: &[u8]) -> Option<MemoryKill> {
        let record = std::str::from_utf8(record).ok()?;
        let (head, text) = record.split_once(';')?;
        let mut head = head.split(',');
        // The lowest three bits are the level of the record. The bits above are 0 only for the
        // kernel; other writers cannot set them to 0.
        if head.next()?.parse::<u32>().ok()? >> 3 != 0 {
            return None;
        }
        let is_continued = head.nth(2)? == "c";
        // Lines with properties may follow.
        let text = text.split('\n').next()?;
        if text.starts_with(OOM_KILL_PREFIX) {
            text.clone_into(&mut self.partial_line);
        } else if is_continued && !self.partial_line.is_empty() {
            self.partial_line.push_str(text);
        } else {
            return None;
        }
        let kill = parse_line(&self.partial_line);
        if kill.is_some() || self.partial_line.len() > LINE_SIZE_MAX {
            self.partial_line.clear();
        }
        kill
    }
}

const OOM_KILL_PREFIX: &str = "oom-kill:";

/// Parses
/// `oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=PATH,task_memcg=PATH,task=NAME,pid=1,uid=0`.
///
/// With another constraint the whole machine is out of memory, independent of a container's limit.
fn parse_line(text: &str) -> Option<MemoryKill> {
    let text = text.strip_prefix(OOM_KILL_PREFIX)?.strip_prefix("constraint=CONSTRAINT_MEMCG,")?;
    // The rest begins with the process name, which the process can choose.
    let (text, _) = text.split_once(",task=")?;
    let (text, victim) = text.split_once(",task_memcg=")?;
    let (_, limit) = text.split_once(",oom_memcg=")?;
    // A path may contain a comma. A path that contains a field name is rejected as a forgery.
    let is_path = |path: &str| path.starts_with('/') && !path.contains("_memcg=");
    (is_path(limit) && is_path(victim))
        .then(|| MemoryKill { limit: limit.to_owned(), victim: victim.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "5f0c3a9b1d2e4f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8";
    const OTHER: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90";

    fn id() -> ContainerId {
        ContainerId::new(ID)
    }

    fn text(limit: &str, victim: &str) -> String {
        format!(
            "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0-1,3,\
             oom_memcg={limit},task_memcg={victim},task=tail,pid=13123,uid=0"
        )
    }

    fn parse(record: &str) -> Option<MemoryKill> {
        Parser::default().record(record.as_bytes())
    }

    fn is_oom_kill(limit: &str, victim: &str) -> bool {
        parse(&format!("6,429,460593424,-;{}\n", text(limit, victim)))
            .is_some_and(|kill| kill.is_of(&id()))
    }

    #[test]
    fn kill_in_container_group_is_attributed() {
        for group in [
            format!("/k8s.io/{ID}"),
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/system.slice/cri-containerd-{ID}.scope"),
            format!("/kubepods/burstable/pod0-1/crio-{ID}"),
            format!("/a,b/{ID}"),
        ] {
            assert!(is_oom_kill(&group, &group), "{group}");
            assert!(is_oom_kill(&group, &format!("{group}/init.scope")), "{group}");
            let (above, _) = group.rsplit_once('/').unwrap();
            assert!(above.is_empty() || is_oom_kill(above, &group), "{group}");
        }
    }

    #[test]
    fn kill_in_other_group_is_not_attributed() {
        let own = format!("/docker/{ID}");
        for (limit, victim) in [
            (format!("/docker/{OTHER}"), format!("/docker/{OTHER}")),
            // Another container was killed because of a common limit.
            ("/docker".to_owned(), format!("/docker/{OTHER}")),
            // A nested container has its own limit.
            (format!("{own}/docker/{OTHER}"), format!("{own}/docker/{OTHER}")),
            (format!("/docker/{ID}0"), format!("/docker/{ID}0")),
            (format!("/docker/{}", &ID[..63]), format!("/docker/{}", &ID[..63])),
            ("/x".to_owned(), format!("/x/crio-conmon-{ID}.scope")),
        ] {
            assert!(!is_oom_kill(&limit, &victim), "{victim}");
        }
        // The limit of the outer container applies to both.
        assert!(is_oom_kill(&format!("/docker/{OTHER}"), &format!("/docker/{OTHER}/docker/{ID}")));
        let kill = MemoryKill { limit: "/docker".to_owned(), victim: "/docker/abc".to_owned() };
        assert!(!kill.is_of(&ContainerId::new("abc")), "a part of an id is ambiguous");
    }

    #[test]
    fn records_of_other_writers_are_ignored() {
        let group = format!("/docker/{ID}");
        let text = text(&group, &group);
        assert!(parse(&format!("6,1,2,-;{text}\n")).is_some());
        assert!(parse(&format!("6,1,2,-,caller=T13;{text}\n SUBSYSTEM=x\n")).is_some());
        for record in [
            // A program wrote this record to /dev/kmsg; it cannot use the kernel's facility.
            format!("14,1,2,-;{text}\n"),
            format!("6,1,2,-;tail {text}\n"),
            format!("6,1,2,c;{text}\n").replace(OOM_KILL_PREFIX, "oom-kil"),
            format!("6,1,2,-;{text}\n").replace("_MEMCG", "_NONE"),
            format!("6,1,2,-;{text}\n").replace(",task=tail", ""),
            format!("6,1;{text}\n"),
            format!("x,1,2,-;{text}\n"),
            text.clone(),
            String::new(),
        ] {
            assert_eq!(parse(&record), None, "{record}");
        }
        let global = format!(
            "6,1,2,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,\
             global_oom,task_memcg={group},task=tail,pid=1,uid=0\n"
        );
        assert_eq!(parse(&global), None);
    }

    #[test]
    fn misleading_names_are_not_attributed() {
        let (own, other) = (format!("/docker/{ID}"), format!("/docker/{OTHER}"));
        let text = text(&other, &other);
        // A process name is any string of up to 15 bytes.
        for name in [",task_memcg=/x", ",task=,task=x", ";oom-kill:", "\\x0a6,1,2,-;"] {
            let record = format!("6,1,2,-;{text}\n").replace("=tail", &format!("={name}"));
            let kill = parse(&record).unwrap();
            assert_eq!((kill.limit.as_str(), kill.victim.as_str()), (&*other, &*other), "{name}");
        }
        // A control group may have a misleading name, too.
        for group in [format!("{other}/x,task_memcg={own}"), format!("{other}/,oom_memcg={own}")] {
            let record = format!("6,1,2,-;{}\n", super::tests::text(&group, &group));
            assert_eq!(parse(&record), None, "{group}");
        }
    }

    #[test]
    fn line_in_pieces_is_joined() {
        // Form written by Linux 6.18 if another record interrupts the line.
        let (first, last) = (
            "6,139184,796227716,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,\
             mems_allowed=0,oom_memcg=\n",
            format!("4,139186,796227727,c;/x/{ID},task_memcg=/x/{ID},task=tail,pid=23328,uid=0\n"),
        );
        let mut parser = Parser::default();
        assert_eq!(parser.record(first.as_bytes()), None);
        assert_eq!(parser.record(b"14,139185,796227717,-;another\n"), None);
        assert!(parser.record(last.as_bytes()).unwrap().is_of(&id()));
        assert_eq!(parser.record(last.as_bytes()), None, "the line is complete");
    }

    /// Reads from a log with these records.
    fn read(state: &mut State, records: Vec<Result<String, Errno>>) -> rustix::io::Result<()> {
        let mut records = records.into_iter();
        let read = |buffer: &mut [u8]| {
            let record = records.next().unwrap_or(Err(Errno::AGAIN))?;
            buffer[..record.len()].copy_from_slice(record.as_bytes());
            Ok(record.len())
        };
        state.read_all(read, Instant::now() + READ_DURATION_MAX)
    }

    fn kill_of(id: &str) -> String {
        let group = format!("/docker/{id}");
        format!("6,1,2,-;{}\n", text(&group, &group))
    }

    #[test]
    fn read_continues_after_gaps() {
        let mut state = State::default();
        let records = vec![
            Ok("6,1,2,-;hello\n".to_owned()),
            Err(Errno::PIPE),
            Err(Errno::INTR),
            Err(Errno::INVAL),
            Ok(kill_of(OTHER)),
            Ok(kill_of(ID)),
        ];
        read(&mut state, records).unwrap();
        assert_eq!(state.kills.len(), 2);
        assert!(state.kills[1].is_of(&id()));
        // Earlier kills are kept; a gap within a line discards the line.
        let whole = kill_of(ID);
        let (begin, end) = whole.split_at(100);
        let begin = format!("{begin}\n");
        let end = format!("6,1,2,c;{end}");
        let pieces = |gap: Option<Errno>| {
            [Ok(begin.clone())].into_iter().chain(gap.map(Err)).chain([Ok(end.clone())]).collect()
        };
        read(&mut state, pieces(Some(Errno::PIPE))).unwrap();
        assert_eq!(state.kills.len(), 2);
        read(&mut state, pieces(Some(Errno::AGAIN))).unwrap();
        read(&mut state, vec![Ok(end.clone())]).unwrap();
        assert_eq!(state.kills.len(), 3);
        assert_eq!(read(&mut state, vec![Err(Errno::IO)]), Err(Errno::IO));
    }

    #[test]
    fn cached_kills_are_bounded() {
        let mut state = State::default();
        read(&mut state, vec![Ok(kill_of(ID)); CACHED_KILLS_MAX]).unwrap();
        read(&mut state, vec![Ok(kill_of(OTHER))]).unwrap();
        assert_eq!(state.kills.len(), CACHED_KILLS_MAX);
        assert!(!state.kills[CACHED_KILLS_MAX - 1].is_of(&id()));
    }

    #[test]
    fn read_of_endless_log_ends_at_deadline() {
        let mut state = State::default();
        let endless = |buffer: &mut [u8]| {
            buffer[..2].copy_from_slice(b"6,");
            Ok(2)
        };
        state.read_all(endless, Instant::now() + Duration::from_millis(20)).unwrap();
    }

    #[tokio::test]
    async fn unknown_container_has_no_kill() {
        // The result does not depend on the log being readable.
        let log = KernelLog::default();
        assert!(!log.tells_out_of_memory(&id()).await);
        assert!(!log.tells_out_of_memory(&ContainerId::new("x")).await);
    }

    proptest! {
        #[test]
        fn parser_accepts_any_record(records: Vec<Vec<u8>>, tails: Vec<String>) {
            let mut parser = Parser::default();
            for record in records {
                let _ = parser.record(&record);
            }
            for tail in tails {
                for flag in ["-", "c"] {
                    let _ = parser.record(format!("6,1,2,{flag};oom-kill:{tail}").as_bytes());
                    let _ = parser.record(format!("6,1,2,{flag};{tail}").as_bytes());
                }
            }
        }

        #[test]
        fn line_in_any_pieces_is_joined(cuts: Vec<prop::sample::Index>) {
            let group = format!("/docker/{ID}");
            let text = text(&group, &group);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len())).collect();
            cuts.retain(|cut| *cut >= OOM_KILL_PREFIX.len());
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut parser = Parser::default();
            let mut kills = Vec::new();
            for pair in cuts.windows(2) {
                let flag = if pair[0] == 0 { '-' } else { 'c' };
                let record = format!("6,1,2,{flag};{}\n", &text[pair[0]..pair[1]]);
                kills.extend(parser.record(record.as_bytes()));
            }
            prop_assert_eq!(kills.len(), 1);
            prop_assert!(kills[0].is_of(&id()));
        }
    }
}
