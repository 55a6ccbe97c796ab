import click
from flask.cli import with_appcontext

from .models import Entry, db


@click.command()
@click.option("--keep", default=10_000, show_default=True, help="Number of entries to keep.")
@with_appcontext
def tidy(keep):
    """Delete all but the newest entries."""
    newest = db.select(Entry.id).order_by(Entry.id.desc()).limit(keep).scalar_subquery()
    deleted = db.session.execute(db.delete(Entry).where(Entry.id.not_in(newest))).rowcount
    db.session.commit()
    click.echo(f"Deleted {deleted} entries.")
