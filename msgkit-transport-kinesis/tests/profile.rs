//! Region and credentials of a profile, as the configuration names it, reach the service.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A panic is how a test fails.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::Duration;

use msgkit::Registry;
use msgkit::transport::{Health, Options, TransportUrl};

/// What the child is to open; unset in the process that asks for it.
const OPTIONS: &str = "MSGKIT_TEST_PROFILE_OPTIONS";

/// Asks for the transport's health as a process whose environment has the files of a user and nothing else.
fn ask(directory: &std::path::Path, options: &str, more: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command
        .env(OPTIONS, options)
        .env("AWS_CONFIG_FILE", directory.join("config"))
        .env("AWS_SHARED_CREDENTIALS_FILE", directory.join("credentials"))
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(more.iter().copied())
        .output()
        .unwrap()
}

/// The process that `ask` starts; on its own it has nothing to do.
#[tokio::test]
async fn child() {
    let Ok(options) = std::env::var(OPTIONS) else { return };
    let url = TransportUrl::parse("kinesis:///app").unwrap();
    let options = Options::from_toml("[transports.t.kinesis]", &options).unwrap();
    match Registry::new().with(msgkit_transport_kinesis::scheme()).build(&url, options) {
        Err(error) => println!("refused: {}", msgkit::Chain(&error)),
        Ok(transport) => loop {
            match transport.health().await {
                // A busy machine.
                Health::Down(why) if why.contains("does not answer within") => {}
                Health::Down(why) => break println!("down: {why}"),
                other => break println!("health: {other:?}"),
            }
        },
    }
}

fn files() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("config"),
        "[default]\nregion = us-east-1\n[profile plant]\nregion = eu-north-1\n[profile homeless]\noutput = json\n",
    )
    .unwrap();
    std::fs::write(
        directory.path().join("credentials"),
        "[default]\naws_access_key_id = AKIDDEFAULT\naws_secret_access_key = 5ecr3t\n\
         [plant]\naws_access_key_id = AKIDPLANT\naws_secret_access_key = 5ecr3t\n\
         [homeless]\naws_access_key_id = AKIDHOMELESS\naws_secret_access_key = 5ecr3t\n",
    )
    .unwrap();
    directory
}

/// A service that notes who asks, and answers that there are no streams.
fn service() -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut authorization = None;
            for line in BufReader::new(&stream).lines() {
                let Ok(line) = line else { break };
                if line.is_empty() {
                    break;
                }
                if line.to_ascii_lowercase().starts_with("authorization:") {
                    authorization = Some(line);
                }
            }
            let body = r#"{"StreamNames":[],"HasMoreStreams":false}"#;
            // Who asked may have gone.
            let _ = write!(
                &stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\
                 connection: close\r\n\r\n{body}",
                body.len()
            );
            if tell.send(authorization.unwrap_or_default()).is_err() {
                return;
            }
        }
    });
    (address, told)
}

#[test]
fn a_profile_gives_region_and_credentials() {
    let (files, (address, told)) = (files(), service());
    let options = format!("leases = \"memory\"\nendpoint = \"{address}\"\nprofile = \"plant\"\n");
    // The environment has others, and the option is before it.
    let others = [("AWS_ACCESS_KEY_ID", "AKIDENV"), ("AWS_SECRET_ACCESS_KEY", "5ecr3t")];
    let output = ask(files.path(), &options, &others);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("health: Up"), "{said}");
    let who = told.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(who.contains("Credential=AKIDPLANT/"), "{who}");
    assert!(who.contains("/eu-north-1/kinesis/aws4_request"), "{who}");
}

#[test]
fn without_one_they_are_found_as_every_tool_finds_them() {
    let (files, (address, told)) = (files(), service());
    // Not on this machine by its name, or a stand-in would be taken for granted.
    let address = address.replace("127.0.0.1", "[::ffff:127.0.0.1]");
    let output = ask(files.path(), &format!("leases = \"memory\"\nendpoint = \"{address}\"\n"), &[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("health: Up"), "{said}");
    let who = told.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(who.contains("Credential=AKIDDEFAULT/") && who.contains("/us-east-1/kinesis/"), "{who}");
}

#[test]
fn what_is_not_there_is_named_and_no_secret_is() {
    let (files, (address, _told)) = (files(), service());
    for (options, expected) in [
        ("profile = \"absent\"\n", "profile `absent`"),
        ("profile = \"homeless\"\n", "no AWS region was found for profile `homeless`"),
        (
            "profile = \"plant\"\naccess_key_id = \"a\"\nsecret_access_key = \"5ecr3t\"\n",
            "leave one of them out",
        ),
    ] {
        let options = format!("leases = \"memory\"\nendpoint = \"{address}\"\n{options}");
        let output = ask(files.path(), &options, &[]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(expected), "{options}: {said}");
        assert!(!said.contains("5ecr3t"), "{said}");
    }
}
