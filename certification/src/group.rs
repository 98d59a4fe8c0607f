//! The group's members, as this process sees them: child processes, and the journals that they leave.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::ValueEnum as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::Failure;
use crate::journal::Reader;
use crate::member::{Death, READY};

/// How long a member may take to be subscribed, to die where it is told to, or to leave.
const PATIENCE: Duration = Duration::from_secs(120);

/// A group of member processes.
#[derive(Debug)]
pub(crate) struct Group {
    program: PathBuf,
    directory: PathBuf,
    started: usize,
    members: Vec<Running>,
    /// Of members whose journals nobody has taken yet.
    new: Vec<Reader>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// It leaves when this is closed, by us or by our death.
    input: Option<ChildStdin>,
    log: PathBuf,
}

impl Group {
    /// A group whose members are `program member …`, configured by the file `config.toml` of `directory`.
    pub(crate) fn new(program: &Path, directory: &Path) -> Self {
        Self {
            program: program.to_owned(),
            directory: directory.to_owned(),
            started: 0,
            members: Vec::new(),
            new: Vec::new(),
        }
    }

    /// How many members there are.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Starts a member, and waits until it is subscribed.
    pub(crate) async fn join(&mut self, dies: Option<(Death, u64)>) -> Result<(), Failure> {
        self.started += 1;
        let named = |kind: &str| self.directory.join(format!("member-{}.{kind}", self.started));
        let (journal, log) = (named("journal"), named("log"));
        std::fs::File::create(&journal)?;
        let mut command = Command::new(&self.program);
        command.arg("member").arg("--config").arg(self.directory.join("config.toml"));
        command.arg("--journal").arg(&journal);
        if let Some((death, at)) = dies {
            let name = death.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            command.args(["--dies", &name, "--at", &at.to_string()]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        self.new.push(Reader::open(&journal)?);
        let mut running = Running { child, input, log };
        // One that is to die may come to it before it has said that it is there.
        let up = running.is_ready(output).await || dies.is_some() && running.has_died().await;
        if !up {
            let _ = running.child.start_kill();
            return Err(running.failure("did not come up"));
        }
        self.members.push(running);
        Ok(())
    }

    /// SIGKILL for the member at `index`.
    pub(crate) async fn kill(&mut self, index: usize) -> Result<(), Failure> {
        Ok(self.members.remove(index).child.kill().await?)
    }

    /// Has the member at `index` stand still for so long, as a machine does that pauses.
    pub(crate) async fn stand_still(&self, index: usize, time: Duration) -> Result<(), Failure> {
        let member = &self.members[index];
        let id = member.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let Some(id) = id else { return Err(member.failure("ended by itself")) };
        kill_process(id, Signal::STOP).map_err(std::io::Error::from)?;
        tokio::time::sleep(time).await;
        Ok(kill_process(id, Signal::CONT).map_err(std::io::Error::from)?)
    }

    /// Lets the member at `index` leave in good order.
    pub(crate) async fn leave(&mut self, index: usize) -> Result<(), Failure> {
        let mut member = self.members.remove(index);
        drop(member.input.take());
        match timeout(PATIENCE, member.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(member.failure(&format!("left with {status}"))),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(member.failure(&format!("did not leave within {PATIENCE:?}"))),
        }
    }

    /// Waits until the member that joined last has killed itself.
    pub(crate) async fn fallen(&mut self) -> Result<(), Failure> {
        let Some(mut member) = self.members.pop() else {
            return Err(Failure::broken("the group has no member that could die"));
        };
        match timeout(PATIENCE, member.child.wait()).await {
            Ok(Ok(status)) if status.code().is_none() => Ok(()),
            Ok(Ok(status)) => Err(member.failure(&format!("was to be killed, and ended with {status}"))),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(member.failure(&format!("did not get to its death within {PATIENCE:?}"))),
        }
    }

    /// A member that ended without having been told to.
    pub(crate) fn deserter(&mut self) -> Option<Failure> {
        self.members.iter_mut().find_map(|member| match member.child.try_wait() {
            Ok(Some(status)) => Some(member.failure(&format!("ended by itself with {status}"))),
            _ => None,
        })
    }

    /// `what`, and the last words of every member.
    pub(crate) fn explain(&self, what: &str) -> Failure {
        let words: Vec<String> = self.members.iter().map(Running::last_words).collect();
        Failure::broken(format!("{what}; the members said last:\n{}", words.join("\n--\n")))
    }

    /// The journals of members that were started since the last call.
    pub(crate) fn journals(&mut self) -> Vec<Reader> {
        std::mem::take(&mut self.new)
    }
}

impl Running {
    async fn is_ready(&mut self, output: Option<ChildStdout>) -> bool {
        let Some(output) = output else { return false };
        let mut line = String::new();
        let read = timeout(PATIENCE, BufReader::new(output).read_line(&mut line)).await;
        matches!(read, Ok(Ok(_))) && line.trim() == READY
    }

    /// Whether a signal has ended it.
    async fn has_died(&mut self) -> bool {
        let ended = timeout(PATIENCE, self.child.wait()).await;
        matches!(ended, Ok(Ok(status)) if status.code().is_none())
    }

    fn failure(&self, what: &str) -> Failure {
        Failure::broken(format!("a member {what}; it said last:\n{}", self.last_words()))
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}
