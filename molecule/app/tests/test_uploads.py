"""Pictures that visitors upload are stored in a private bucket, if there is one."""

import re
import subprocess

import pytest
from conftest import S3, make_bucket

BUCKET = {"S3_BUCKET": "sample-uploads", "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL_S3": S3}
KEY = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "something-else-again"}
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400


@pytest.fixture
def picture(tmp_path):
    (tmp_path / "a picture.png").write_bytes(PICTURE)
    return f"picture=@{tmp_path}/a picture.png"


def picture_paths(site):
    return re.findall(r'src="(/pictures/\w+\.png)"', site.get("/")[1])


def test_a_picture_is_stored_in_the_bucket_and_served_from_there(production, s3, picture):
    assert make_bucket("sample-uploads")
    secrets = {"SECRET_KEY": "only-for-the-lab-s-production", **KEY}
    settings = {"app_env": {"APP_STAGE": "production", **BUCKET}, "app_secrets": secrets}
    run = production.play("deploy.yml", **settings)
    assert run.ok and KEY["AWS_SECRET_ACCESS_KEY"] not in run.output, run.output
    assert production.play("deploy.yml", **settings).changed == 0
    assert production.get("/entries", "--form", "text=with a picture", "--form", picture)[0] == 303
    status, headers = production.get(picture_paths(production)[0], "--include")
    url = re.search(r"(?i)^location: (\S+)", headers, re.MULTILINE)[1]
    assert status == 302 and url.startswith(f"{S3}/sample-uploads/") and "X-Amz-Expires=300" in url
    assert subprocess.run(["curl", "--silent", "--fail", url], capture_output=True, check=True).stdout == PICTURE
    assert f"img-src 'self' {S3}" in production.get("/", "--include")[1]
    assert not production.host.file("/var/lib/sample/pictures").exists


def test_without_a_bucket_a_picture_is_stored_in_the_data_directory(staging, picture):
    assert staging.get("/entries", "--form", "text=with a picture", "--form", picture)[0] == 303
    found = subprocess.run(
        ["curl", "--silent", "--insecure", f"https://localhost:{staging.port}{picture_paths(staging)[0]}"], capture_output=True, check=True
    )
    assert found.stdout == PICTURE
    assert staging.host.check_output("stat --format '%U %a' /var/lib/sample/pictures") == "sample 770"


def test_an_unusable_bucket_is_rejected_before_anything_changes(production):
    live = production.live()
    settings = {"app_env": {"APP_STAGE": "production", **BUCKET, "S3_BUCKET": "nobody-has-this"}, "app_secrets": {"SECRET_KEY": "x", **KEY}}
    run = production.play("deploy.yml", **settings)
    assert not run.ok and run.changed == 0, run.output
    assert run.reports(f"S3_BUCKET: the app can't use the bucket 'nobody-has-this' at {S3}", "Nothing was changed"), run.output
    assert production.live() == live
