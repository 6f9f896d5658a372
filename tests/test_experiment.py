"""A config is read once: into frozen, checked dataclasses, with all that is wrong said at once."""

import dataclasses
import math
import pathlib
import runpy

import pytest
from ml_collections import ConfigDict

from toklip_jax.core.errors import UserError
from toklip_jax.experiment import read_experiment
from toklip_jax.tasks.toklip.task import TOKLIP, TokLIPFields

ROOT = pathlib.Path(__file__).parents[1]
TINY = ROOT / "tests" / "training" / "tiny_run.py"


@pytest.fixture
def config():
    return runpy.run_path(str(TINY))["get_config"]()


def changed(config, **fields):
    """The config with other fields, of whatever type; `a__b` is the field b of section a."""
    plain = config.to_dict()
    for path, value in fields.items():
        *sections, name = path.split("__")
        section = plain
        for part in sections:
            section = section[part]
        section[name] = value
    return ConfigDict(plain)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs").glob("*.py")))
def test_the_configs_of_the_repository_are_read(name):
    config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()
    experiment = read_experiment(config)
    assert [stage.name for stage in experiment.stages] == list(config.stages)
    with pytest.raises(dataclasses.FrozenInstanceError):
        experiment.seed = 1


@pytest.mark.parametrize("name", ["l2", "plain", "ibq", "residual", "several", "sign"])
@pytest.mark.parametrize("bits", [10, 12])
def test_the_demos_quantisers_have_the_bits_that_are_asked_for(name, bits):
    get_config = runpy.run_path(str(ROOT / "configs" / "demo.py"))["get_config"]
    experiment = read_experiment(get_config(f"vq={name},bits={bits}"))
    vq = experiment.stages[0].model.model
    assert math.prod(vq.codebook_sizes) == 2**bits


def test_the_long_demo_has_more_places():
    get_config = runpy.run_path(str(ROOT / "configs" / "demo.py"))["get_config"]
    short, long = (read_experiment(get_config(f"preset={name}")) for name in ("short", "long"))
    grids = []
    for experiment in (short, long):
        _, teacher, toklip = experiment.stages
        outlined = TOKLIP.outline(toklip, experiment.sections, experiment.compute)
        assert outlined.teacher_config == teacher.model.model.vision
        grids.append(outlined.model_config.vision.grid)
    assert grids == [(8, 8), (12, 12)]
    with pytest.raises(ValueError, match="a preset of the demo"):
        get_config("preset=longer")


@pytest.mark.parametrize("bits", ["11", "2", "18", "ten", "-8"])
def test_the_demo_refuses_other_bits(bits):
    for name in ("demo", "demo_generation"):
        get_config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]
        with pytest.raises(ValueError, match="bits for the demo's codes"):
            get_config(f"bits={bits}")


def test_sections_become_what_they_describe(config):
    experiment = read_experiment(config)
    vq, teacher, toklip = experiment.stages
    assert (vq.task, teacher.task, toklip.task) == ("vq", "teacher", "toklip")
    assert toklip.model == TokLIPFields({"vq": "stage:vq", "teacher": "stage:teacher"})
    assert vq.source == experiment.source
    assert teacher.validation.arguments["seed"] == 1
    assert experiment.description["vq"]["batch_size"] == 8


def test_the_config_says_whether_pictures_are_turned(config):
    assert not read_experiment(config).reading.exif_orientation
    assert read_experiment(changed(config, exif_orientation=True)).reading.exif_orientation
    with pytest.raises(UserError, match="exif_orientation"):
        read_experiment(changed(config, exif_orientation="yes"))


def test_a_stage_with_a_cache_trains_on_it(config):
    with config.unlocked():
        config.toklip.cache = "somewhere"
    experiment = read_experiment(config)
    assert experiment.stages[2].source.cache_directories == ["somewhere"]
    assert experiment.stages[0].source == experiment.source


def test_all_errors_are_said_at_once(config):
    wrong = changed(
        config,
        vq__optimizer__learning_rat=1.0,
        teacher__loop__steps=0,
        toklip__loss__contrastiv="softmax",
        mesh__data=0,
        evaluate=("pair",),
    )
    with pytest.raises(UserError) as error:
        read_experiment(wrong)
    text = str(error.value)
    assert "errors in the config" in text
    for part in (
        "did you mean 'learning_rate'",
        "steps",
        "mesh sizes of at least 1",
        "did you mean 'pairs'",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"evalute": ()}, "did you mean 'evaluate'"),
        ({"stages": ("vq", "toklp")}, "none called 'toklp'"),
        ({"teacher__objective": "teachr"}, "did you mean 'teacher'"),
        ({"vq__loss__l1_wieght": 1.0}, "did you mean 'l1_weight'"),
        ({"vq__bach_size": 8}, "vq"),
        ({"vq__batch_size": 0}, "batch_size of at least 1"),
        ({"vq__model__codebook_siz": 8}, "codebook_siz"),
        ({"toklip__loss__contrastive": "hinge"}, "hinge"),
        ({"toklip__init": {"vq": "stage:vq"}}, "toklip.init.teacher"),
        ({"toklip__init__teacher": "stage:teachr"}, "did you mean 'teacher'"),
        ({"toklip__is_causal": "yes"}, "expected bool for toklip.is_causal, got 'yes'"),
        ({"source__kind": "synthetics"}, "did you mean 'synthetic'"),
        ({"source__num_sample": 3}, "did you mean 'num_samples'"),
        ({"evaluations__pairs__kind": "retreival"}, "did you mean 'retrieval'"),
        ({"seed": "one"}, "seed"),
        ({"num_workers": -1}, "num_workers of at least 0"),
        ({"compute__dtype": "float8"}, "float8"),
        ({"imports": ("no_such_module",)}, "no_such_module"),
        ({"mesh__data": -1, "mesh__fsdp": -1}, "one of which may be -1"),
        ({"evaluation_resize": "stretch"}, "stretch"),
        ({"stages": ("source",)}, "none called 'source'"),
        ({"source": {}}, "expected a section source"),
        ({"vq__augment": {"max_shft": 1.0}}, "vq.augment.*did you mean 'max_shift'"),
        ({"vq__augment": {"max_shift": -1.0}}, "max_shift of at least 0"),
        ({"vq__augment": {"max_scale": math.nan}}, "max_scale of at least 1"),
        ({"image_size": 2**40}, "image_size of at least 1 pixel.* at most 65536"),
        ({"teacher__model__vision__image_size": 2**40}, "at most 1,048,576 patches"),
        ({"teacher__model__text": None}, "a SigLIP with its text tower"),
        ({"teacher__model__vision__rotary_base": math.nan}, "rotary_base above 1, got nan"),
        ({"vq__loss__l1_weight": math.nan}, "a finite l1_weight of at least 0, got nan"),
        ({"vq__loss__entropy_weight": -1.0}, "entropy_weight of at least 0, got -1"),
        ({"teacher__loss__contrastive_block": -1}, "contrastive_block of at least 0"),
        ({"toklip__loss__distillation_weight": math.inf}, "distillation_weight .* got inf"),
        ({"vq__loop__evaluate_every": 2}, "expected a section vq.validation"),
        ({"models__teachr": "stage:teacher"}, "did you mean 'teacher'"),
        ({"models__vq": "stage:vq"}, "models.vq only without models.toklip"),
    ],
)
def test_what_is_wrong_is_named(config, fields, message):
    with pytest.raises(UserError, match=message):
        read_experiment(changed(config, **fields))


def test_a_stage_that_cannot_train_on_a_cache_says_so(config):
    with config.unlocked():
        config.vq.cache = "somewhere"
    with pytest.raises(UserError, match="a source of images for the vq stage vq, got a cache"):
        read_experiment(config)


RELEASED = ROOT / "configs" / "toklip_s_256.py"


@pytest.mark.parametrize(
    ("path", "numbers"),
    [
        (RELEASED, (0,)),
        pytest.param(RELEASED, (-1, 10**30), marks=pytest.mark.slow),
        pytest.param(TINY, (0, -1, 10**30), marks=pytest.mark.slow),
    ],
)
def test_a_number_that_can_not_be_is_said_and_never_computed_with(path, numbers):
    """Each field in turn; fields that are computed from it come to know as well."""
    make = runpy.run_path(str(path))["get_config"]
    refused = 0
    for name in [name for name, value in _leaves(make()) if type(value) in (int, float)]:
        for number in numbers:
            config = make()
            *sections, field = name.split(".")
            section = config
            for part in sections:
                section = section[part]
            try:
                section[field] = number
                read_experiment(config)
            except UserError:
                refused += 1
            except TypeError as error:
                assert "Could not override" in str(error)  # noqa: PT017 - by the config itself
    assert refused > 10


def _leaves(section, prefix=""):
    for name in section:
        value = section[name]
        if isinstance(value, ConfigDict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
