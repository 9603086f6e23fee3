"""preStop program: makes the container not ready at once, then waits until no requests come any more and none is in flight.

Kubernetes takes a pod off its Service while preStop runs, yet proxies hear of it seconds later: requests that come in the meantime
are served. TORCHRELAY_PROPAGATION_S (default 5) is that time; afterwards it waits for requests in flight, at most for the declared
drain time-out.
"""

from __future__ import annotations

import os
import sys
import time

from torchrelay_runtime.front import in_flight
from torchrelay_runtime.settings import SettingsError, propagation, read_settings
from torchrelay_runtime.state import start_draining

QUIET_POLLS = 3  # nothing in flight three times in a row, a tenth of a second apart


def main() -> int:
    """Drain; 0 when nothing is in flight, 1 when the time was up."""
    try:
        settings = read_settings(os.environ)
        propagation_s = propagation(os.environ)
    except SettingsError as error:
        print(f"torchrelay: {error}", file=sys.stderr)
        return 2
    start_draining(settings.state)
    time.sleep(propagation_s)
    deadline = time.monotonic() + settings.serving.drain_timeout_s
    quiet = 0
    while time.monotonic() < deadline:
        count = in_flight(settings.state)
        quiet = quiet + 1 if not count else 0
        if quiet == QUIET_POLLS:
            return 0
        time.sleep(0.1)
    print(f"torchrelay: {count} requests were still in flight after {settings.serving.drain_timeout_s} s", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
