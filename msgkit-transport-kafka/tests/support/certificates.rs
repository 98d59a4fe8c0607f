//! Certificates that a test makes: an authority, servers and clients, expired ones too.

#![allow(dead_code)] // Each test binary uses a part of it.

use std::error::Error;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// An authority of its own, and a directory for what it signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) file: PathBuf,
    directory: PathBuf,
}

/// A certificate and its key, PEM files.
pub(crate) struct Signed {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    /// A new one.
    pub(crate) fn new(directory: &Path) -> Result<Self, Box<dyn Error>> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "msgkit tests");
        let key = KeyPair::generate()?;
        let file = directory.join("own-authority.pem");
        std::fs::write(&file, params.self_signed(&key)?.pem())?;
        Ok(Self { issuer: Issuer::new(params, key), file, directory: directory.to_owned() })
    }

    /// The authority whose certificate and key are there, PEM.
    pub(crate) fn known(certificate: &Path, key: &Path, directory: &Path) -> Result<Self, Box<dyn Error>> {
        let key = KeyPair::from_pem(&std::fs::read_to_string(key)?)?;
        let issuer = Issuer::from_ca_cert_pem(&std::fs::read_to_string(certificate)?, key)?;
        Ok(Self { issuer, file: certificate.to_owned(), directory: directory.to_owned() })
    }

    /// For a server on this machine; `expired` = years ago.
    pub(crate) fn server(&self, expired: bool) -> Result<Signed, Box<dyn Error>> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if expired {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        self.sign(if expired { "expired" } else { "server" }, &params)
    }

    /// For the client `name`.
    pub(crate) fn client(&self, name: &str) -> Result<Signed, Box<dyn Error>> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, name);
        self.sign(name, &params)
    }

    fn sign(&self, name: &str, params: &CertificateParams) -> Result<Signed, Box<dyn Error>> {
        let key = KeyPair::generate()?;
        let signed = Signed {
            certificate: self.directory.join(format!("{name}.pem")),
            key: self.directory.join(format!("{name}.key")),
        };
        std::fs::write(&signed.certificate, params.signed_by(&key, &self.issuer)?.pem())?;
        std::fs::write(&signed.key, key.serialize_pem())?;
        Ok(signed)
    }
}
