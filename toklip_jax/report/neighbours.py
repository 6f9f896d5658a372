"""The page's section of nearest neighbours."""

from toklip_jax.report.gallery import Gallery
from toklip_jax.report.markup import tag
from toklip_jax.report.output import Output
from toklip_jax.report.page import Section, scroll_box
from toklip_jax.report.parts import thumbnail

NUM_NEIGHBOURS = 6
NUM_QUERIES = 6  # images whose neighbours are shown


def neighbour_section(gallery: Gallery, output: Output) -> Section:
    """Returns some images and those whose features are nearest."""
    title, pool = "Nearest neighbours", gallery.pool
    if len(pool.titles) < 2:
        return Section("neighbours", title, "Left out: there is only one image to search.")
    places, scores = gallery.neighbours(NUM_NEIGHBOURS)
    rows = []
    for i in range(len(gallery.images))[:NUM_QUERIES]:
        query = thumbnail(output, pool, gallery.picks[i], tag("small", "query"), "asked")
        found = [
            thumbnail(output, pool, place, tag("small", f"{score:.2f}"))
            for place, score in zip(places[i], scores[i], strict=True)
        ]
        rows.append(tag("li", query, found))
    lead = (
        f"For each image, the others whose features, computed from ids alone, are nearest "
        f"(cosine), {gallery.among}."
    )
    content = scroll_box(tag("ul", rows, class_="neighbours"), title)
    return Section("neighbours", title, lead, content)
