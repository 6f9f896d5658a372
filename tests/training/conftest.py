"""Makes `line_fit`, the smallest run of the loop, importable for the tests in this folder."""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parent))
