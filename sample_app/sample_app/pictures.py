"""Pictures that visitors upload, stored in the app's own directory or in the bucket that S3_BUCKET names.

The bucket is private. boto3 reads the app's access key from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION,
and AWS_ENDPOINT_URL_S3 for a service other than Amazon S3). Browsers get signed URLs that are valid for a few minutes.
"""

import uuid
from pathlib import Path
from urllib.parse import urlsplit

from flask import current_app, redirect, send_from_directory

# the first bytes determine the type, not the file name
KINDS = {b"\x89PNG\r\n\x1a\n": ("png", "image/png"), b"\xff\xd8\xff": ("jpg", "image/jpeg"), b"GIF8": ("gif", "image/gif")}
SECONDS = 300


class NoPicture(ValueError):
    pass


def save(file):
    """Store the picture under a random name and return the name."""
    start = file.stream.read(8)
    file.stream.seek(0)
    kind = next((kind for first, kind in KINDS.items() if start.startswith(first)), None)
    if not kind:
        raise NoPicture(f"{file.filename} is not a PNG, JPEG or GIF file.")
    suffix, mime = kind
    name = f"{uuid.uuid4().hex}.{suffix}"
    place().save(file.stream, name, mime)
    return name


def answer(name):
    return place().answer(name)


def origin():
    """Return the origin of the bucket, or an empty string if the app serves the pictures itself."""
    return place().origin()


def place():
    bucket = current_app.config["S3_BUCKET"]
    return Bucket(bucket) if bucket else Directory(Path(current_app.config["PICTURES"]))


class Directory:
    def __init__(self, path):
        self.path = path

    def save(self, stream, name, mime):
        self.path.mkdir(exist_ok=True)
        with open(self.path / name, "wb") as copy:
            while part := stream.read(65536):
                copy.write(part)

    def answer(self, name):
        return send_from_directory(self.path, name, max_age=86400)

    def origin(self):
        return ""


class Bucket:
    def __init__(self, name):
        self.name = name

    def client(self):
        # imported only if there is a bucket, because boto3 uses 30 MB of memory
        import boto3

        if "s3" not in current_app.extensions:
            # in some regions, boto3 uses an old signature version by default, which newer regions and services reject
            current_app.extensions["s3"] = boto3.client("s3", config=boto3.session.Config(signature_version="s3v4"))
        return current_app.extensions["s3"]

    def save(self, stream, name, mime):
        self.client().upload_fileobj(stream, self.name, name, ExtraArgs={"ContentType": mime})

    def answer(self, name):
        return redirect(self.address(name))

    def address(self, name):
        return self.client().generate_presigned_url("get_object", Params={"Bucket": self.name, "Key": name}, ExpiresIn=SECONDS)

    def origin(self):
        parts = urlsplit(self.address("any"))
        return f"{parts.scheme}://{parts.netloc}"
