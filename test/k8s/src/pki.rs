//! The cluster's certificates and keys, made with `openssl`.

use crate::network::HUB;
use std::fs;
use std::path::Path;
use std::process::Command;
use wherry_testing::call;

/// One certificate: its file's name, subject, and further names.
struct Leaf<'a> {
    name: &'a str,
    subject: &'a str,
    names: String,
}

/// Makes all files in `dir`, and `admin.conf`, the configuration of a client that may do
/// everything.
pub(crate) fn make(dir: &Path, nodes: &[(String, String)]) {
    fs::create_dir_all(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let mut authority = vec!["req", "-x509", "-days", "30", "-subj", "/CN=wherry-tests"];
    authority.extend(key);
    authority.extend(["-keyout", "ca.key", "-out", "ca.crt"]);
    openssl(dir, &authority);
    let leaves = [
        Leaf {
            name: "apiserver",
            subject: "/CN=kube-apiserver",
            names: format!(
                "IP:{HUB},IP:10.96.0.1,IP:127.0.0.1,DNS:localhost,DNS:kubernetes.default.svc"
            ),
        },
        Leaf {
            name: "admin",
            subject: "/O=system:masters/CN=admin",
            names: "DNS:admin".to_owned(),
        },
        Leaf {
            name: "kubelet",
            subject: "/CN=kubelet",
            names: nodes
                .iter()
                .map(|(name, address)| format!("DNS:{name},IP:{address}"))
                .collect::<Vec<_>>()
                .join(","),
        },
    ];
    for leaf in leaves {
        let (secret, request, certificate, extensions) = (
            format!("{}.key", leaf.name),
            format!("{}.csr", leaf.name),
            format!("{}.crt", leaf.name),
            format!("{}.ext", leaf.name),
        );
        let mut words = vec!["req", "-subj", leaf.subject, "-keyout", &secret, "-out", &request];
        words.extend(key);
        openssl(dir, &words);
        let text =
            format!("subjectAltName={}\nextendedKeyUsage=serverAuth,clientAuth\n", leaf.names);
        fs::write(dir.join(&extensions), text).expect("the folder is writable");
        let signed = ["x509", "-req", "-days", "30", "-CA", "ca.crt", "-CAkey", "ca.key"];
        let files = ["-CAcreateserial", "-in", &request, "-out", &certificate];
        openssl(dir, &[&signed[..], &files, &["-extfile", &extensions]].concat());
    }
    openssl(dir, &["genrsa", "-out", "sa.key", "2048"]);
    openssl(dir, &["rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub"]);
    let path = dir.display();
    let config = format!(
        r#"apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "https://{HUB}:443", certificate-authority: {path}/ca.crt}}}}]
users: [{{name: u, user: {{client-certificate: {path}/admin.crt, client-key: {path}/admin.key}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"#
    );
    fs::write(dir.join("admin.conf"), config).expect("the folder is writable");
}

fn openssl(dir: &Path, words: &[&str]) {
    let mut command = Command::new("openssl");
    command.args(words).current_dir(dir);
    call(command, None).success();
}
