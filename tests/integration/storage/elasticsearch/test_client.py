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
from backend.ingest.requests import AcceptRequest
from backend.monitoring.doctor import CheckContext, run_checks
from backend.settings import Settings
from tests.conftest import Engines, skip_absent
from tests.support.elasticsearch.fixtures import PASSWORD, USER, WITH_USER, new_node_or_skip
from tests.support.elasticsearch.requests import publisher, search_numbers, store_messages
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.xdist_group("elasticsearch outage")


@dataclass
class SecuredNode:
    """A node that requires a user and a password, over TLS."""

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
def secured_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredNode]:
    """The node, with a certificate that only clients with its CA file trust."""
    if not shutil.which("openssl"):
        skip_absent("openssl")
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
    node = new_node_or_skip(
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
        yield SecuredNode(node.url.removeprefix("https://"), folder / "certificate.pem")
    finally:
        node.remove()


def publish_and_search(core: Backend) -> None:
    """Publish something, and find it."""
    token = core.catalog.applications.create("test").token
    core.acceptor.accept(AcceptRequest.chats(token))
    core.drainer.drain_all()
    store_messages(core, token, "a word")
    assert publisher(core).publish() == 1
    assert core.catalog.messages.wait_searchable(token, 1, 1, 1, PATIENCE_SECONDS)
    assert search_numbers(core, token, "word") == [1]


def error_text(**settings: Any) -> str:
    """What is said of settings that do not work; no secret may be in it."""
    index = open_index(Settings(**settings))
    assert index is not None
    with pytest.raises(EngineDown) as caught:
        index.version()
    index.close()
    return f"{caught.value.message} {caught.value.hint} {Settings(**settings)!r}"


def test_connecting_with_a_password_over_tls_with_a_private_authority(
    engines: Engines, secured_node: SecuredNode
) -> None:
    """User and password come from the URL, the authority comes from the CA file."""
    settings = engines.settings(
        elasticsearch_url=secured_node.url(), elasticsearch_ca_file=secured_node.certificate
    )
    with open_backend(settings) as core:
        publish_and_search(core)


def test_an_api_key_with_the_documented_privileges_is_enough(
    engines: Engines, secured_node: SecuredNode
) -> None:
    """docs/elasticsearch.md lists them."""
    privileges = {
        "cluster": ["monitor"],
        "indices": [{"names": ["instachat-*"], "privileges": ["manage", "read", "write"]}],
    }
    made = secured_node.ask(
        "POST",
        "/_security/api_key",
        {"name": "instachat", "role_descriptors": {"instachat": privileges}},
    )
    settings = engines.settings(
        elasticsearch_url=f"https://{secured_node.host}",
        elasticsearch_api_key=made["encoded"],
        elasticsearch_ca_file=secured_node.certificate,
    )
    with open_backend(settings) as core:
        publish_and_search(core)
        results = {
            result.check: result
            for result in run_checks(
                CheckContext(
                    settings,
                    core.database,
                    core.log,
                    core.workers,
                    core.index,
                    core.jobs.length,
                    core.counter_sync.lag,
                    core.epochs.recognition.find_wrong,
                )
            )
        }
    assert results["search index"].severity == "ok"
    assert results["Elasticsearch"].severity == "ok"
    assert results["Elasticsearch's security"].severity == "ok"
    assert made["encoded"] not in repr(settings)


def test_rejected_credentials_are_reported_without_the_secret(secured_node: SecuredNode) -> None:
    """A wrong password, a wrong key or none is answered by 401; the error repeats none of them."""
    ca = {"elasticsearch_ca_file": secured_node.certificate}
    said = error_text(elasticsearch_url=secured_node.url(password="wrong-secret"), **ca)
    assert "401" in said
    assert "wrong-secret" not in said.partition("Settings")[0]
    key = base64.b64encode(b"id:wrong-secret").decode()
    url = f"https://{secured_node.host}"
    said = error_text(elasticsearch_url=url, elasticsearch_api_key=key, **ca)
    assert "401" in said
    assert key not in said
    assert "401" in error_text(elasticsearch_url=url, **ca)


def test_an_untrusted_certificate_is_refused(secured_node: SecuredNode) -> None:
    """The error names the setting for an authority."""
    said = error_text(elasticsearch_url=secured_node.url())
    assert "certificate" in said
    assert "INSTACHAT_ELASTICSEARCH_CA_FILE" in said


def test_a_missing_ca_file_is_reported(tmp_path: Path, secured_node: SecuredNode) -> None:
    gone = tmp_path / "gone.pem"
    said = error_text(elasticsearch_url=secured_node.url(), elasticsearch_ca_file=gone)
    assert str(gone) in said


def test_a_url_of_another_server_is_reported(engines: Engines) -> None:
    with pytest.raises(EngineDown, match="can't be used"):
        open_index(Settings(elasticsearch_url=f"http://127.0.0.1:{engines.redis.port}")).version()  # type: ignore[union-attr]
