# SPDX-License-Identifier: Apache-2.0
"""Calls and workers whose events come at the same moment."""

import threading

import pytest


@pytest.mark.parametrize("window", ["0s", "1ms"])
def test_workers_stop_idling_while_calls_come(instance, window):
    """An idle worker's time is up just when it is given a call."""
    one = instance(scaledown_window=window, max_workers=3).start()
    failures = []

    def caller(number):
        function = one.function(lambda x: (number, x))
        for i in range(15):
            try:
                assert function.remote(i) == (number, i)
            except Exception as e:
                failures.append(e)
                return

    threads = [threading.Thread(target=caller, args=(n % 2,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)
    one.quiet()
    one.stop()
