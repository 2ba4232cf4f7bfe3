"""Profiles a server. Python imports this on startup if its folder is on PYTHONPATH.

SIGUSR1 starts profiling the main thread by its CPU time. SIGUSR2 stops and writes `$PROFILE` for
`pstats`, and `$PROFILE.json` with the main thread's CPU time and the names of all threads.
"""

import cProfile
import json
import os
import signal
import threading
import time

profile = cProfile.Profile(time.thread_time)
began_s = 0.0


def begin(*_: object) -> None:
    global began_s
    began_s = time.thread_time()
    profile.enable()


def end(*_: object) -> None:
    profile.disable()
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    with open(os.environ["PROFILE"] + ".json", "w") as file:
        json.dump({"cpu_s": time.thread_time() - began_s, "threads": names}, file)
    profile.dump_stats(os.environ["PROFILE"])


signal.signal(signal.SIGUSR1, begin)
signal.signal(signal.SIGUSR2, end)
