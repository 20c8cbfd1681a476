"""Who may speak to Elasticsearch, and over what: passwords, API keys, TLS. None of it is ever told."""

import base64
import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from backend.bootstrap import Backend, open_backend, open_index
from backend.domain.errors import EngineDown
from backend.ingest import accept
from backend.monitoring.doctor import Patient, examine
from backend.settings import Settings
from tests.conftest import Engines, missing
from tests.elastic.fixtures import PASSWORD, USER, WITH_USER, new_node_or_missing
from tests.elastic.speaking import found, publisher, send

pytestmark = pytest.mark.xdist_group("elasticsearch outage")


@dataclass
class Guarded:
    """A node that asks who is there, over TLS."""

    host: str
    certificate: Path

    def url(self, user: str = USER, password: str = PASSWORD) -> str:
        """Its URL, for a user."""
        return f"https://{user}:{password}@{self.host}"

    def ask(self, method: str, path: str, body: object) -> Any:
        """Ask it as its superuser."""
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        headers = {"content-type": "application/json", "authorization": f"Basic {login}"}
        data = json.dumps(body).encode()
        request = Request(f"https://{self.host}{path}", data, headers, method=method)
        context = ssl.create_default_context(cafile=self.certificate)
        with urlopen(request, timeout=30, context=context) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The node, with a certificate that nobody knows but who is given it."""
    if not shutil.which("openssl"):
        missing("openssl")
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", "key.pem", "-out", "certificate.pem", "-subj", "/CN=instachat-test"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    files = {name: (folder / name).read_text() for name in ("key.pem", "certificate.pem")}
    node = new_node_or_missing(
        {
            "xpack.security.enabled": True,
            "xpack.security.http.ssl.enabled": True,
            "xpack.security.http.ssl.key": "key.pem",
            "xpack.security.http.ssl.certificate": "certificate.pem",
        },
        WITH_USER | files,
    )
    try:
        node.start()
        yield Guarded(node.url.removeprefix("https://"), folder / "certificate.pem")
    finally:
        node.remove()


def use(core: Backend) -> None:
    """Publish something, and find it."""
    token = core.catalog.create_application("test").token
    core.acceptor.accept(accept.chats(token))
    core.drainer.drain_all()
    send(core, token, "a word")
    assert publisher(core).publish() == 1
    assert core.catalog.wait_searchable(token, 1, 1, 1, 10)
    assert found(core, token, "word") == [1]


def complaint(**settings: Any) -> str:
    """What is said of settings that do not work; no secret may be in it."""
    index = open_index(Settings(**settings))
    assert index is not None
    with pytest.raises(EngineDown) as caught:
        index.version()
    index.close()
    return f"{caught.value.message} {caught.value.hint} {Settings(**settings)!r}"


def test_a_password_over_tls_with_a_private_authority(engines: Engines, guarded: Guarded) -> None:
    """User and password are those of the URL, the authority that of the CA file."""
    settings = engines.settings(
        elasticsearch_url=guarded.url(), elasticsearch_ca_file=guarded.certificate
    )
    with open_backend(settings) as core:
        use(core)


def test_an_api_key_that_may_do_no_more_than_it_has_to(engines: Engines, guarded: Guarded) -> None:
    """The privileges that docs/operations.md names are enough."""
    privileges = {
        "cluster": ["monitor"],
        "indices": [{"names": ["instachat-*"], "privileges": ["manage", "read", "write"]}],
    }
    made = guarded.ask(
        "POST",
        "/_security/api_key",
        {"name": "instachat", "role_descriptors": {"instachat": privileges}},
    )
    settings = engines.settings(
        elasticsearch_url=f"https://{guarded.host}",
        elasticsearch_api_key=made["encoded"],
        elasticsearch_ca_file=guarded.certificate,
    )
    with open_backend(settings) as core:
        use(core)
        findings = {
            finding.check: finding
            for finding in examine(
                Patient(
                    settings,
                    core.database,
                    core.log,
                    core.index,
                    core.jobs.length,
                    list,
                    core.syncer.lag,
                )
            )
        }
    assert findings["search index"].severity == "ok"
    assert findings["Elasticsearch"].severity == "ok"
    assert findings["Elasticsearch's security"].severity == "ok"
    assert made["encoded"] not in repr(settings)


def test_who_is_not_let_in_is_told_so_without_the_secret(guarded: Guarded) -> None:
    """A wrong password, a wrong key, none at all: 401, and no word of what was tried."""
    ca = {"elasticsearch_ca_file": guarded.certificate}
    said = complaint(elasticsearch_url=guarded.url(password="wrong-secret"), **ca)
    assert "401" in said
    assert "wrong-secret" not in said.partition("Settings")[0]
    key = base64.b64encode(b"id:wrong-secret").decode()
    url = f"https://{guarded.host}"
    said = complaint(elasticsearch_url=url, elasticsearch_api_key=key, **ca)
    assert "401" in said
    assert key not in said
    assert "401" in complaint(elasticsearch_url=url, **ca)


def test_a_certificate_that_nobody_vouches_for_is_refused(guarded: Guarded) -> None:
    """No silent trust; the setting that names an authority is told."""
    said = complaint(elasticsearch_url=guarded.url())
    assert "certificate" in said
    assert "INSTACHAT_ELASTICSEARCH_CA_FILE" in said


def test_a_ca_file_that_is_not_there_is_named(tmp_path: Path, guarded: Guarded) -> None:
    """Not a traceback."""
    gone = tmp_path / "gone.pem"
    said = complaint(elasticsearch_url=guarded.url(), elasticsearch_ca_file=gone)
    assert str(gone) in said


def test_what_is_no_elasticsearch_is_not_taken_for_one(engines: Engines) -> None:
    """Another server behind the URL, or none."""
    with pytest.raises(EngineDown, match="can't be used"):
        open_index(Settings(elasticsearch_url=f"http://127.0.0.1:{engines.redis.port}")).version()  # type: ignore[union-attr]
