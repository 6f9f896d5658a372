"""The one list of the package's kinds of data sources."""

from toklip_jax.data.sources.array_record import ARRAY_RECORD
from toklip_jax.data.sources.base import register
from toklip_jax.data.sources.cache import CACHE
from toklip_jax.data.sources.image_folder import IMAGE_FOLDER
from toklip_jax.data.sources.karpathy import KARPATHY
from toklip_jax.data.sources.mixture import MIXTURE
from toklip_jax.data.sources.synthetic import SYNTHETIC
from toklip_jax.data.sources.table import TABLE
from toklip_jax.data.sources.tfds import TFDS
from toklip_jax.data.sources.webdataset import WEBDATASET

KINDS = (
    ARRAY_RECORD,
    CACHE,
    IMAGE_FOLDER,
    KARPATHY,
    MIXTURE,
    SYNTHETIC,
    TABLE,
    TFDS,
    WEBDATASET,
)
for _kind in KINDS:
    register(_kind)
