"""The torchrelay command with an application that ignores KeyboardInterrupt and never ends, like a wait for a lost lock."""

import sys
import time
from typing import Any

from torchrelay.cli import main
from torchrelay.cli.signals import Interrupts


def application(*_: Any, **__: Any) -> None:
    while True:
        try:
            print("waiting", flush=True)
            time.sleep(600)
        except KeyboardInterrupt:
            continue


interrupts = Interrupts()
interrupts.install(main.end_at_once)
sys.exit(main.run([], application, interrupts))
