//! Certificates for tests.

use std::{fs, path::Path};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Somebody who signs certificates. None has an expiry that matters.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one with a key of its own.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
        Ok(Self { issuer })
    }

    /// Returns its own certificate, as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Signs a certificate for names or addresses, and writes it, its key, and the authority's own certificate to a folder, by
    /// the names that Docker has for them: `cert.pem`, `key.pem`, `ca.pem`.
    ///
    /// # Errors
    /// If a name makes no sense, or the folder cannot be written.
    pub fn write(&self, folder: &Path, names: &[&str]) -> anyhow::Result<()> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(names)?.signed_by(&key, &self.issuer)?;
        fs::create_dir_all(folder)?;
        let files = [("ca.pem", self.pem()), ("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())];
        for (name, text) in files {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        }
        Ok(())
    }
}
