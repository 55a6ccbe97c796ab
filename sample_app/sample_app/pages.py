import os
import platform

from flask import Blueprint, abort, current_app, jsonify, redirect, render_template, request, url_for

from . import jobs, pictures
from .models import Entry, db

pages = Blueprint("pages", __name__)


@pages.get("/")
def index():
    entries = db.session.scalars(db.select(Entry).order_by(Entry.id.desc()).limit(8)).all()
    about = {
        "release": os.environ.get("APP_RELEASE", "not released"),
        "stage": current_app.config["STAGE"],
        "worker": os.getpid(),
        "python": platform.python_version(),
        "you": request.remote_addr,
    }
    words = jobs.words([entry.id for entry in entries])
    return render_template("index.html", entries=entries, about=about, words=words)


@pages.post("/entries")
def write():
    text = request.form.get("text", "").strip()[:200]
    if not text:
        abort(400, "The entry has no text.")
    entry = Entry(text=text)
    if request.files.get("picture"):
        try:
            entry.picture = pictures.save(request.files["picture"])
        except pictures.NoPicture as error:
            abort(400, str(error))
    db.session.add(entry)
    db.session.commit()
    jobs.enqueue(entry.id)
    return redirect(url_for("pages.index"), code=303)


@pages.get("/pictures/<name>")
def picture(name):
    return pictures.answer(name)


@pages.get("/entries.json")
def entries():
    newest = db.session.scalars(db.select(Entry).order_by(Entry.id.desc()).limit(20))
    return jsonify(
        count=db.session.scalar(db.select(db.func.count(Entry.id))),
        counted=jobs.counted(),
        newest=[{"id": entry.id, "text": entry.text} for entry in newest],
    )


@pages.get("/healthz")
def healthz():
    """The app is healthy if it can query the database and the schema exists."""
    db.session.execute(db.select(Entry.id).limit(1))
    return jsonify(status="ok", release=os.environ.get("APP_RELEASE", ""))
