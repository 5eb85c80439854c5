"""Read the machine's clock: the one ``Clock`` of every process of ours."""

from __future__ import annotations

import time


class SystemClock:
    """Tell the seconds since the epoch as the machine has them."""

    def now_s(self) -> int:
        return int(time.time())
