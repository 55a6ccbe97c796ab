"""The same app for ASGI servers, and a WebSocket, which only they have."""

from a2wsgi import WSGIMiddleware
from wsgi import app as flask_app

flask_asgi = WSGIMiddleware(flask_app)


async def app(scope, receive, send):
    if scope["type"] != "websocket":
        return await flask_asgi(scope, receive, send)
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{scope['scheme']} {scope['client'][0]}: {message['text']}"})
