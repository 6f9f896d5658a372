"""A run as one page: `python -m toklip_jax.report WORKDIR`."""

from toklip_jax.report.write import write_report

__all__ = ["write_report"]
