"""The API of resource metrics, metrics.k8s.io, for HorizontalPodAutoscalers: what the kubelets say, passed on.

Arguments: the folder of the cluster's certificates, the address of the API server, the port to serve on.
"""
import http.server
import json
import re
import ssl
import sys
import urllib.request

pki, server, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = ssl.create_default_context(cafile=f"{pki}/ca.crt")
client.load_cert_chain(f"{pki}/admin.crt", f"{pki}/admin.key")
GROUP = "metrics.k8s.io/v1beta1"


def get(path):
    with urllib.request.urlopen(server + path, context=client, timeout=10) as answer:
        return json.load(answer)


def pods(namespace):
    for node in get("/api/v1/nodes")["items"]:
        summary = get(f"/api/v1/nodes/{node['metadata']['name']}/proxy/stats/summary")
        for pod in summary.get("pods", []):
            reference = pod["podRef"]
            known = [c for c in pod.get("containers", []) if "usageNanoCores" in c.get("cpu", {})]
            if reference["namespace"] != namespace or not known:
                continue
            yield {
                "metadata": {"name": reference["name"], "namespace": namespace},
                "timestamp": known[0]["cpu"]["time"],
                "window": "10s",
                "containers": [
                    {
                        "name": container["name"],
                        "usage": {
                            "cpu": f"{container['cpu']['usageNanoCores']}n",
                            "memory": str(container["memory"].get("workingSetBytes", 0)),
                        },
                    }
                    for container in known
                ],
            }


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.split("?")[0]
        match = re.fullmatch(f"/apis/{GROUP}/namespaces/([^/]+)/pods", path)
        if match:
            body = {"kind": "PodMetricsList", "apiVersion": GROUP, "metadata": {}, "items": list(pods(match[1]))}
        elif path == f"/apis/{GROUP}":
            resource = {"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics", "verbs": ["get", "list"]}
            body = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP, "resources": [resource]}
        else:
            body = None
        data = json.dumps(body).encode()
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


served = http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{pki}/apiserver.crt", f"{pki}/apiserver.key")
served.socket = context.wrap_socket(served.socket, server_side=True)
served.serve_forever()
