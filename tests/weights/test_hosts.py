"""Weights that are sharded over two hosts: both take part in saving, and learn how it ended."""

import pathlib

FORMAT_1 = pathlib.Path(__file__).parent / "format_1" / "toklip"

SAVE = """
import pathlib, sys, jax
host, port, old, out = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(host))
from toklip_jax.models.registry import family_of
from toklip_jax.parallel.sharding import make_mesh
from toklip_jax.weights import Weights, load_weights, place_params, save_weights
from toklip_jax.weights.fingerprints import fingerprint_params

weights, out = load_weights(old), pathlib.Path(out)
mesh = make_mesh({"fsdp": 4})
params = place_params(weights, mesh=mesh, rules=family_of(weights.config).sharding)
kernel = params["token_encoder"]["stack"]["blocks"]["mlp"]["fc1"]["kernel"]
assert not kernel.is_fully_addressable and not kernel.is_fully_replicated
assert fingerprint_params(params) == fingerprint_params(weights.params)
placed = Weights(weights.config, params, weights.is_scanned)
save_weights(out / "whole", placed)
(out / "file").touch()
for path, error in ((out / "whole", FileExistsError), (out / "file" / "weights", OSError)):
    try:
        save_weights(path, placed)
    except error as raised:
        print(f"host {host}: {raised}")
    else:
        raise AssertionError(f"{path} was written")
"""


def test_two_hosts_save_one_model_and_agree_on_a_failure(run_on_two_hosts, tmp_path):
    ended = run_on_two_hosts(SAVE, FORMAT_1, tmp_path, devices=2)
    for host, (status, output) in enumerate(ended):
        assert status == 0, output[-3000:]
        assert f"host {host}: expected a new directory" in output
    assert "host 1: host 0 could not write" in ended[1][1]
    name = "params.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (FORMAT_1 / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "whole"]
