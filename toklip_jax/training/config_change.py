"""Compares a run's config with the one that it was started with."""

from toklip_jax.core.errors import UserError
from toklip_jax.models.serialization import complete

# Fields that change nothing of what is trained: a run may be evaluated in other ways later.
EVALUATION_FIELDS = ("evaluate", "evaluations", "models", "report")
EVALUATION_FIELDS += ("evaluation_batch_size", "evaluation_resize")


def check_same(where: str, theirs: dict, mine: dict, allow_change: bool) -> None:
    """Compares the config of an existing run with this one's.

    Raises:
        ValueError: they differ, and that isn't allowed; where it is, the differences are printed.
    """
    differ = differences(
        *({k: v for k, v in c.items() if k not in EVALUATION_FIELDS} for c in (theirs, mine))
    )
    if not differ:
        return
    if not allow_change:
        raise UserError(
            f"{where} holds a run of another config ({'; '.join(differ)}): choose another workdir, "
            f"pass --allow-config-change to continue with this one, or --restart to delete that run"
        )
    print(f"{where} continues with another config:", *differ, sep="\n  ")


def differences(theirs: dict, mine: dict) -> list[str]:
    """Returns a line for each field of two configs that differs, in the order of their names."""
    old, new = (flatten(complete(config)) for config in (theirs, mine))
    differ = sorted(name for name in old.keys() | new if old.get(name) != new.get(name))
    return [f"{n}: {old.get(n)} there, {new.get(n)} now" for n in differ]


def flatten(tree: dict, prefix: str = "") -> dict:
    """Returns a nested dict's leaves by dotted path."""
    leaves = {}
    for name, value in tree.items():
        is_tree = isinstance(value, dict) and value
        leaves |= flatten(value, f"{prefix}{name}.") if is_tree else {f"{prefix}{name}": value}
    return leaves
