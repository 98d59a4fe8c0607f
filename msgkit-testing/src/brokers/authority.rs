//! Certificates that a test makes: an authority, servers and clients, expired ones too.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use super::error::{BrokerError, BrokerErrorKind};

const NAME: &str = "certificates";

/// An authority that signs certificates for a test, as PEM files in one directory.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
    directory: PathBuf,
}

/// A certificate and its key, PEM files.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Signed {
    /// The certificate's file.
    pub certificate: PathBuf,
    /// The key's file.
    pub key: PathBuf,
}

impl fmt::Debug for Authority {
    /// Without its key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one, which nobody trusts yet.
    ///
    /// # Errors
    /// [`BrokerError`] where its files cannot be written.
    pub fn new(directory: &Path) -> Result<Self, BrokerError> {
        let mut params = CertificateParams::new(Vec::new()).map_err(|error| unsigned(&error))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "msgkit tests");
        let key = KeyPair::generate().map_err(|error| unsigned(&error))?;
        let file = directory.join("own-authority.pem");
        write(&file, &params.self_signed(&key).map_err(|error| unsigned(&error))?.pem())?;
        Ok(Self { issuer: Issuer::new(params, key), file, directory: directory.to_owned() })
    }

    /// The authority whose certificate and key lie there already, PEM: that of a broker.
    ///
    /// # Errors
    /// [`BrokerError`] where they cannot be read.
    pub fn known(certificate: &Path, key: &Path, directory: &Path) -> Result<Self, BrokerError> {
        let key = KeyPair::from_pem(&read(key)?).map_err(|error| unsigned(&error))?;
        let issuer = Issuer::from_ca_cert_pem(&read(certificate)?, key).map_err(|error| unsigned(&error))?;
        Ok(Self { issuer, file: certificate.to_owned(), directory: directory.to_owned() })
    }

    /// Its certificate, for those who are to trust it.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A certificate for a server on this machine; `expired` = years ago.
    ///
    /// # Errors
    /// [`BrokerError`] where its files cannot be written.
    pub fn server(&self, expired: bool) -> Result<Signed, BrokerError> {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).map_err(|error| unsigned(&error))?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if expired {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        self.sign(if expired { "expired" } else { "server" }, &params)
    }

    /// A certificate for the client `name`.
    ///
    /// # Errors
    /// [`BrokerError`] where its files cannot be written.
    pub fn client(&self, name: &str) -> Result<Signed, BrokerError> {
        let mut params = CertificateParams::new(Vec::new()).map_err(|error| unsigned(&error))?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, name);
        self.sign(name, &params)
    }

    fn sign(&self, name: &str, params: &CertificateParams) -> Result<Signed, BrokerError> {
        let key = KeyPair::generate().map_err(|error| unsigned(&error))?;
        let signed = Signed {
            certificate: self.directory.join(format!("{name}.pem")),
            key: self.directory.join(format!("{name}.key")),
        };
        write(
            &signed.certificate,
            &params.signed_by(&key, &self.issuer).map_err(|error| unsigned(&error))?.pem(),
        )?;
        write(&signed.key, &key.serialize_pem())?;
        Ok(signed)
    }
}

fn unsigned(error: &rcgen::Error) -> BrokerError {
    BrokerError::new(NAME, BrokerErrorKind::Refused, format!("cannot be made: {error}"))
}

fn write(file: &Path, text: &str) -> Result<(), BrokerError> {
    fs::write(file, text)
        .map_err(|error| BrokerError::io(NAME, format!("`{}` cannot be written", file.display()), error))
}

fn read(file: &Path) -> Result<String, BrokerError> {
    fs::read_to_string(file)
        .map_err(|error| BrokerError::io(NAME, format!("`{}` cannot be read", file.display()), error))
}
