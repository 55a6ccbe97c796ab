# Managed by Flaskhost. Opens $SOCKET as soon as the server accepts connections on its port, and passes the socket to systemd's proxy.
import os
import socket
import sys
import time

# needed if the app's environment makes Python leave the script's directory out of sys.path (PYTHONSAFEPATH)
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from flaskhost_port import owners

port = int(sys.argv[1])
while socket.socket().connect_ex(("127.0.0.1", port)):
    time.sleep(0.1)
# another user of the host may have taken the port since it was chosen
if owners(port) != {os.getuid()}:
    sys.exit(f"another user of this host listens on port {port}, which was chosen for the server; the server restarts with another port")
listener = socket.socket(socket.AF_UNIX)
listener.bind(os.environ["SOCKET"])
listener.listen(1024)
os.dup2(listener.detach(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv("/lib/systemd/systemd-socket-proxyd", ["systemd-socket-proxyd", "--connections-max=1024", f"127.0.0.1:{port}"])
