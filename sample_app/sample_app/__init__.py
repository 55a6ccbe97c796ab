"""A guest book: a small app with the parts of a real one (factory, settings, blueprint, database, migrations, queue)."""

from flask import Flask
from flask_migrate import Migrate
from werkzeug.middleware.proxy_fix import ProxyFix

from .commands import tidy
from .headers import add_headers
from .models import db
from .pages import pages
from .settings import settings_of_this_stage

migrate = Migrate()


def create_app(settings=None):
    app = Flask(__name__)
    app.config.from_object(settings or settings_of_this_stage())
    # nginx is the only proxy; it sets the client address, the host name and the scheme
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)
    db.init_app(app)
    migrate.init_app(app, db)
    app.register_blueprint(pages)
    app.after_request(add_headers)
    app.cli.add_command(tidy)
    return app
