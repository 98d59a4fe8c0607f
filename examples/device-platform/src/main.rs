//! The program: see the library for what it is made of.

use clap::Parser as _;
use device_platform::settings::{CatalogFormat, Command, Component, Settings};
use device_platform::system::{self, System};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    settings.run.check()?;
    match settings.command {
        Some(Command::Check) => {
            for report in system::check(&settings.run).await? {
                println!("{report}");
            }
            return Ok(());
        }
        Some(Command::Catalog { format }) => {
            let catalog = system::catalog(&settings.run).await?;
            print!(
                "{}",
                match format {
                    CatalogFormat::D2 => catalog.to_d2(),
                    CatalogFormat::Mermaid => catalog.to_mermaid(),
                }
            );
            return Ok(());
        }
        None => {}
    }
    let run = settings.run;
    let running = System::start(&run).await?;
    let chosen: Vec<&str> =
        Component::ALL.into_iter().filter(|component| run.runs(*component)).map(Component::as_str).collect();
    println!("running {}", chosen.join(", "));
    match &run.data {
        Some(folder) => println!("messages and measurements are kept in {}", folder.display()),
        None => println!("everything is kept in memory; --data DIR keeps it"),
    }
    if run.runs(Component::DeviceHw) {
        println!("replaying real measurements of one office as three devices, {} times real time", run.speed);
    }
    if let Some(address) = running.address() {
        println!("dashboard and API: http://{address}");
    }
    println!("Ctrl-C drains and stops");
    msgkit::service::shutdown_signal().await;
    println!("draining");
    running.drain().await
}
