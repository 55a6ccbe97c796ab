"""Runs what the app has left in its data for it, then sleeps."""

import os
import subprocess
import time

orders = os.path.join(os.environ["STATE_DIRECTORY"], "worker.sh")
while True:
    if os.path.exists(orders):
        os.rename(orders, f"{orders}.running")
        subprocess.run(["bash", f"{orders}.running"])
    time.sleep(1)
