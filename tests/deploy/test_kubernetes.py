"""The manifests, as kustomize renders them: valid, and as careful as they promise to be."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bento.worker.counters import families

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBECTL = Path(sys.executable).with_name("kubectl")
OLDEST, NEWEST = "1.30", "1.37"
UNKNOWN = {"ServiceMonitor": Path(__file__).with_name("servicemonitor.schema.json")}


def rendered(folder):
    done = subprocess.run(
        [KUBECTL, "kustomize", folder],
        capture_output=True,
        text=True,
        env=os.environ | {"KUBECONFIG": os.devnull},
        timeout=60,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


@pytest.fixture(scope="module", params=["overlays/cpu", "overlays/gpu", "token"])
def objects(request, tmp_path_factory):
    if request.param != "token":
        return rendered(DEPLOY / request.param)
    folder = tmp_path_factory.mktemp("token")
    to = os.path.relpath(DEPLOY, folder)
    (folder / "kustomization.yaml").write_text(
        f"resources: [{to}/overlays/cpu]\ncomponents: [{to}/token]\n"
    )
    return rendered(folder)


def of(objects, kind, name=None):
    found = [each for each in objects if each["kind"] == kind]
    return [each for each in found if name is None or each["metadata"]["name"] == name]


def one(objects, kind, name):
    (found,) = of(objects, kind, name)
    return found


def pods(objects):
    found = {
        each["metadata"]["name"]: each["spec"]["template"] for each in of(objects, "Deployment")
    }
    assert set(found) == {"toolkit", "nginx"}
    return found


def containers(objects):
    for template in pods(objects).values():
        spec = template["spec"]
        assert "initContainers" not in spec
        yield from ((spec, each) for each in spec["containers"])


def chosen(objects, labels):
    """The names of the deployments whose pods have these labels."""
    assert labels
    return {
        name
        for name, template in pods(objects).items()
        if labels.items() <= template["metadata"]["labels"].items()
    }


def test_every_object_is_valid_and_none_is_unknown(objects):
    # These take longer to import than all else that is collected here.
    import jsonschema
    import kubernetes_validate

    for each in objects:
        if schema := UNKNOWN.get(each["kind"]):
            jsonschema.validate(each, json.loads(schema.read_text()))
        else:
            # Raises for a kind that it does not know, as for a field.
            for version in (OLDEST, NEWEST):
                assert kubernetes_validate.validate(each, version, strict=True) == version
    assert f"Kubernetes {OLDEST} or newer" in (DEPLOY / "README.md").read_text()


def test_a_misspelt_field_would_be_caught(objects):
    import kubernetes_validate

    deployment = one(objects, "Deployment", "toolkit")
    spec = deployment["spec"] | {"replica": 3}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment | {"spec": spec}, NEWEST, strict=True)


def test_every_object_is_in_the_namespace_that_dns_names(objects):
    for each in objects:
        if each["kind"] != "Namespace":
            assert each["metadata"]["namespace"] == "toolkit", each["metadata"]["name"]
    labels = one(objects, "Namespace", "toolkit")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_container_may_do_more_than_it_must(objects):
    for spec, container in containers(objects):
        pod, own = spec["securityContext"], container["securityContext"]
        assert pod["runAsNonRoot"] is True and pod["runAsUser"] > 0 and pod["runAsGroup"] > 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in own and "runAsUser" not in own
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert all(set(each) & {"emptyDir", "configMap"} for each in spec["volumes"])


def test_what_is_written_goes_to_a_bounded_tmp(objects):
    for spec, container in containers(objects):
        (tmp,) = [each for each in spec["volumes"] if each["name"] == "tmp"]
        assert tmp["emptyDir"]["sizeLimit"]
        writable = [each for each in container["volumeMounts"] if not each.get("readOnly")]
        assert writable == [{"name": "tmp", "mountPath": "/tmp"}]
    environment = environment_of(objects)
    assert environment["HOME"] == "/tmp" and environment["BENTOML_HOME"].startswith("/tmp/")
    (proxy,) = [each for each in pods(objects)["nginx"]["spec"]["volumes"] if each["name"] == "tmp"]
    assert proxy["emptyDir"]["medium"] == "Memory", "X-rays that nginx buffers reach no disk"


def environment_of(objects):
    (container,) = pods(objects)["toolkit"]["spec"]["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def test_every_container_has_requests_limits_and_all_three_probes(objects):
    for _, container in containers(objects):
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][kind])
        ports = {each["name"] for each in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] in ports
    (service,) = pods(objects)["toolkit"]["spec"]["containers"]
    assert service["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert service["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert service["livenessProbe"]["httpGet"]["path"] == "/livez"


def test_a_pod_has_time_to_leave_the_dns_and_to_finish(objects):
    valid = int(re.search(r"valid=(\d+)s", (DEPLOY / "nginx/cluster/replicas.conf").read_text())[1])
    for name, drain in {"toolkit": 15, "nginx": 30}.items():
        spec = pods(objects)[name]["spec"]
        wait = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert wait > valid
        assert spec["terminationGracePeriodSeconds"] >= wait + drain + 5


def test_labels_select_what_they_are_meant_to(objects):
    for each in of(objects, "Deployment"):
        assert chosen(objects, each["spec"]["selector"]["matchLabels"]) == {
            each["metadata"]["name"]
        }
        for spread in each["spec"]["template"]["spec"]["topologySpreadConstraints"]:
            found = chosen(objects, spread["labelSelector"]["matchLabels"])
            assert found == {each["metadata"]["name"]}
    for kind in ("PodDisruptionBudget", "Service"):
        found = of(objects, kind)
        assert {each["metadata"]["name"] for each in found} == {"toolkit", "nginx"}
        for each in found:
            selector = each["spec"]["selector"]
            assert chosen(objects, selector.get("matchLabels", selector)) == {
                each["metadata"]["name"]
            }
    target = one(objects, "HorizontalPodAutoscaler", "toolkit")["spec"]["scaleTargetRef"]
    assert one(objects, target["kind"], target["name"])["apiVersion"] == target["apiVersion"]
    monitor = one(objects, "ServiceMonitor", "toolkit")["spec"]
    (service,) = [
        each
        for each in of(objects, "Service")
        if monitor["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
    ]
    assert service["metadata"]["name"] == "toolkit"
    assert monitor["endpoints"][0]["port"] in {each["name"] for each in service["spec"]["ports"]}


def test_a_service_leads_to_a_port_of_its_container(objects):
    for each in of(objects, "Service"):
        (container,) = pods(objects)[each["metadata"]["name"]]["spec"]["containers"]
        for port in each["spec"]["ports"]:
            assert port["targetPort"] in {known["name"] for known in container["ports"]}


def test_the_autoscaler_alone_says_how_many_replicas_there_are(objects):
    assert "replicas" not in one(objects, "Deployment", "toolkit")["spec"]
    spec = one(objects, "HorizontalPodAutoscaler", "toolkit")["spec"]
    assert 2 <= spec["minReplicas"] <= spec["maxReplicas"]


def test_the_autoscaler_goes_by_a_metric_that_the_service_gives(objects):
    (metric,) = one(objects, "HorizontalPodAutoscaler", "toolkit")["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name == "toolkit_requests_in_flight"
    assert f"seriesQuery: '{name}{{" in (DEPLOY / "README.md").read_text()
    given = {f"toolkit_{each.name}": each.kind for each in families(("none",), ("predict",))}
    assert given[name] == "gauge"


def test_only_the_proxy_and_monitoring_reach_the_service_and_it_reaches_nobody(objects):
    spec = one(objects, "NetworkPolicy", "toolkit")["spec"]
    assert chosen(objects, spec["podSelector"]["matchLabels"]) == {"toolkit"}
    assert spec["policyTypes"] == ["Ingress", "Egress"] and spec.get("egress", []) == []
    (rule,) = spec["ingress"]
    proxy, monitoring = rule["from"]
    assert set(proxy) == {"podSelector"} and set(monitoring) == {"namespaceSelector"}
    assert chosen(objects, proxy["podSelector"]["matchLabels"]) == {"nginx"}
    assert monitoring["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "monitoring"
    }


def test_the_proxy_reaches_only_the_service_and_the_dns(objects):
    spec = one(objects, "NetworkPolicy", "nginx")["spec"]
    assert chosen(objects, spec["podSelector"]["matchLabels"]) == {"nginx"}
    service, dns = spec["egress"]
    (port,) = one(objects, "Service", "toolkit")["spec"]["ports"]
    assert [each["port"] for each in service["ports"]] == [port["port"]]
    (peer,) = service["to"]
    assert chosen(objects, peer["podSelector"]["matchLabels"]) == {"toolkit"}
    assert {each["port"] for each in dns["ports"]} == {53}


def test_the_proxy_runs_the_configuration_that_is_tested(objects):
    (volume,) = [
        each
        for each in pods(objects)["nginx"]["spec"]["volumes"]
        if each["name"] == "configuration"
    ]
    data = one(objects, "ConfigMap", volume["configMap"]["name"])["data"]
    assert data == {
        "nginx.conf": (DEPLOY / "nginx/nginx.conf").read_text(),
        "replicas.conf": (DEPLOY / "nginx/cluster/replicas.conf").read_text(),
    }
    service = one(objects, "Service", "toolkit")
    assert service["spec"]["clusterIP"] == "None"
    name, space = service["metadata"]["name"], service["metadata"]["namespace"]
    assert f"{name}.{space}.svc.cluster.local:3000" in data["replicas.conf"]
    (container,) = pods(objects)["nginx"]["spec"]["containers"]
    for port in container["ports"]:
        assert f"listen {port['containerPort']}" in data["nginx.conf"]
    assert volume["configMap"]["name"] != "nginx", "its name has its hash, so a change rolls out"


def test_settings_are_those_of_the_service_and_a_change_rolls_out(objects):
    (container,) = pods(objects)["toolkit"]["spec"]["containers"]
    (source,) = container["envFrom"]
    name = source["configMapRef"]["name"]
    assert name.startswith("settings-")
    settings = one(objects, "ConfigMap", name)["data"]
    assert set(settings) == {"TOOLKIT_PROVIDER", "TOOLKIT_WORKERS"}
    on_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
    assert settings["TOOLKIT_PROVIDER"] == ("cuda" if on_gpu else "cpu")


def test_a_pod_serves_the_model_that_its_image_names(objects):
    assert "TOOLKIT_MODEL=${MODEL}" in (ROOT / "bento/image/Dockerfile").read_text()
    (container,) = pods(objects)["toolkit"]["spec"]["containers"]
    (source,) = container["envFrom"]
    settings = one(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    given = settings.keys() | environment_of(objects).keys()
    assert not given & {"TOOLKIT_MODEL", "TOOLKIT_MODELS"}


def test_images_are_named_without_a_host(objects):
    for _, container in containers(objects):
        assert "." not in container["image"].partition(":")[0]
        assert ":" in container["image"] and not container["image"].endswith(":latest")


def test_the_gpu_overlay_asks_for_one_gpu_and_never_for_one_more():
    found = rendered(DEPLOY / "overlays/gpu")
    (container,) = pods(found)["toolkit"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["image"] == "toolkit:gpu"
    assert pods(found)["toolkit"]["spec"]["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    strategy = one(found, "Deployment", "toolkit")["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": 0, "maxUnavailable": 1}
    scaler = one(found, "HorizontalPodAutoscaler", "toolkit")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 10)
    assert scaler["metrics"][0]["pods"]["target"]["averageValue"] == "64"
    assert "nvidia" not in str(rendered(DEPLOY / "overlays/cpu"))


def test_a_token_is_asked_of_everybody_and_known_to_prometheus(objects):
    environment = environment_of(objects)
    (endpoint,) = one(objects, "ServiceMonitor", "toolkit")["spec"]["endpoints"]
    if "TOOLKIT_TOKEN" not in environment:
        assert "authorization" not in endpoint
        return
    reference = environment["TOOLKIT_TOKEN"]["secretKeyRef"]
    # Without the secret the pod does not start; an open service would be worse.
    assert "optional" not in reference
    assert endpoint["authorization"]["credentials"] == reference
    assert not of(objects, "Secret")
