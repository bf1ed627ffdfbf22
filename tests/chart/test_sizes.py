"""Memory, disks, threads and devices of the shards."""

from __future__ import annotations

from tests.chart.rendering import containers, named, render, shard_container


def shard_sizes(values: str) -> tuple[str, str]:
    """Memory asked for, size of the volume."""
    shards = named(render(values), "StatefulSet", "fold-sheepfold-shard")["spec"]
    claim = shards["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
    return shard_container(values)["resources"]["requests"]["memory"], claim


def test_memory_and_disk_of_a_shard_follow_from_the_model() -> None:
    """2e9 parameters on 8 shards: 275e6 each; 40 and 32 bytes of memory, 200 of disk, for each of them."""
    assert shard_sizes("{model: {parameters: 2000000000}, shards: {count: 8}}") == ("20Gi", "52Gi")
    assert shard_sizes("{model: {parameters: 1000}, shards: {count: 1}}") == ("3Gi", "2Gi")


def test_gpu_is_one_for_each_shard_and_none_for_others() -> None:
    objects = render("gpu: {enabled: true, resourceName: nvidia.com/mig-1g.10gb, runtimeClassName: nvidia}")
    for name, container in containers(objects):
        limits = container["resources"]["limits"]
        assert limits.get("nvidia.com/mig-1g.10gb") == (1 if name.endswith("/shard") else None)
    assert named(objects, "StatefulSet", "fold-sheepfold-shard")["spec"]["template"]["spec"][
        "runtimeClassName"
    ]


def test_gpu_means_the_image_for_gpus_unless_another_is_named() -> None:
    assert shard_container()["image"] == "sheepfold:0.1.0"
    assert shard_container("gpu: {enabled: true}")["image"] == "sheepfold:0.1.0-cuda"
    assert shard_container("{gpu: {enabled: true}, image: {tag: ours}}")["image"] == "sheepfold:ours"


def test_units_of_a_gpu_may_be_several_where_the_resource_counts_parts_of_one() -> None:
    shard = shard_container("gpu: {enabled: true, resourceName: example.com/gpu-memory, count: 4}")
    assert shard["resources"]["limits"]["example.com/gpu-memory"] == 4


def test_shared_memory_has_its_size_and_is_counted_as_memory() -> None:
    values = "{model: {parameters: 1000}, shards: {count: 1, shmSize: 2Gi}}"
    pod = named(render(values), "StatefulSet", "fold-sheepfold-shard")["spec"]["template"]["spec"]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}} in pod["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in shard_container(values)["volumeMounts"]
    assert shard_sizes(values)[0] == "5Gi"
    assert "/dev/shm" not in str(render())


def test_threads_follow_from_the_cpu_limit_or_are_given() -> None:
    (followed,) = (each for each in shard_container()["env"] if each["name"] == "THREADS")
    assert followed["valueFrom"]["resourceFieldRef"]["resource"] == "limits.cpu"
    given = shard_container("shards: {threads: 6, resources: {limits: {cpu: null}}}")["env"]
    assert {"name": "THREADS", "value": "6"} in given
