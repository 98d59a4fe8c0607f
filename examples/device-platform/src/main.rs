//! The program: see the library for what it is made of.

use clap::Parser as _;
use device_platform::settings::Settings;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    Settings::parse().run.check()?;
    Err("the components are not wired to msgkit yet".into())
}
