//! What the kernel's log says of processes that it killed for want of memory.
//!
//! On cgroup v1 an engine learns of such a kill by a notification of the container's control
//! group, and containerd (1.6 and 1.7 were seen to do so, by themselves and below Docker) misses
//! it when the group is gone before it has read it (containerd#8893). The kernel writes down what
//! it did all the same, with the control group of the process that it killed, and the group has
//! the container's id in its name. So this is the same word, read at its source, and no guess: an
//! id is random and long enough to be nobody else's, and only the kernel itself can write as the
//! kernel.
//!
//! The log may not be readable (`/dev/kmsg` takes `CAP_SYSLOG` where `kernel.dmesg_restrict` is
//! set), its oldest records are overwritten, and the kernel writes at most ten such records in
//! five seconds. What is not found here may have happened.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use runtime_core::ContainerId;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Each read of it gives one record.
const PATH: &str = "/dev/kmsg";

/// The longest record, with its head and its escapes, that the kernel gives.
const LONGEST_RECORD: usize = 8192;

/// How many kills are remembered. Records stay when the kernel has overwritten them.
const REMEMBERED: usize = 1024;

/// How long one look reads at most: a log that grows faster than it is read has no end.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// The longest line that is put together of pieces: two paths of 4096, and some words.
const LONGEST_LINE: usize = 16 << 10;

/// The kernel's log, read on from where it was read to. Clones share that.
#[derive(Debug, Clone, Default)]
pub struct KernelLog {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Opened by the first look, since most programs never need one.
    log: Option<OwnedFd>,
    parser: Parser,
    kills: VecDeque<MemoryKill>,
}

impl KernelLog {
    /// Whether the kernel has written that it killed a process of this container because a memory
    /// limit was reached: the container's own or that of a group around it.
    ///
    /// The kernel writes before it kills, so that the answer is final once the process has ended.
    /// `false` also where the log cannot be read or does not go back that far. It takes a thread
    /// that may block for the time of reading what is new: some milliseconds for a whole log.
    pub async fn tells_out_of_memory(&self, id: &ContainerId) -> bool {
        if !is_full_id(id.as_str()) {
            return false;
        }
        let (state, id) = (Arc::clone(&self.state), id.clone());
        let look = move || {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.read_on();
            state.kills.iter().any(|kill| kill.is_of(&id))
        };
        // It fails only when the executor ends.
        tokio::task::spawn_blocking(look).await.unwrap_or(false)
    }
}

impl State {
    fn read_on(&mut self) {
        let log = match self.log.take() {
            Some(log) => Ok(log),
            None => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                rustix::fs::open(PATH, flags, Mode::empty())
            }
        };
        let done = log.and_then(|log| {
            self.take_all(|buffer| rustix::io::read(&log, buffer), Instant::now() + LONGEST_LOOK)?;
            self.log = Some(log);
            Ok(())
        });
        if let Err(error) = done {
            tracing::debug!(%error, "the kernel's log cannot be read");
        }
    }

    /// Takes record by record until there is no more for now.
    fn take_all(
        &mut self,
        mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
        deadline: Instant,
    ) -> rustix::io::Result<()> {
        let mut buffer = vec![0; LONGEST_RECORD];
        while Instant::now() < deadline {
            match read(&mut buffer) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(()),
                Ok(length) => {
                    let record = buffer.get(..length).unwrap_or_default();
                    if let Some(kill) = self.parser.record(record) {
                        if self.kills.len() == REMEMBERED {
                            self.kills.pop_front();
                        }
                        self.kills.push_back(kill);
                    }
                }
                // The next record was overwritten before it was read, and the kernel has gone on
                // to the oldest that there is.
                Err(Errno::PIPE) => self.parser = Parser::default(),
                // One that is longer than all that the kernel promises; it has gone past it.
                Err(Errno::INVAL | Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A process that the kernel killed because a memory limit was reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MemoryKill {
    /// The control group whose limit it was.
    pub limit: String,
    /// The control group of the process: that one or one below it.
    pub victim: String,
}

impl MemoryKill {
    /// Whether a process of this container was killed because of the container's limit or of one
    /// around it. A limit that the container has set for a part of itself is its own matter.
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

/// Whether the name of a control group is that of a container: `ID`, `docker-ID.scope`,
/// `cri-containerd-ID.scope`, `libpod-ID`.
fn is_group_of(name: &str, id: &str) -> bool {
    // The helper of CRI-O and Podman is beside the container, with the same id in its name.
    !name.contains("conmon") && name.split(|c: char| !c.is_ascii_hexdigit()).any(|word| word == id)
}

/// What is shorter might be part of something else.
fn is_full_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Finds the kills among the records of the kernel's log.
///
/// See `Documentation/ABI/testing/dev-kmsg` of Linux for the form of a record, and `mm/oom_kill.c`
/// (`dump_oom_victim`, formerly `dump_oom_summary`) for the line, which is there from 5.0 on.
#[derive(Debug, Default)]
pub struct Parser {
    /// The beginning of a line, where the kernel was interrupted by itself in writing it.
    begun: String,
}

impl Parser {
    /// Takes the next record, as one read gives it.
    pub fn record(&mut self, record: &[u8]) -> Option<MemoryKill> {
        let record = std::str::from_utf8(record).ok()?;
        let (head, text) = record.split_once(';')?;
        let mut head = head.split(',');
        // The level of the record is in the lowest three bits. Above them is 0 for the kernel, which
        // is what no other writer can put there.
        if head.next()?.parse::<u32>().ok()? >> 3 != 0 {
            return None;
        }
        let is_continued = head.nth(2)? == "c";
        // Lines with properties may follow.
        let text = text.split('\n').next()?;
        if text.starts_with(BEGIN) {
            text.clone_into(&mut self.begun);
        } else if is_continued && !self.begun.is_empty() {
            self.begun.push_str(text);
        } else {
            return None;
        }
        let kill = line(&self.begun);
        if kill.is_some() || self.begun.len() > LONGEST_LINE {
            self.begun.clear();
        }
        kill
    }
}

const BEGIN: &str = "oom-kill:";

/// `oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=PATH,task_memcg=PATH,task=NAME,pid=1,uid=0`.
///
/// Another constraint is a want of memory of the whole machine, which no limit of a container has
/// to do with.
fn line(text: &str) -> Option<MemoryKill> {
    let text = text.strip_prefix(BEGIN)?.strip_prefix("constraint=CONSTRAINT_MEMCG,")?;
    // What comes after it begins with a name that the process has chosen itself.
    let (text, _) = text.split_once(",task=")?;
    let (text, victim) = text.split_once(",task_memcg=")?;
    let (_, limit) = text.split_once(",oom_memcg=")?;
    // A path may have a comma in it; but one that reads as the next word was made to deceive.
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

    fn found(record: &str) -> Option<MemoryKill> {
        Parser::default().record(record.as_bytes())
    }

    fn is_told(limit: &str, victim: &str) -> bool {
        found(&format!("6,429,460593424,-;{}\n", text(limit, victim)))
            .is_some_and(|kill| kill.is_of(&id()))
    }

    #[test]
    fn the_forms_of_a_containers_group() {
        for group in [
            format!("/k8s.io/{ID}"),
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/system.slice/cri-containerd-{ID}.scope"),
            format!("/kubepods/burstable/pod0-1/crio-{ID}"),
            format!("/a,b/{ID}"),
        ] {
            assert!(is_told(&group, &group), "{group}");
            assert!(is_told(&group, &format!("{group}/init.scope")), "{group}");
            let (above, _) = group.rsplit_once('/').unwrap();
            assert!(above.is_empty() || is_told(above, &group), "{group}");
        }
    }

    #[test]
    fn what_is_not_the_containers() {
        let own = format!("/docker/{ID}");
        for (limit, victim) in [
            (format!("/docker/{OTHER}"), format!("/docker/{OTHER}")),
            // It was another that had to go for all of them.
            ("/docker".to_owned(), format!("/docker/{OTHER}")),
            // A container in the container has a limit of its own.
            (format!("{own}/docker/{OTHER}"), format!("{own}/docker/{OTHER}")),
            (format!("/docker/{ID}0"), format!("/docker/{ID}0")),
            (format!("/docker/{}", &ID[..63]), format!("/docker/{}", &ID[..63])),
            ("/x".to_owned(), format!("/x/crio-conmon-{ID}.scope")),
        ] {
            assert!(!is_told(&limit, &victim), "{victim}");
        }
        // But of the outer container's limit both are told.
        assert!(is_told(&format!("/docker/{OTHER}"), &format!("/docker/{OTHER}/docker/{ID}")));
        let kill = MemoryKill { limit: "/docker".to_owned(), victim: "/docker/abc".to_owned() };
        assert!(!kill.is_of(&ContainerId::new("abc")), "a part of an id says nothing");
    }

    #[test]
    fn records_of_others_say_nothing() {
        let group = format!("/docker/{ID}");
        let text = text(&group, &group);
        assert!(found(&format!("6,1,2,-;{text}\n")).is_some());
        assert!(found(&format!("6,1,2,-,caller=T13;{text}\n SUBSYSTEM=x\n")).is_some());
        for record in [
            // Written through /dev/kmsg by a program, which cannot be the kernel.
            format!("14,1,2,-;{text}\n"),
            format!("6,1,2,-;tail {text}\n"),
            format!("6,1,2,c;{text}\n").replace(BEGIN, "oom-kil"),
            format!("6,1,2,-;{text}\n").replace("_MEMCG", "_NONE"),
            format!("6,1,2,-;{text}\n").replace(",task=tail", ""),
            format!("6,1;{text}\n"),
            format!("x,1,2,-;{text}\n"),
            text.clone(),
            String::new(),
        ] {
            assert_eq!(found(&record), None, "{record}");
        }
        let global = format!(
            "6,1,2,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,\
             global_oom,task_memcg={group},task=tail,pid=1,uid=0\n"
        );
        assert_eq!(found(&global), None);
    }

    #[test]
    fn names_cannot_deceive() {
        let (own, other) = (format!("/docker/{ID}"), format!("/docker/{OTHER}"));
        let text = text(&other, &other);
        // A process may call itself anything of 15 bytes.
        for name in [",task_memcg=/x", ",task=,task=x", ";oom-kill:", "\\x0a6,1,2,-;"] {
            let record = format!("6,1,2,-;{text}\n").replace("=tail", &format!("={name}"));
            let kill = found(&record).unwrap();
            assert_eq!((kill.limit.as_str(), kill.victim.as_str()), (&*other, &*other), "{name}");
        }
        // So may a group, if somebody gives it one.
        for group in [format!("{other}/x,task_memcg={own}"), format!("{other}/,oom_memcg={own}")] {
            let record = format!("6,1,2,-;{}\n", super::tests::text(&group, &group));
            assert_eq!(found(&record), None, "{group}");
        }
    }

    #[test]
    fn a_line_in_pieces_is_put_together() {
        // So Linux 6.18 writes it when another record comes in between.
        let (first, last) = (
            "6,139184,796227716,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,\
             mems_allowed=0,oom_memcg=\n",
            format!("4,139186,796227727,c;/x/{ID},task_memcg=/x/{ID},task=tail,pid=23328,uid=0\n"),
        );
        let mut parser = Parser::default();
        assert_eq!(parser.record(first.as_bytes()), None);
        assert_eq!(parser.record(b"14,139185,796227717,-;another\n"), None);
        assert!(parser.record(last.as_bytes()).unwrap().is_of(&id()));
        assert_eq!(parser.record(last.as_bytes()), None, "it was the end of that one");
    }

    /// A log that gives these, and then nothing for now.
    fn read(state: &mut State, records: Vec<Result<String, Errno>>) -> rustix::io::Result<()> {
        let mut records = records.into_iter();
        let read = |buffer: &mut [u8]| {
            let record = records.next().unwrap_or(Err(Errno::AGAIN))?;
            buffer[..record.len()].copy_from_slice(record.as_bytes());
            Ok(record.len())
        };
        state.take_all(read, Instant::now() + LONGEST_LOOK)
    }

    fn kill_of(id: &str) -> String {
        let group = format!("/docker/{id}");
        format!("6,1,2,-;{}\n", text(&group, &group))
    }

    #[test]
    fn the_log_is_read_to_its_end_over_gaps() {
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
        // What was read stays, and a gap in the midst of a line ends it.
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
    fn as_many_are_remembered_as_there_is_room_for() {
        let mut state = State::default();
        read(&mut state, vec![Ok(kill_of(ID)); REMEMBERED]).unwrap();
        read(&mut state, vec![Ok(kill_of(OTHER))]).unwrap();
        assert_eq!(state.kills.len(), REMEMBERED);
        assert!(!state.kills[REMEMBERED - 1].is_of(&id()));
    }

    #[test]
    fn a_log_without_an_end_is_left() {
        let mut state = State::default();
        let endless = |buffer: &mut [u8]| {
            buffer[..2].copy_from_slice(b"6,");
            Ok(2)
        };
        state.take_all(endless, Instant::now() + Duration::from_millis(20)).unwrap();
    }

    #[tokio::test]
    async fn of_an_unknown_container_nothing_is_told() {
        // Whether the log can be read here or not.
        let log = KernelLog::default();
        assert!(!log.tells_out_of_memory(&id()).await);
        assert!(!log.tells_out_of_memory(&ContainerId::new("x")).await);
    }

    proptest! {
        #[test]
        fn any_record_is_taken(records: Vec<Vec<u8>>, tails: Vec<String>) {
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
        fn pieces_do_not_matter(cuts: Vec<prop::sample::Index>) {
            let group = format!("/docker/{ID}");
            let text = text(&group, &group);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len())).collect();
            cuts.retain(|cut| *cut >= BEGIN.len());
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
