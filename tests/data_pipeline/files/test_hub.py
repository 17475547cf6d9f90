"""A folder here and one on the hub are one thing; what the hub does not give is one message."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from data_pipeline.files.hub import HubError, local_folder


def find(name, **settings):
    return local_folder(name, "a folder of weights", **settings)


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Stands for the hub: it gives one folder for every name, and keeps what it was asked."""
    asked = []

    def snapshot_download(name, **settings):
        asked.append((name, settings))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def test_a_folder_here_comes_before_the_hub(tmp_path, monkeypatch, fetched):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user/name").mkdir(parents=True)
    assert str(find("user/name")) == "user/name" and find(tmp_path) == tmp_path
    assert not fetched


def test_a_name_that_is_no_folder_is_fetched_without_training_state(tmp_path, fetched):
    assert find("user/my.model-2", revision="v1") == tmp_path
    settings = {"ignore_patterns": ["state/*"], "revision": "v1"}
    assert fetched == [("user/my.model-2", settings)]


@pytest.mark.parametrize("name", ["gone", "./gone", "a/b/c", "/gone", "../gone", "a b/c"])
def test_what_can_be_no_name_on_the_hub_is_not_asked_for(name, fetched):
    with pytest.raises(HubError, match=f"no folder {name}; expected a folder of weights, or OWNER"):
        find(name)
    assert not fetched


def test_a_file_is_told(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(HubError, match="model.safetensors is a file; expected a folder of weights"):
        find(tmp_path / "model.safetensors")


@pytest.fixture
def refusing():
    """A hub on this machine that refuses everything: `refusing(status, code)` is its address."""
    servers = []

    def serve(status, code):
        class Refuse(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Refuse)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (404, "RepoNotFound", "nothing of that name on the hub, or it is private; check the spell"),
        (401, "RepoNotFound", "nothing of that name on the hub, or it is private; check the"),
        (403, "GatedRepo", "wants its terms agreed to: https://huggingface.co/user/name"),
        (404, "RevisionNotFound", "has no revision v9; those that it has are at"),
        (403, "", r"the hub did not give it \(.*403.*; name a folder of weights, or fetch it"),
    ],
)
def test_what_the_hub_answers_is_one_message(tmp_path, refusing, status, code, told):
    with pytest.raises(HubError, match=told):
        find("user/name", endpoint=refusing(status, code), cache_dir=tmp_path, revision="v9")


def test_a_hub_out_of_reach_is_told_with_the_way_around(tmp_path):
    nobody = "http://127.0.0.1:9"
    with pytest.raises(HubError, match="here, and the hub did not give it .*refused.*hf download"):
        find("user/name", endpoint=nobody, cache_dir=tmp_path)
