"""The image's archive holds what its digests say, and the same files give the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

from lab import CHECKOUT
from lab.image import ENTRYPOINT, archive, layer_of

MADE_AT = 1_800_000_000
CONTAINER = CHECKOUT / "packaging" / "container"


def contents(image: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(image)) as tar:
        return {
            name: member.read() for name in tar.getnames() if (member := tar.extractfile(name)) is not None
        }


def blob(files: dict[str, bytes], described: dict[str, Any]) -> bytes:
    content = files["blobs/" + described["digest"].replace(":", "/")]
    assert len(content) == described["size"]
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == described["digest"]
    return content


def test_every_blob_is_what_its_digest_says() -> None:
    files = contents(archive(b"a layer", "amd64", MADE_AT))
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (top,) = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(blob(files, top))
    config = json.loads(blob(files, manifest["config"]))
    (layer,) = (gzip.decompress(blob(files, layer)) for layer in manifest["layers"])
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert config["config"]["Entrypoint"] == [ENTRYPOINT]
    assert config["config"]["Healthcheck"]["Test"] == ["CMD", "nconnect", "wait", "--timeout", "5"]
    assert len(files) == 5


def test_a_layer_has_all_files_but_those_of_the_making(tmp_path: Path) -> None:
    for name in (
        "etc/hosts",
        "usr/bin/tool",
        "proc/1/status",
        "var/cache/apt/x.deb",
        "nconnect.deb",
        "dev/null",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "usr/bin/tool").chmod(0o4755)
    (tmp_path / "bin").symlink_to("usr/bin")
    with tarfile.open(fileobj=io.BytesIO(layer_of(tmp_path, MADE_AT))) as tar:
        names = tar.getnames()
        assert names == sorted(names)
        assert {"etc/hosts", "usr/bin/tool", "bin", "proc", "dev", "var/cache/apt"} <= set(names)
        assert not {"proc/1", "proc/1/status", "var/cache/apt/x.deb", "nconnect.deb", "dev/null"} & set(names)
        assert tar.getmember("usr/bin/tool").mode == 0o4755
        assert tar.getmember("bin").linkname == "usr/bin"
        assert {member.mtime for member in tar} == {MADE_AT}


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    one = layer_of(tmp_path, MADE_AT)
    os.utime(tmp_path / "a", (1, 1))
    assert layer_of(tmp_path, MADE_AT) == one
    assert archive(one, "amd64", MADE_AT) == archive(one, "amd64", MADE_AT)


def test_the_examples_hold_no_token() -> None:
    """Nor an argument in which one would be: it comes by a secret's file."""
    for path in CONTAINER.iterdir():
        words = path.read_text().split()
        assert not [word for word in words if word.startswith("nc1-") and len(word) > len("nc1-…")], path
        assert "join nc1" not in path.read_text()
    for name in ("compose.yaml", "compose.provider.yaml", "kubernetes.yaml"):
        assert "NET_ADMIN" in (CONTAINER / name).read_text()
        assert "privileged" not in (CONTAINER / name).read_text()
