//! TLS of the TCP listeners, in dockerd's words and with their meaning.

pub(crate) mod detect;

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, bail};
use clap::builder::BoolishValueParser;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
        server::{NoServerSessionStorage, WebPkiClientVerifier},
    },
    server::TlsStream,
};

/// Where files are that an option does not name.
pub(crate) const FOLDER: &str = "/etc/docker";

/// What dockerd takes from its environment, and this service from its own.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Environment {
    /// As --tlsverify, if it is not empty, whatever it says, as for dockerd; --tlsverify=false goes before it. compose.yaml
    /// does not pass it on: a shell's is a client's.
    #[arg(long, env = "DOCKER_TLS_VERIFY", value_name = "WORD")]
    docker_tls_verify: Option<String>,

    /// Folder of ca.pem, cert.pem and key.pem, as for dockerd: of those that neither --tlscacert, --tlscert and --tlskey nor
    /// the engine's settings name. Default: the engine's where its settings are used, else /etc/docker. compose.yaml does
    /// not pass it on: a shell's has a client's certificates.
    #[arg(long, env = "DOCKER_CERT_PATH", value_name = "PATH")]
    docker_cert_path: Option<PathBuf>,
}

impl Environment {
    /// Returns the settings, and what is set here only.
    #[must_use]
    pub(crate) fn complete(&self, mut settings: Settings) -> Settings {
        let verify = self.docker_tls_verify.as_ref().is_some_and(|word| !word.is_empty());
        settings.tlsverify = settings.tlsverify.or(verify.then_some(true));
        settings
    }

    /// Returns the folder of files that are not named, if it is set.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.docker_cert_path.as_deref().filter(|path| !path.as_os_str().is_empty())
    }
}

/// TLS settings in dockerd's words; what is not there was not set.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, serde::Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Offer the Docker API by TCP with TLS only, and ask clients for no certificate; =false: without TLS, whatever the
    /// engine does. Without --tls and --tlsverify, it is done as the engine's command line and /etc/docker/daemon.json say.
    #[arg(long, env = "WEFT_DOCKER_PROXY_TLS", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub tls: Option<bool>,

    /// Offer the Docker API by TCP with TLS only, to clients with a certificate that --tlscacert has signed; =false: as
    /// --tls, as for dockerd.
    #[arg(long, env = "WEFT_DOCKER_PROXY_TLSVERIFY", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub tlsverify: Option<bool>,

    /// Certificates of those who sign clients' certificates. Default: the engine's where its settings are used, else
    /// /etc/docker/ca.pem.
    #[arg(long, env = "WEFT_DOCKER_PROXY_TLSCACERT", value_name = "PATH")]
    pub tlscacert: Option<PathBuf>,

    /// Certificate to show to clients, followed by those between it and its root. Default: the engine's where its settings
    /// are used, else /etc/docker/cert.pem. All three files are read anew when they change.
    #[arg(long, env = "WEFT_DOCKER_PROXY_TLSCERT", value_name = "PATH")]
    pub tlscert: Option<PathBuf>,

    /// Key of that certificate. Default: the engine's where its settings are used, else /etc/docker/key.pem.
    #[arg(long, env = "WEFT_DOCKER_PROXY_TLSKEY", value_name = "PATH")]
    pub tlskey: Option<PathBuf>,
}

impl Settings {
    /// Returns these, and what is set in `others` only.
    #[must_use]
    pub(crate) fn or(self, others: Self) -> Self {
        Self {
            tls: self.tls.or(others.tls),
            tlsverify: self.tlsverify.or(others.tlsverify),
            tlscacert: self.tlscacert.or(others.tlscacert),
            tlscert: self.tlscert.or(others.tlscert),
            tlskey: self.tlskey.or(others.tlskey),
        }
    }

    /// Tells whether they say if there is TLS.
    pub(crate) const fn say_whether(&self) -> bool {
        self.tls.is_some() || self.tlsverify.is_some()
    }

    /// Tells whether a file is named.
    pub(crate) const fn name_files(&self) -> bool {
        self.tlscacert.is_some() || self.tlscert.is_some() || self.tlskey.is_some()
    }

    /// Returns what TLS needs, if there is TLS; `folder` has what is not named.
    pub(crate) fn files(self, folder: &Path) -> Option<Files> {
        // As for dockerd: whoever speaks of verification wants TLS.
        (self.tls == Some(true) || self.tlsverify.is_some()).then(|| Files {
            certificate: self.tlscert.unwrap_or_else(|| folder.join("cert.pem")),
            key: self.tlskey.unwrap_or_else(|| folder.join("key.pem")),
            clients: (self.tlsverify == Some(true)).then(|| self.tlscacert.unwrap_or_else(|| folder.join("ca.pem"))),
        })
    }
}

/// Files of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    /// Who signs clients' certificates; nothing where clients need none.
    clients: Option<PathBuf>,
}

/// What tells one state of a file from another.
type Stamp = Option<(i64, i64, u64, u64)>;

impl Files {
    fn stamps(&self) -> [Stamp; 3] {
        let stamp = |path: &Path| {
            let file = fs::metadata(path).ok()?;
            Some((file.mtime(), file.mtime_nsec(), file.ino(), file.len()))
        };
        [stamp(&self.certificate), stamp(&self.key), self.clients.as_deref().and_then(stamp)]
    }

    fn load(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let provider = Arc::new(ring::default_provider());
        // TLS 1.2 and 1.3; earlier versions are not known here.
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .context("TLS cannot be used")?;
        let config = match &self.clients {
            None => config.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(path)? {
                    roots
                        .add(root)
                        .with_context(|| format!("{} has a certificate that signs nothing", path.display()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                config.with_client_cert_verifier(verifier.build().context("clients cannot be verified")?)
            }
        };
        let (chain, key) = (certificates(&self.certificate)?, key(&self.key)?);
        let mut config = config.with_single_cert(chain, key).with_context(|| {
            format!(
                "the certificate in {} and the key in {} cannot be used",
                self.certificate.display(),
                self.key.display()
            )
        })?;
        // As dockerd, whose clients would otherwise be asked for HTTP/2 by some libraries.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A client is verified each time that it connects.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let unreadable = || format!("failed to read certificates from {}", path.display());
    let read = CertificateDer::pem_file_iter(path).map_err(readable).with_context(unreadable)?;
    let found = read.collect::<Result<Vec<_>, _>>().map_err(readable).with_context(unreadable)?;
    if found.is_empty() {
        bail!("there is no certificate in {}: it should be there as PEM", path.display());
    }
    Ok(found)
}

fn key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).map_err(readable).with_context(|| {
        format!("failed to read a key from {}: it should be there as PEM, without a passphrase", path.display())
    })
}

/// Says of errors of the operating system what that says.
fn readable(error: pem::Error) -> anyhow::Error {
    if let pem::Error::Io(error) = error { error.into() } else { error.into() }
}

/// Takes clients in by TLS. Clones share the certificates.
#[derive(Debug, Clone)]
pub(crate) struct Acceptor(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    files: Files,
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    /// Of the files that were tried last.
    stamps: [Stamp; 3],
    config: Arc<ServerConfig>,
}

impl Acceptor {
    /// Reads the files.
    ///
    /// # Errors
    /// If one cannot be read, or not used.
    pub(crate) fn load(files: Files) -> anyhow::Result<Self> {
        let stamps = files.stamps();
        let config = files.load()?;
        Ok(Self(Arc::new(Shared { files, loaded: Mutex::new(Loaded { stamps, config }) })))
    }

    /// Tells whether clients need a certificate.
    pub(crate) fn verifies(&self) -> bool {
        self.0.files.clients.is_some()
    }

    /// Returns the certificate's file.
    pub(crate) fn certificate(&self) -> &Path {
        &self.0.files.certificate
    }

    /// Agrees on keys with a client, and verifies it.
    ///
    /// # Errors
    /// If the client is not let in, or does not speak TLS; it has been told then.
    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        TlsAcceptor::from(self.present()).accept(stream).await
    }

    /// Returns the files' present contents, or the last that could be used.
    fn present(&self) -> Arc<ServerConfig> {
        let stamps = self.0.files.stamps();
        let mut loaded = self.0.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if stamps != loaded.stamps {
            loaded.stamps = stamps;
            match self.0.files.load() {
                Ok(config) => {
                    loaded.config = config;
                    tracing::info!("the certificates changed and are used from now on");
                }
                Err(error) => tracing::warn!("the certificates changed, and those before are used: {error:#}"),
            }
        }
        Arc::clone(&loaded.config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_what_they_mean_to_dockerd() {
        let files = |settings: Settings| settings.files(Path::new("/f"));
        let settings = |tls, tlsverify| Settings { tls, tlsverify, ..Settings::default() };
        assert_eq!(files(Settings::default()), None);
        assert_eq!(files(settings(Some(false), None)), None);
        let plain = Files { certificate: "/f/cert.pem".into(), key: "/f/key.pem".into(), clients: None };
        assert_eq!(files(settings(Some(true), None)), Some(plain.clone()));
        assert_eq!(files(settings(None, Some(false))), Some(plain.clone()));
        let verified = Files { clients: Some("/f/ca.pem".into()), ..plain };
        assert_eq!(files(settings(None, Some(true))), Some(verified.clone()));
        assert_eq!(files(settings(Some(false), Some(true))), Some(verified));
        let named = Settings {
            tlscacert: Some("/a".into()),
            tlscert: Some("/b".into()),
            tlskey: Some("/c".into()),
            ..settings(None, Some(true))
        };
        let expected = Files { certificate: "/b".into(), key: "/c".into(), clients: Some("/a".into()) };
        assert_eq!(files(named.clone()), Some(expected));
        // What is given goes before what is found.
        let found = Settings { tlscert: Some("/x".into()), ..settings(Some(true), Some(false)) };
        let both = Settings { tls: Some(true), ..named.clone() };
        assert_eq!(named.or(found), both);
    }

    #[test]
    fn the_environment_means_what_it_means_to_dockerd() {
        let files = |verify: &str, path: &str, settings| {
            let environment =
                Environment { docker_tls_verify: Some(verify.to_owned()), docker_cert_path: Some(path.into()) };
            environment.complete(settings).files(environment.folder().unwrap_or(Path::new("/f")))
        };
        let of = |folder: &str, verified: bool| {
            let path = |name: &str| Path::new(folder).join(name);
            let clients = verified.then(|| path("ca.pem"));
            Some(Files { certificate: path("cert.pem"), key: path("key.pem"), clients })
        };
        let settings = |tls, tlsverify| Settings { tls, tlsverify, ..Settings::default() };
        assert_eq!(files("", "", Settings::default()), None);
        // A folder alone asks for nothing.
        assert_eq!(files("", "/e", Settings::default()), None);
        assert_eq!(files("", "/e", settings(Some(true), None)), of("/e", false));
        // Any word but none.
        for word in ["1", "true", "0", "false", "no"] {
            assert_eq!(files(word, "", Settings::default()), of("/f", true), "{word}");
        }
        assert_eq!(files("1", "/e", Settings::default()), of("/e", true));
        // What is given goes before it; of --tls, that is what dockerd does, too.
        assert_eq!(files("1", "/e", settings(None, Some(false))), of("/e", false));
        assert_eq!(files("1", "/e", settings(Some(false), None)), of("/e", true));
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let files = Files {
            certificate: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
            clients: Some(folder.path().join("ca.pem")),
        };
        let error = || format!("{:#}", Acceptor::load(files.clone()).expect_err("refused"));
        assert!(error().contains("ca.pem: No such file"), "{}", error());
        fs::write(folder.path().join("ca.pem"), "no certificate").expect("written");
        assert!(error().contains("no certificate in") && error().contains("ca.pem"), "{}", error());
    }
}
