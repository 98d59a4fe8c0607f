//! The foreign clients, as child processes.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::Form;
use super::event::Mode;

/// A program of `foreign/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    Pika,
    Paho,
    Npm,
    Confluent,
    Boto,
    Google,
}

/// What is missing.
pub(crate) struct NotInstalled(pub(crate) String);

impl Client {
    pub(crate) fn speaks_amqp(self) -> bool {
        self == Self::Pika
    }

    pub(crate) fn speaks_kafka(self) -> bool {
        self == Self::Confluent
    }

    pub(crate) fn speaks_kinesis(self) -> bool {
        self == Self::Boto
    }

    pub(crate) fn speaks_pubsub(self) -> bool {
        self == Self::Google
    }

    /// What msgkit does not write for it, because the destination's name says it.
    pub(crate) fn is_not_told(self) -> &'static [&'static str] {
        if self.speaks_kafka() { &["topic"] } else { &[] }
    }

    /// All ways in which it can write an event.
    pub(crate) fn forms(self) -> Vec<Form> {
        let bindings: &[Option<&'static str>] = match self {
            Self::Pika => &[Some("amqp"), Some("rabbitmq")],
            Self::Paho | Self::Npm | Self::Confluent | Self::Boto | Self::Google => &[None],
        };
        // A record of Kinesis has no headers.
        let modes: &[Mode] =
            if self.speaks_kinesis() { &[Mode::Structured] } else { &[Mode::Binary, Mode::Structured] };
        let all = bindings.iter().flat_map(|binding| modes.iter().map(|mode| (*mode, *binding)));
        all.map(|(mode, binding)| Form { mode, binding }).collect()
    }

    pub(crate) fn installed(self) -> Result<(), NotInstalled> {
        let needed = match self {
            Self::Pika | Self::Paho | Self::Confluent | Self::Boto | Self::Google => {
                installed("python/bin/python")
            }
            Self::Npm => installed("node/node_modules/cloudevents"),
        };
        if needed.exists() { Ok(()) } else { Err(NotInstalled(needed.display().to_string())) }
    }

    pub(crate) fn start(self, command: &str, address: &str, topic: &str) -> Process {
        let program = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign").join(name);
        let mut process = match self {
            Self::Pika | Self::Paho | Self::Confluent | Self::Boto | Self::Google => {
                Command::new(installed("python/bin/python"))
            }
            Self::Npm => Command::new("node"),
        };
        process.arg(match self {
            Self::Pika => program("amqp.py"),
            Self::Paho => program("mqtt.py"),
            Self::Npm => program("mqtt.cjs"),
            Self::Confluent => program("kafka.py"),
            Self::Boto => program("kinesis.py"),
            Self::Google => program("pubsub.py"),
        });
        let mut child = process
            .args([command, address, topic])
            .env("NODE_PATH", installed("node/node_modules"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the client starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Process { child, input, output }
    }
}

/// Where `make foreign` puts libraries.
fn installed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/foreign").join(path)
}

pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// What it says next.
    pub(crate) async fn line(&mut self) -> String {
        self.output.next_line().await.expect("it says text").expect("it says more; its error is above")
    }

    pub(crate) async fn write(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it is open until the end");
        input.write_all(format!("{line}\n").as_bytes()).await.expect("it reads");
    }

    /// No more is written: what it says to that.
    pub(crate) async fn finish(&mut self) -> String {
        self.input = None;
        self.line().await
    }

    pub(crate) async fn end(mut self) {
        self.child.kill().await.expect("it can be killed");
    }
}
