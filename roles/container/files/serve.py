# Managed by Flaskhost. Runs the image's command. The command can listen on the socket $SOCKET. If it listens on the port $PORT
# instead, as on other platforms, this program listens on the socket and forwards connections to the port.
import asyncio
import json
import os
import signal
import sys

# needed if the image configures Python to leave out the program's directory
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from flaskhost_port import free, owners

BACKLOG = 1024


def main():
    with open(sys.argv[1]) as handle:
        image = json.load(handle)
    command = (image.get("Entrypoint") or []) + (image.get("Cmd") or [])
    if not command:
        sys.exit("the image has no command (CMD, ENTRYPOINT)")
    try:
        sys.exit(asyncio.run(serve(command, free(), stop_signal(image))))
    except PermissionError as error:
        sys.exit(str(error))  # systemd starts it again, with another port


def stop_signal(image):
    """The signal that stops the image's command. podman sends SIGTERM to this program in any case."""
    name = str(image.get("StopSignal") or "SIGTERM")
    return signal.Signals(int(name)) if name.isdigit() else signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]


async def serve(command, port, stop):
    app = await asyncio.create_subprocess_exec(*command, env=dict(os.environ, PORT=str(port)))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, app.send_signal, stop)
    relays = set()
    ended, proxy = asyncio.ensure_future(app.wait()), asyncio.ensure_future(open_socket(os.environ["SOCKET"], port, relays))
    await asyncio.wait({ended, proxy}, return_when=asyncio.FIRST_COMPLETED)
    if proxy.done():
        proxy.result()  # raises if the socket could not be opened
    code = await ended
    proxy.cancel()
    if relays:
        # the last responses are still being sent
        await asyncio.wait(relays, timeout=5)
    return code if code >= 0 else 128 - code


async def open_socket(path, port, relays):
    while not os.path.exists(path):
        try:
            writer = (await connect(port))[1]
        except ConnectionError:
            await asyncio.sleep(0.1)
            continue
        writer.close()

        def accept(*streams):
            task = asyncio.ensure_future(relay(*streams, port))
            relays.add(task)
            task.add_done_callback(relays.discard)

        await asyncio.start_unix_server(accept, path, backlog=BACKLOG)
        return


async def relay(reader, writer, port):
    try:
        app_reader, app_writer = await connect(port)
    except OSError as error:
        print(error, file=sys.stderr, flush=True)
        writer.close()
        return
    await asyncio.gather(forward(reader, app_writer), forward(app_reader, writer))
    app_writer.close()
    writer.close()


async def connect(port):
    """Connect to a listener of this user. Any user of the host can take the port while it is free."""
    check_owner(port)
    streams = await asyncio.open_connection("127.0.0.1", port)
    try:
        check_owner(port)
    except OSError:
        streams[1].close()
        raise
    return streams


def check_owner(port):
    found = owners(port)
    if not found:
        raise ConnectionRefusedError(f"nothing listens on port {port}")
    if found != {os.getuid()}:
        raise PermissionError(f"port {port}, on which the image's command must listen, was taken by another user of the host: {found}")


async def forward(source, target):
    try:
        while True:
            data = await source.read(65536)
            if not data:
                break
            target.write(data)
            await target.drain()
        target.write_eof()
    except OSError:
        # the other end has closed the connection
        target.close()


if __name__ == "__main__":
    main()
