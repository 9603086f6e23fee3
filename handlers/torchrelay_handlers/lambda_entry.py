"""The entry point for AWS's runtime interface client: `torchrelay_handlers.lambda_entry.handler`. Importing it loads the model.

Lambda imports it in its init phase, where the CPU is not rationed; TORCHRELAY_MODEL_DIR is the unpacked model's folder.
"""

import os
from pathlib import Path

from torchrelay_handlers.adapters.lambda_ import Function

handler = Function(Path(os.environ.get("TORCHRELAY_MODEL_DIR") or os.environ.get("LAMBDA_TASK_ROOT") or ".")).load()
