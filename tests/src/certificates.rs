//! A certificate authority of a test's own, made with `openssl`: what servers and clients need to believe each other.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::WorkDir;

/// A folder with `ca.pem`, `server.pem`, `client.pem`, `other-ca.pem` and the keys (`.key`).
#[derive(Debug, Clone)]
pub struct Certificates(WorkDir);

impl Certificates {
    /// A CA, a server on 127.0.0.1 and `localhost`, a client, and another CA that signed neither.
    #[track_caller]
    pub fn new() -> Self {
        let made = Self(WorkDir::new("certificates"));
        for ca in ["ca", "other-ca"] {
            made.openssl(&format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={ca} \
                 -keyout {ca}.key -out {ca}.pem"
            ));
        }
        for (name, purpose) in [("server", "serverAuth,clientAuth"), ("client", "clientAuth")] {
            let extensions =
                format!("subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage={purpose}\n");
            std::fs::write(made.file(&format!("{name}.ext")), extensions).unwrap_or_else(|e| panic!("{e}"));
            made.openssl(&format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
            ));
            made.openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"
            ));
        }
        made
    }

    /// One of the files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The same as text, for configuration files.
    pub fn text(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// Whether whoever listens there completes a handshake with the client.
    pub fn is_spoken_at(&self, address: &str) -> Result<(), String> {
        let words = format!("s_client -connect {address} -cert client.pem -key client.key -CAfile ca.pem");
        let output = Command::new("openssl")
            .args(words.split_whitespace())
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output();
        let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let said = said.map_err(|e| e.to_string())?;
        if said.contains("Verify return code: 0 (ok)") { Ok(()) } else { Err(said) }
    }

    /// Some of them one after the other in a new one; its path.
    #[track_caller]
    pub fn joined(&self, name: &str, parts: &[&str]) -> String {
        let part =
            |part: &&str| std::fs::read_to_string(self.file(part)).unwrap_or_else(|e| panic!("{part}: {e}"));
        let all: String = parts.iter().map(part).collect();
        std::fs::write(self.file(name), all).unwrap_or_else(|e| panic!("{name}: {e}"));
        self.text(name)
    }

    #[track_caller]
    fn openssl(&self, words: &str) {
        let output =
            Command::new("openssl").args(words.split_whitespace()).current_dir(self.0.path()).output();
        let output = output.unwrap_or_else(|e| panic!("cannot run openssl: {e}"));
        assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}
