//! The program: see the library for what it is made of.

use std::process::ExitCode;

use clap::Parser as _;
use device_platform::settings::{CatalogFormat, Command, Component, Run, Settings};
use device_platform::system::{self, System};

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    // A broker that cannot be reached is a warning. The clients of RabbitMQ and MQTT also warn of what the transports ask for and
    // deal with: whether a queue or a subscription is there.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,lapin=off,rumqttc=error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match act(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain, in one line.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn act(settings: Settings) -> anyhow::Result<()> {
    settings.run.check()?;
    match settings.command {
        Some(Command::Check) => print!("{}", system::check(&settings.run).await?),
        Some(Command::Catalog { format }) => {
            let catalog = system::catalog(&settings.run).await?;
            print!(
                "{}",
                match format {
                    CatalogFormat::D2 => catalog.to_d2(),
                    CatalogFormat::Mermaid => catalog.to_mermaid(),
                }
            );
        }
        None => run(&settings.run).await?,
    }
    Ok(())
}

async fn run(run: &Run) -> anyhow::Result<()> {
    let mut shutdown = msgkit::service::Shutdown::listen();
    let running = tokio::select! {
        biased;
        running = System::start(run) => running?,
        () = shutdown.requested() => return Ok(()),
    };
    let chosen: Vec<&str> =
        Component::ALL.into_iter().filter(|component| run.runs(*component)).map(Component::as_str).collect();
    println!("running {}", chosen.join(", "));
    for line in run.kept() {
        println!("{line}");
    }
    if run.runs(Component::DeviceHw) {
        let on = match running.replayed() {
            0 => String::new(),
            before => format!(", on from where it was: {before} are behind it"),
        };
        println!(
            "replaying real measurements of one office as three devices, {} times real time{on}",
            run.speed
        );
    }
    if let Some(address) = running.address() {
        println!("dashboard and API: http://{address}");
    }
    println!("Ctrl-C drains and stops");
    shutdown.requested().await;
    println!("draining");
    running.drain().await
}
