//! A temporary directory and the processes that live in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use tempfile::TempDir;

use super::error::BrokerError;

/// How often a process or a port is looked at.
const POLL: Duration = Duration::from_millis(5);
/// How long a killed group may take to go.
const GONE: Duration = Duration::from_secs(10);

/// A directory and processes, each the head of a process group, that end together with this value.
///
/// A second process, the watchdog, waits for the pipe from here to close, which it does when this process dies in any
/// way, and then kills the groups and removes the directory. Only a death in the moment between the start of a process
/// and the watchdog's hearing of it leaves that process behind.
#[derive(Debug)]
pub(super) struct Sandbox {
    processes: Vec<Process>,
    watchdog: Child,
    /// To the watchdog: lines, of which the last names the groups that are alive.
    pipe: Option<ChildStdin>,
    directory: TempDir,
}

#[derive(Debug)]
struct Process {
    name: &'static str,
    child: Child,
    group: Pid,
}

const WATCHDOG: &str = r#"
trap '' HUP INT TERM
groups=
while read -r line; do groups=$line; done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
rm -rf -- "$1"
# What a dying process wrote while the directory was removed.
[ -e "$1" ] && { sleep 1; rm -rf -- "$1"; }
exit 0
"#;

impl Sandbox {
    pub(super) fn new(name: &str) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix(&format!("msgkit-{name}-")).tempdir()?;
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "msgkit-watchdog"])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not of the test's group, so that it outlives what kills that group.
            .process_group(0)
            .spawn()?;
        let pipe = watchdog.stdin.take();
        Ok(Self { processes: Vec::new(), watchdog, pipe, directory })
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Starts a process as the head of its own group; what it prints goes to its log.
    pub(super) fn spawn(&mut self, name: &'static str, command: &mut Command) -> io::Result<()> {
        self.end(name, None);
        let log = OpenOptions::new().create(true).append(true).open(self.log(name))?;
        let child = command
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let group = Pid::from_child(&child);
        self.processes.push(Process { name, child, group });
        self.tell_watchdog()
    }

    /// How the process ended, or `None` while it runs.
    pub(super) fn ended(&mut self, name: &str) -> Option<String> {
        match self.processes.iter_mut().find(|process| process.name == name) {
            None => Some("it is not running".to_owned()),
            Some(process) => match process.child.try_wait() {
                Ok(None) => None,
                Ok(Some(status)) => Some(status.to_string()),
                Err(error) => Some(error.to_string()),
            },
        }
    }

    /// Waits until `greet` is answered, or says what became of the process.
    pub(super) fn ready(
        &mut self,
        broker: &'static str,
        name: &str,
        patience: Duration,
        mut greet: impl FnMut() -> io::Result<()>,
    ) -> Result<(), BrokerError> {
        let mut last = None;
        let outcome = poll(patience, || match greet() {
            Ok(()) => Some(Ok(())),
            Err(error) => {
                last = Some(error);
                self.ended(name).map(Err)
            }
        });
        let what = match outcome {
            Some(Ok(())) => return Ok(()),
            Some(Err(status)) => format!("`{name}` ended at once ({status})"),
            None => format!("not ready after {patience:?}"),
        };
        let message = format!("{what}; {}", self.log_tail(name));
        self.end(name, None);
        Err(BrokerError::not_ready(broker, message, last))
    }

    /// Ends a process and all of its group: asks it first where `patience` says for how long, then kills. Answers whether
    /// it went by itself.
    pub(super) fn end(&mut self, name: &str, patience: Option<Duration>) -> bool {
        let Some(index) = self.processes.iter().position(|process| process.name == name) else { return true };
        let went = self.processes.remove(index).end(patience);
        // Where the pipe is broken the watchdog is dead already, and has done its work.
        let _ = self.tell_watchdog();
        went
    }

    /// The end of what the process printed.
    pub(super) fn log_tail(&self, name: &str) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(self.log(name))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(4000)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        match read() {
            Ok(text) if text.trim().is_empty() => "it printed nothing".to_owned(),
            Ok(text) => format!("it printed last:\n{}", text.trim_end()),
            Err(error) => format!("its log cannot be read: {error}"),
        }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.path().join(format!("{name}.log"))
    }

    fn tell_watchdog(&mut self) -> io::Result<()> {
        let groups: Vec<String> = self.processes.iter().map(|process| process.group.to_string()).collect();
        match &mut self.pipe {
            // One write of less than a pipe's unit: it arrives whole or not at all.
            Some(pipe) => pipe.write_all(format!("{}\n", groups.join(" ")).as_bytes()),
            None => Ok(()),
        }
    }
}

impl Process {
    fn end(mut self, patience: Option<Duration>) -> bool {
        let mut went = false;
        if let Some(patience) = patience {
            let _ = kill_process(self.group, Signal::TERM);
            went = self.wait(patience).is_some();
        }
        // Also after a clean end: its children are in the group. An error means that nobody is left.
        let _ = kill_process_group(self.group, Signal::KILL);
        let _ = self.child.wait();
        // The others are no children of ours. Until they are gone they hold their ports.
        poll(GONE, || (!lives(self.group)).then_some(()));
        went
    }

    fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        poll(patience, || self.child.try_wait().ok().flatten())
    }
}

/// Whether a process of the group still holds what it had open. One that has ended does not, though it stays in the
/// table until somebody waits for it, which in a container may be never.
fn lives(group: Pid) -> bool {
    let list = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    // Its state and group, by proc_pid_stat(5): id (name) state parent group …; the name may hold anything.
    let stat = |directory: &Path| -> Option<(bool, String)> {
        let stat = fs::read_to_string(directory.join("stat")).ok()?;
        let mut fields = stat.rsplit(')').next()?.split_ascii_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X");
        Some((ended, fields.nth(1)?.to_owned()))
    };
    test_kill_process_group(group).is_ok()
        && list(Path::new("/proc"))
            .filter(|process| stat(&process.path()).is_some_and(|(_, its)| its == group.to_string()))
            // The first thread may have ended, while the others have not.
            .flat_map(|process| list(&process.path().join("task")))
            .any(|thread| stat(&thread.path()).is_some_and(|(ended, _)| !ended))
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        while let Some(process) = self.processes.pop() {
            process.end(None);
        }
        let _ = self.tell_watchdog();
        // Removed before the watchdog looks for it; it is not there to be waited for.
        let _ = fs::remove_dir_all(self.path());
        self.pipe = None;
        let _ = self.watchdog.wait();
    }
}

/// Looks until there is something to see.
pub(super) fn poll<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        // Before the look: a machine that stands still looks once more.
        let late = Instant::now() >= end;
        if let Some(seen) = look() {
            return Some(seen);
        }
        if late {
            return None;
        }
        thread::sleep(POLL);
    }
}
