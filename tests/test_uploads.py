"""A private bucket for uploads, and a key with access to it only. moto stands in for Amazon, and enforces permissions."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request

import boto3
import pytest
import yaml
from botocore.exceptions import ClientError
from conftest import PROJECT, run_playbook
from test_services import preflight

BUCKET = "shop-production-uploads"
PASSWORD = "of the stage's secrets"


@pytest.fixture(scope="module")
def amazon():
    """The URL of moto's server."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with subprocess.Popen([sys.executable, "-m", "moto.server", "--port", str(port)], stderr=subprocess.DEVNULL) as server:
        url = f"http://127.0.0.1:{port}"
        for _attempt in range(100):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/moto-api/")
                break
            time.sleep(0.1)
        yield url
        server.terminate()


@pytest.fixture(scope="module")
def owner(amazon):
    """The key of a user with all permissions. From here on, moto requires a key and enforces its user's permissions."""
    iam = client("iam", amazon, {"AWS_ACCESS_KEY_ID": "first", "AWS_SECRET_ACCESS_KEY": "first"})
    iam.create_user(UserName="owner")
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    iam.put_user_policy(UserName="owner", PolicyName="all", PolicyDocument=json.dumps(everything))
    key = iam.create_access_key(UserName="owner")["AccessKey"]
    urllib.request.urlopen(urllib.request.Request(f"{amazon}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}))
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


def client(service, url, key):
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="eu-central-1",
        aws_access_key_id=key["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=key["AWS_SECRET_ACCESS_KEY"],
    )


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    directory = tmp_path_factory.mktemp("inventories") / "production"
    (directory / "group_vars/all").mkdir(parents=True)
    (directory / "password").write_text(f"{PASSWORD}\n")
    settings = {
        "app_name": "shop",
        "app_domains": ["shop.example", "www.shop.example"],
        "app_env": {"S3_BUCKET": BUCKET, "AWS_DEFAULT_REGION": "eu-central-1"},
    }
    (directory / "hosts.yml").write_text("app_servers:\n  hosts: { shop: }\n")
    (directory / "group_vars/app_servers.yml").write_text(yaml.safe_dump(settings))
    return directory


@pytest.fixture(scope="module")
def play(stage, amazon, owner):
    def play(*options, succeeds=True, **variables):
        environment = {**owner, "AWS_ENDPOINT_URL": amazon, "ANSIBLE_VAULT_PASSWORD_FILE": str(stage / "password")}
        arguments = ["--extra-vars", json.dumps(variables), *options]
        run = run_playbook(PROJECT, "playbooks/s3_bucket.yml", stage, *arguments, succeeds=succeeds, environment=environment)
        return " ".join(run.stdout.split())

    return play


@pytest.fixture(scope="module")
def created(play):
    return play()


@pytest.fixture(scope="module")
def key(created, stage):
    """The app's key."""
    view = ["ansible-vault", "view", "--vault-password-file", str(stage / "password"), str(stage / "group_vars/all/bucket_key.yml")]
    return yaml.safe_load(subprocess.run(view, check=True, text=True, capture_output=True).stdout)["vault_bucket_key"]


def test_the_bucket_is_private_and_allows_uploads_from_the_site_s_pages(created, amazon, owner):
    s3 = client("s3", amazon, owner)
    assert all(s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"].values())
    assert s3.get_bucket_ownership_controls(Bucket=BUCKET)["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    (statement,) = json.loads(s3.get_bucket_policy(Bucket=BUCKET)["Policy"])["Statement"]
    assert statement["Effect"] == "Deny" and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    (rule,) = s3.get_bucket_cors(Bucket=BUCKET)["CORSRules"]
    assert rule["AllowedOrigins"] == ["https://shop.example", "https://www.shop.example"]


def test_the_app_s_key_has_access_to_this_bucket_only(key, amazon, owner):
    client("s3", amazon, owner).create_bucket(Bucket="another", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    policy = json.loads(
        json.dumps(client("iam", amazon, owner).get_user_policy(UserName="shop-production", PolicyName=BUCKET)["PolicyDocument"])
    )
    assert {statement["Effect"] for statement in policy["Statement"]} == {"Allow"}
    assert all(str(statement["Resource"]).startswith(f"arn:aws:s3:::{BUCKET}") for statement in policy["Statement"])
    assert not [action for statement in policy["Statement"] for action in statement["Action"] if "*" in action]
    s3 = client("s3", amazon, key)
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.put_object(Bucket="another", Key="x", Body=b"x")
    with pytest.raises(ClientError, match="AccessDenied"):
        client("iam", amazon, key).list_users()
    s3.list_objects_v2(Bucket=BUCKET)


def test_the_key_is_stored_encrypted_and_never_shown(created, key, stage):
    assert key["AWS_SECRET_ACCESS_KEY"] not in created
    kept = stage / "group_vars/all/bucket_key.yml"
    assert kept.read_text().startswith("$ANSIBLE_VAULT;") and kept.stat().st_mode & 0o777 == 0o600


def test_a_second_run_changes_nothing(key, play, stage):
    before = (stage / "group_vars/all/bucket_key.yml").read_text()
    assert "changed=0" in play()
    assert (stage / "group_vars/all/bucket_key.yml").read_text() == before


def test_a_lost_key_is_replaced(key, play, stage, amazon, owner):
    (stage / "group_vars/all/bucket_key.yml").unlink()
    assert "changed=2" in play()
    assert len(client("iam", amazon, owner).list_access_keys(UserName="shop-production")["AccessKeyMetadata"]) == 2


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"s3_bucket_name": ""}, "s3_bucket_name is '', which is not a valid bucket name"),
        ({"s3_bucket_name": "My_Uploads"}, "s3_bucket_name is 'My_Uploads'"),
        ({"s3_bucket_endpoint_url": "http://127.0.0.1:9"}, "could not be created at http://127.0.0.1:9"),
    ],
)
def test_an_invalid_setting_is_reported(play, variables, message):
    assert message in play(succeeds=False, **variables)


def test_without_a_vault_password_no_key_is_created(play, monkeypatch, stage):
    """The key could not be stored."""
    (stage / "password").rename(stage / "hidden")
    try:
        (stage / "password").write_text("")
        play(succeeds=False)
    finally:
        (stage / "hidden").replace(stage / "password")


@pytest.fixture
def check(tmp_path, amazon, owner, created, monkeypatch):
    # the operator's own AWS configuration must not be used
    (tmp_path / "config").write_text("[profile mine]\naws_access_key_id = x\naws_secret_access_key = y\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    settings = {"S3_BUCKET": BUCKET, "AWS_ENDPOINT_URL_S3": amazon, "AWS_DEFAULT_REGION": "eu-central-1"}
    return lambda succeeds, **other: preflight(tmp_path, {"here": {"app_env": {**settings, **other}, "app_secrets": owner}}, succeeds)


def test_a_usable_bucket_is_accepted(check):
    check(succeeds=True)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"S3_BUCKET": "nobody-has-this"}, "the app can't use the bucket 'nobody-has-this'"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, "at http://127.0.0.1:9"),
    ],
)
def test_an_unusable_bucket_is_reported_before_anything_is_changed(check, owner, other, message):
    run = check(succeeds=False, **other)
    text = run.text.replace("''", "'")
    assert message in text and "Nothing was changed." in text, text
    assert owner["AWS_SECRET_ACCESS_KEY"] not in run.output
