//! Certificates for a broker on this machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::BrokerError;
use super::system::find;

/// An authority of its own, and a certificate from it for `localhost` and `127.0.0.1`, valid for two days.
#[derive(Debug)]
pub(super) struct Certificates {
    pub(super) authority: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

const EXTENSIONS: &str = "\
basicConstraints = CA:FALSE
keyUsage = digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
";

impl Certificates {
    /// Whether they can be made.
    pub(super) fn possible() -> bool {
        find(Path::new("openssl"), &[], |_| true).is_some()
    }

    /// Makes them as PEM files in the directory.
    pub(super) fn make(broker: &'static str, directory: &Path) -> Result<Self, BrokerError> {
        if !Self::possible() {
            return Err(BrokerError::missing(broker, Path::new("openssl")));
        }
        Self::write(directory).map_err(|error| BrokerError::io(broker, "cannot make its certificates", error))
    }

    fn write(directory: &Path) -> io::Result<Self> {
        fs::write(directory.join("tls.ext"), EXTENSIONS)?;
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        for arguments in [
            format!("req -x509 {key} -keyout authority.key -out authority.pem -days 2 -subj /CN=msgkit-tests"),
            format!("req {key} -keyout broker.key -out broker.csr -subj /CN=localhost"),
            "x509 -req -in broker.csr -CA authority.pem -CAkey authority.key -CAcreateserial -out broker.pem -days 2 \
             -extfile tls.ext"
                .to_owned(),
        ] {
            let output = Command::new("openssl")
                .args(arguments.split_ascii_whitespace())
                .current_dir(directory)
                .stdin(Stdio::null())
                .output()?;
            if !output.status.success() {
                return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
            }
        }
        Ok(Self {
            authority: directory.join("authority.pem"),
            certificate: directory.join("broker.pem"),
            key: directory.join("broker.key"),
        })
    }
}
