"""What an evaluation says before it starts."""

import types

from toklip_jax.evaluation.reconstruction import Reconstruct
from toklip_jax.evaluation.retrieval import Retrieval
from toklip_jax.run.evaluate import _say_what_is_left_out


def test_a_model_that_is_left_out_is_named_where_figures_need_it(capsys):
    experiment = types.SimpleNamespace(
        models={"toklip": "weights", "inception": ""},
        evaluations={
            "pairs": Retrieval(source={"kind": "synthetic"}),
            "images": Reconstruct(source={"kind": "synthetic"}),
        },
        evaluate=("pairs",),
    )
    _say_what_is_left_out(experiment)
    assert capsys.readouterr().out == ""
    experiment.evaluate = ("pairs", "images")
    _say_what_is_left_out(experiment)
    assert "models.inception are left out" in capsys.readouterr().out
