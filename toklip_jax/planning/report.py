"""Formats a plan as lines of text."""

from toklip_jax.planning.plan import MIB, Plan


def report(plan: Plan) -> str:
    """Returns a plan as lines of text."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    lines = [
        f"{plan.chips} x {plan.device_kind}, mesh {mesh}",
        f"global batch {plan.batch} ({plan.batch / plan.chips:g} a chip, in {plan.accumulation} "
        f"chunk{'s' if plan.accumulation > 1 else ''})",
        "",
        "memory, MiB a chip",
    ]
    memory = ("parameters", "optimizer", "frozen", "activations", "peak")
    lines += [f"  {name:<20}{getattr(plan, name) / MIB:12,.1f}" for name in memory]
    if plan.hbm:
        lines += [f"  {'of':<20}{plan.hbm / MIB:12,.1f}  ({plan.peak / plan.hbm:.0%})"]
    lines += [
        "",
        f"model FLOPs a step     {plan.model_flops:.4g}",
        f"FLOPs a chip, as run   {plan.flops:.4g}",
        f"bytes a chip, moved    {plan.traffic:.4g} (an upper bound where --effort is below 0)",
        "",
        "collectives a step        number   MiB sent a chip",
    ]
    for kind, (number, sent) in plan.collectives.items():
        lines.append(f"  {kind:<20}{number:>10,}{sent / MIB:18,.1f}")
    size, where = plan.largest_gather
    if size:
        lines.append(f"  largest gather: {size / MIB:,.1f} MiB, for {where or 'the program'}")
    if plan.seconds:
        parts = ", ".join(f"{name} {1e3 * s:,.1f}" for name, s in plan.seconds.items())
        lines += [
            "",
            f"roofline, ms           {1e3 * plan.step_seconds:,.1f} ({parts}), "
            f"{plan.batch / plan.step_seconds:,.0f} images/s",
            f"model FLOPs utilisation, at most {plan.utilisation:.0%}",
        ]
    return "\n".join(lines)
