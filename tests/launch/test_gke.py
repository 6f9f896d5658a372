"""launch/gke.yaml: a JobSet, and what its policies make of a run's exit statuses."""

import pathlib
import re

import pytest
import yaml

TEXT = (pathlib.Path(__file__).parents[2] / "launch" / "gke.yaml").read_text()
JOBSET = yaml.safe_load(TEXT)
SPEC = JOBSET["spec"]
JOB = SPEC["replicatedJobs"][0]["template"]["spec"]
POD = JOB["template"]["spec"]
(CONTAINER,) = POD["containers"]


def test_it_is_a_jobset_with_what_a_jobset_needs():
    assert (JOBSET["apiVersion"], JOBSET["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert re.fullmatch(r"[a-z][a-z0-9-]*", JOBSET["metadata"]["name"])
    for rule in SPEC["failurePolicy"]["rules"]:
        assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])  # the CRD's
    # The Job's validation wants both of these with podFailurePolicy and Indexed.
    assert POD["restartPolicy"] == "Never"
    assert JOB["parallelism"] == JOB["completions"]
    assert JOB["completionMode"] == "Indexed"


def test_the_slice_has_as_many_chips_as_its_topology():
    topology = POD["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = 1
    for side in topology.split("x"):
        chips *= int(side)
    assert chips == JOB["parallelism"] * CONTAINER["resources"]["limits"]["google.com/tpu"]


def test_the_program_itself_gets_the_signal_and_time_to_save():
    assert CONTAINER["command"] == ["python", "-m", "toklip_jax.main"]
    assert POD["terminationGracePeriodSeconds"] >= 60
    assert not any("restart" in argument for argument in CONTAINER["args"])


def test_the_workdir_is_on_the_share():
    (mount,) = CONTAINER["volumeMounts"]
    (volume,) = POD["volumes"]
    assert mount["name"] == volume["name"]
    (workdir,) = (a for a in CONTAINER["args"] if a.startswith("--workdir="))
    assert workdir.startswith(f"--workdir={mount['mountPath']}/")


def pod_failure(status, is_disrupted):
    """The message of the Job that fails by a podFailurePolicy rule, as Kubernetes words it."""
    for i, rule in enumerate(JOB["podFailurePolicy"]["rules"]):
        assert rule["action"] == "FailJob"
        end = f"matching FailJob rule at index {i}"
        codes = rule.get("onExitCodes")
        if codes and codes["containerName"] == CONTAINER["name"] and status in codes["values"]:
            return f"Container train for pod default/x failed with exit code {status} {end}"
        if is_disrupted and "onPodConditions" in rule:
            return f"Pod default/x has condition DisruptionTarget {end}"
    return None


@pytest.mark.parametrize(
    ("status", "is_disrupted", "action"),
    [
        (75, False, "RestartJobSetAndIgnoreMaxRestarts"),
        (75, True, "RestartJobSetAndIgnoreMaxRestarts"),
        (137, True, "RestartJobSetAndIgnoreMaxRestarts"),
        (2, False, "FailJobSet"),
        (130, False, "FailJobSet"),
        (1, False, "RestartJobSet"),
        (134, False, "RestartJobSet"),
        (139, False, "RestartJobSet"),
    ],
)
def test_a_status_is_followed_by_what_it_means(status, is_disrupted, action):
    message = pod_failure(status, is_disrupted)
    reason = "PodFailurePolicy" if message else "BackoffLimitExceeded"
    actions = [
        rule["action"]
        for rule in SPEC["failurePolicy"]["rules"]
        if reason in rule["onJobFailureReasons"]
        and any(
            re.search(pattern, message or "")
            for pattern in rule.get("onJobFailureMessagePatterns", [""])
        )
    ]
    # The first that matches; by default all restart, which counts against maxRestarts.
    assert (actions or ["RestartJobSet"])[0] == action
    assert JOB["backoffLimit"] == 0
    assert SPEC["failurePolicy"]["maxRestarts"] > 0
