//! A test that starts itself again as a child, which says on its standard output how far it is and reads from its
//! standard input when to go on.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const ROLE: &str = "MSGKIT_SQLITE_TEST_ROLE";
const FILE: &str = "MSGKIT_SQLITE_TEST_FILE";

/// What this process is to do, and on which file; `None` in the test itself.
pub(crate) fn role() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(FILE)?.into()))
}

/// Tells the test something; what is said is with it even if this process is killed right after.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "> {line}").and_then(|()| out.flush()).expect("the test listens");
}

/// A child, killed when it is dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    pub(crate) input: Option<ChildStdin>,
}

impl Process {
    pub(crate) fn start(role: &str, file: &Path) -> Self {
        Self::start_with(role, file, &[])
    }

    /// With environment variables of its own.
    pub(crate) fn start_with(role: &str, file: &Path, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(FILE, file)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let input = child.stdin.take();
        Self { child, lines, input }
    }

    /// What it says next; `None` where it is dead.
    pub(crate) fn next(&mut self) -> Option<String> {
        self.lines.by_ref().find_map(|line| match line {
            Ok(line) => line.split_once("> ").map(|(_, said)| Some(said.to_owned())),
            Err(_) => Some(None),
        })?
    }

    /// SIGTERM: it may drain.
    pub(crate) fn terminate(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIGTERM is sent");
    }

    /// SIGKILL; gives what it had said and nobody had read.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::iter::from_fn(|| self.next()).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
