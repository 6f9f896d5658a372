"""The page's section of codes: how much of the codebooks is used."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from toklip_jax.metrics import CodeUsage
from toklip_jax.report.charts import code_histogram
from toklip_jax.report.files import Run, counts_of
from toklip_jax.report.markup import tag
from toklip_jax.report.page import Section, table

MAX_CHARTS = 4  # codebooks whose histogram is drawn
MAX_ROWS = 32  # codebooks that are listed


class CountedIds(NamedTuple):
    """The ids of the page's own images, and the sizes of the codebooks that they are from."""

    ids: Int[np.ndarray, "m n *q"]
    codebook_sizes: tuple[int, ...]


def usage_section(run: Run, own: CountedIds | None) -> Section:
    """Returns how often each code occurs in an evaluation's images, else in the page's own.

    Args:
        own: counts for the page's images, or None where there are none.
    """
    title, found = "Use of the codebook", run.details("code_counts")
    if found is None and own is None:
        return Section("codes", title, "Left out: neither an evaluation nor images counted codes.")
    if found is not None:
        counts = _counts(found[1])
        if counts is None:
            lead = f"Left out: what {found[0]} counted is damaged; evaluate the run again."
            return Section("codes", title, lead)
        usage, where = CodeUsage(counts), f"in the images of {found[0]}"
    else:
        usage = CodeUsage.from_ids(own.ids, own.codebook_sizes)
        where = f"in the {len(own.ids):,} images that this page looks at"
    if len(usage.counts) == 1:
        chart = tag("div", code_histogram(usage.counts[0]), class_="wide")
        return Section("codes", title, _lead(usage, where), chart)
    charts = [
        code_histogram(counts, f"Codebook {i}")
        for i, counts in enumerate(usage.counts[:MAX_CHARTS], start=1)
    ]
    body = [tag("div", charts, class_="charts"), _table(usage)]
    return Section("codes", "Use of the codebooks", _lead(usage, where), body)


def _counts(plain) -> tuple[np.ndarray, ...] | None:
    """The counts of an evaluation: a list, or a list for each codebook; None where damaged."""
    if not isinstance(plain, list):
        return None
    counts = tuple(map(counts_of, plain if isinstance(plain[0], list) else [plain]))
    return counts if all(c is not None and c.ndim == 1 for c in counts) else None


def _lead(usage, where):
    used = sum(int(np.count_nonzero(counts)) for counts in usage.counts)
    total = sum(map(len, usage.counts))
    share, perplexity = usage.compute()
    of_all = f"{used:,} of {total:,} codes ({share:.1%})"
    if len(usage.counts) == 1:
        return (
            f"{of_all} are used {where}; {total - used:,} are dead. The perplexity is "
            f"{perplexity:,.0f}: that many equally frequent codes would have the same entropy."
        )
    return (
        f"{of_all} of {len(usage.counts)} codebooks are used {where}; {total - used:,} are dead. "
        f"The perplexity is {perplexity:,.1f}, the geometric mean over the codebooks: that many "
        f"equally frequent codes in each would have the same entropy."
    )


def _table(usage):
    rows = [
        [f"{i}", f"{np.count_nonzero(counts):,} of {len(counts):,}", f"{part.perplexity:,.1f}"]
        for i, (counts, part) in enumerate(
            zip(usage.counts, usage.per_codebook(), strict=True), start=1
        )
    ]
    caption = "Use of each codebook"
    if len(rows) > MAX_ROWS:
        caption += f", the first {MAX_ROWS} of {len(rows)}"
    return [
        tag("p", f"{caption}."),
        table(["codebook", "codes used", "perplexity"], rows[:MAX_ROWS], caption),
    ]
