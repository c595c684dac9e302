//! The control plane: etcd, the API server, the controllers, the scheduler, and a proxy for the
//! tests' own requests.

use crate::machine::Machine;
use crate::network::HUB;
use crate::{Api, PATIENCE};
use serde_json::json;
use std::path::{Path, PathBuf};
use wherry_testing::{cache_dir, daemon_bin, repository, wait_until};

/// The folder of Kubernetes' programs, which `test/k8s/build.sh` builds once for each version.
///
/// # Panics
/// When they cannot be built.
pub(crate) fn programs() -> PathBuf {
    let script = repository().join("test/k8s/build.sh");
    let mut command = std::process::Command::new(&script);
    command.env("WHERRY_K8S", cache_dir().join("kubernetes"));
    command.stderr(std::process::Stdio::inherit());
    let output = command.output().unwrap_or_else(|e| panic!("{}: {e}", script.display()));
    assert!(output.status.success(), "{} failed", script.display());
    let text = String::from_utf8_lossy(&output.stdout);
    PathBuf::from(text.lines().last().unwrap_or_default())
}

/// Starts all of it on a machine, and returns a client when the API server answers.
pub(crate) fn start(hub: &Machine, programs: &Path, pki: &Path) -> Api {
    let root = hub.root();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
    let run = |name: &str, words: &[&str]| hub.spawn(name, &path, words);
    let file = |name: &str| pki.join(name).display().to_string();
    let option = |name: &str, value: &str| format!("--{name}={value}");
    let data = root.join("etcd").display().to_string();
    let etcd = daemon_bin("etcd").join("etcd").display().to_string();
    run(
        "etcd",
        &[
            &etcd,
            "--data-dir",
            &data,
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            // Its data need not outlive the test run.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
    );
    let certificates = root.join("certificates").display().to_string();
    let mut words = vec![
        "kube-apiserver".to_owned(),
        option("etcd-servers", "http://127.0.0.1:2379"),
        option("bind-address", "0.0.0.0"),
        option("advertise-address", HUB),
        option("secure-port", "443"),
        option("service-cluster-ip-range", "10.96.0.0/16"),
        option("authorization-mode", "Node,RBAC"),
        option("service-account-issuer", "https://kubernetes.default.svc"),
        option("cert-dir", &certificates),
        option("endpoint-reconciler-type", "none"),
        option("kubelet-preferred-address-types", "InternalIP"),
        option("allow-privileged", "true"),
        option("enable-aggregator-routing", "true"),
        option("requestheader-allowed-names", "admin"),
        option("requestheader-username-headers", "X-Remote-User"),
        option("requestheader-group-headers", "X-Remote-Group"),
        option("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        option("max-requests-inflight", "2000"),
        option("max-mutating-requests-inflight", "1000"),
        option("v", "1"),
    ];
    for (name, path) in [
        ("client-ca-file", "ca.crt"),
        ("tls-cert-file", "apiserver.crt"),
        ("tls-private-key-file", "apiserver.key"),
        ("service-account-key-file", "sa.pub"),
        ("service-account-signing-key-file", "sa.key"),
        ("kubelet-client-certificate", "admin.crt"),
        ("kubelet-client-key", "admin.key"),
        ("proxy-client-cert-file", "admin.crt"),
        ("proxy-client-key-file", "admin.key"),
        ("requestheader-client-ca-file", "ca.crt"),
    ] {
        words.push(option(name, &file(path)));
    }
    run("apiserver", &words.iter().map(String::as_str).collect::<Vec<_>>());
    let config = option("kubeconfig", &file("admin.conf"));
    let socket = root.join("api.sock");
    let served = option("unix-socket", &socket.display().to_string());
    run("proxy", &["kubectl", &config, "proxy", &served, "--reject-methods="]);
    let api = Api::new(socket);
    wait_until("the API server is ready", PATIENCE, || {
        hub.assert_runs("apiserver");
        hub.assert_runs("proxy");
        api.try_request("GET", "/readyz", None).is_some_and(|answer| answer.status == 200)
    });
    let common = [&config[..], "--bind-address=127.0.0.1", "--leader-elect=false", "--v=1"];
    let key = option("service-account-private-key-file", &file("sa.key"));
    let authority = option("root-ca-file", &file("ca.crt"));
    let controllers = [
        "kube-controller-manager",
        &key,
        &authority,
        "--use-service-account-credentials=false",
        "--kube-api-qps=300",
        "--kube-api-burst=600",
        "--concurrent-deployment-syncs=5",
        "--concurrent-namespace-syncs=20",
        "--horizontal-pod-autoscaler-sync-period=3s",
    ];
    run("controllers", &[&controllers[..], &common].concat());
    run("scheduler", &[&["kube-scheduler"][..], &common].concat());
    api
}

/// Starts a server of resource metrics, and makes it known to the API server.
pub(crate) fn serve_metrics(hub: &Machine, api: &Api) {
    const PORT: u16 = 4443;
    let root = hub.root().parent().expect("the machine is in the cluster's folder");
    let pki = root.join("pki").display().to_string();
    let (server, port) = (format!("https://{HUB}:443"), PORT.to_string());
    let words = ["python3", "-c", include_str!("metrics.py"), &pki, &server, &port];
    hub.spawn("metrics", "/usr/local/bin:/usr/bin:/bin", &words);
    let name = json!({"name": "metrics", "namespace": "kube-system"});
    // A service without a selector: its endpoint is written by hand.
    let services = "/api/v1/namespaces/kube-system/services";
    api.create(services, &json!({"metadata": name, "spec": {"ports": [{"port": PORT}]}}));
    let slice = json!({
        "metadata": {"name": "metrics", "labels": {"kubernetes.io/service-name": "metrics"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [HUB]}], "ports": [{"port": PORT}],
    });
    api.create("/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices", &slice);
    let service = json!({"name": "metrics", "namespace": "kube-system", "port": PORT});
    let group = json!({
        "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1", "service": service,
            "insecureSkipTLSVerify": true, "groupPriorityMinimum": 100, "versionPriority": 100,
        },
    });
    api.create("/apis/apiregistration.k8s.io/v1/apiservices", &group);
    wait_until("the API of metrics is there", PATIENCE, || {
        hub.assert_runs("metrics");
        api.find("/apis/metrics.k8s.io/v1beta1").is_some()
    });
}
