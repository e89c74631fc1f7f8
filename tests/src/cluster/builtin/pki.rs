//! Keys, certificates and kubeconfigs of a built-in cluster.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{NODES, net};
use crate::cmd::Cmd;

const DAYS: &str = "3650";
const CURVE: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// The folder of the keys and what is in it.
#[derive(Debug, Clone)]
pub struct Pki {
    pub dir: PathBuf,
}

impl Pki {
    /// Makes all of them anew in `dir`.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let pki = Self { dir: dir.to_path_buf() };
        // openssl's own default configuration would add the extensions of an authority to every certificate.
        fs::write(pki.path("openssl.cnf"), "[req]\ndistinguished_name = dn\n[dn]\n")?;
        pki.openssl(&["-subj", "/CN=weir-cluster", "-addext", "basicConstraints=critical,CA:true"], "ca")?;
        Cmd::new("openssl")
            .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "sa.key"])
            .dir(dir)
            .run()?;
        Cmd::new("openssl").args(["pkey", "-in", "sa.key", "-pubout", "-out", "sa.pub"]).dir(dir).run()?;
        let api = format!(
            "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:{},IP:{}",
            net::CONTROL_PLANE,
            net::API_SERVICE
        );
        pki.issue("apiserver", "/CN=apiserver", &api)?;
        pki.issue("admin", "/O=system:masters/CN=admin", "DNS:none")?;
        pki.issue("controller-manager", "/CN=system:kube-controller-manager", "DNS:none")?;
        pki.issue("scheduler", "/CN=system:kube-scheduler", "DNS:none")?;
        pki.issue("proxy", "/CN=system:kube-proxy", "DNS:none")?;
        for node in NODES {
            let names = format!("DNS:{node},IP:{}", net::node_address(node));
            pki.issue(node, &format!("/O=system:nodes/CN=system:node:{node}"), &names)?;
        }
        Ok(pki)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// The path of a file as a flag's value.
    pub fn arg(&self, file: &str) -> String {
        self.path(file).display().to_string()
    }

    fn issue(&self, name: &str, subject: &str, names: &str) -> Result<()> {
        let names = format!("subjectAltName={names}");
        self.openssl(
            &[
                "-CA",
                "ca.crt",
                "-CAkey",
                "ca.key",
                "-subj",
                subject,
                "-addext",
                &names,
                "-addext",
                "basicConstraints=critical,CA:false",
                "-addext",
                "keyUsage=critical,digitalSignature,keyEncipherment",
                "-addext",
                "extendedKeyUsage=serverAuth,clientAuth",
            ],
            name,
        )
    }

    fn openssl(&self, args: &[&str], name: &str) -> Result<()> {
        Cmd::new("openssl")
            .args(["req", "-x509", "-nodes", "-config", "openssl.cnf", "-days", DAYS])
            .args(CURVE)
            .args(args)
            .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")])
            .dir(&self.dir)
            .run()
            .with_context(|| format!("cannot make the certificate of {name}"))
    }

    /// Writes a kubeconfig for the certificate `user`; the keys are in it, so that it can be copied.
    pub fn kubeconfig(&self, user: &str, server: &str, cluster: &str, to: &Path) -> Result<()> {
        let data = |file: String| -> Result<Value> { Ok(STANDARD.encode(fs::read(self.path(&file))?).into()) };
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": cluster, "cluster": {
                "server": server,
                "certificate-authority-data": data("ca.crt".into())?,
            }}],
            "users": [{"name": user, "user": {
                "client-certificate-data": data(format!("{user}.crt"))?,
                "client-key-data": data(format!("{user}.key"))?,
            }}],
            "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
            "current-context": cluster,
        });
        write_secret(to, &serde_json::to_vec_pretty(&config)?)
    }
}

fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .with_context(|| format!("cannot write {}", path.display()))
}
