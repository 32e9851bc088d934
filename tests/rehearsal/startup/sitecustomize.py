"""Puts the simulated device into every Python process that has this folder on its path: workers of `sana bench`, and whole commands.

Python imports a module of this name when it starts. `SANA_REHEARSED_BYTES` is the device's memory.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch

from tests.rehearsal.device import Calls
from tests.rehearsal.install import install, small_probes

torch.__future__.set_overwrite_module_params_on_conversion(True)
install(total=int(os.environ.get("SANA_REHEARSED_BYTES", 24 << 30)))
small_probes()
Calls().__enter__()
