"""The one list of built-in outputs: importing a file registers its outputs.

`register_output` adds those of other packages.
"""

from toklip_jax.evaluation.outputs import codes, features, fields, pixels

BUILT_IN = (fields, codes, features, pixels)
