"""Security headers: browsers load only the app's own resources, and pictures from their bucket."""

from .pictures import origin

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; "
        "connect-src 'self'; "
        "font-src 'self'; "
        "img-src {pictures}; "
        "script-src 'self'; "
        "style-src 'self'; "
        "base-uri 'none'; "
        "form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def add_headers(response):
    pictures = " ".join(filter(None, ["'self'", origin()]))
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value.replace("{pictures}", pictures))
    return response
