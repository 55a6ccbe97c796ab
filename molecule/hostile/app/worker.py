"""Run scripts that the app puts in its data directory."""

import os
import subprocess
import time

script = os.path.join(os.environ["STATE_DIRECTORY"], "worker.sh")
while True:
    if os.path.exists(script):
        os.rename(script, f"{script}.running")
        subprocess.run(["bash", f"{script}.running"])
    time.sleep(1)
