"""`scripts/package --image`: an OCI image of nconnect, made without a registry.

A minimal Debian by debootstrap, with the Debian package and what it depends on, becomes the one layer of an
image (OCI image specification 1.1: `oci-layout`, `index.json`, `blobs/sha256/…`), in a tar archive that
`podman load`, `docker load` and `skopeo copy oci-archive:…` take. The same commit gives the same bytes, as
long as Debian's packages are the same.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from lab import CHECKOUT
from lab.netns import LabError
from nconnect import __version__

RELEASE = "bookworm"
ENTRYPOINT = "/usr/local/bin/nconnect-container"
EXTRA = ("iproute2", "passt")  # recommended and suggested by the package
# Folders that are empty in an image, and what only the making needed.
_EMPTY = ("dev", "proc", "sys", "tmp", "run", "var/cache/apt", "var/lib/apt/lists", "var/log")
_LEFT_OUT = ("debootstrap", "nconnect.deb")
_TYPE = "application/vnd.oci.image"
_NS = 1_000_000_000


def build_image(deb: Path, folder: Path, packages: Sequence[str], made_at: int) -> Path:
    """Build the image of a Debian package into `folder`, as root.

    `packages`: what the package depends on. `made_at`: seconds since the epoch, for everything in it. Raises
    `LabError`.
    """
    if os.geteuid():
        raise LabError("an image is made of another system's files: run it as root")
    if shutil.which("debootstrap") is None:
        raise LabError("debootstrap is missing: install it with `apt install debootstrap`")
    architecture = _run("dpkg", "--print-architecture").strip()
    with tempfile.TemporaryDirectory() as made:
        root = Path(made, "root")
        include = ",".join(sorted({*packages, *EXTRA}))
        _run("debootstrap", "--variant=minbase", f"--include={include}", RELEASE, str(root), *mirror())
        shutil.copy(deb, root / "nconnect.deb")
        _run("unshare", "--mount", "sh", "-c", _INSTALL, str(root))
        entry = root / ENTRYPOINT.lstrip("/")
        shutil.copy(CHECKOUT / "packaging" / "container" / "entrypoint", entry)
        entry.chmod(0o755)
        layer = layer_of(root, made_at)
    image = folder / f"nconnect_{__version__}_{architecture}.oci.tar"
    image.write_bytes(archive(layer, architecture, made_at))
    return image


_INSTALL = (
    'mount -t proc proc "$0/proc" && exec chroot "$0" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin'
    " DEBIAN_FRONTEND=noninteractive dpkg -i /nconnect.deb"
)


def layer_of(root: Path, made_at: int) -> bytes:
    """A tar of everything in the folder, in the order of names, with numbers in place of owners' names."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, path in _files(root):
            entry = tar.gettarinfo(str(path), name)
            if entry is None:  # a socket
                continue
            entry.mtime, entry.uname, entry.gname = made_at, "", ""
            if entry.isreg():
                with path.open("rb") as file:
                    tar.addfile(entry, file)
            else:
                tar.addfile(entry)
    return written.getvalue()


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        inside = any(name.startswith(f"{folder}/") for folder in _EMPTY)
        if not inside and name.partition("/")[0] not in _LEFT_OUT:
            yield name, path


def archive(layer: bytes, architecture: str, made_at: int) -> bytes:
    """The whole image, of its one layer (a tar that is not compressed)."""
    blobs: dict[str, bytes] = {}

    def add(kind: str, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": f"{_TYPE}.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    packed = add("layer.v1.tar+gzip", gzip.compress(layer, 6, mtime=0))
    date = datetime.fromtimestamp(made_at, UTC).isoformat().replace("+00:00", "Z")
    config = {
        "created": date,
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": [ENTRYPOINT],
            "Volumes": {"/etc/nconnect": {}, "/var/lib/nconnect": {}},
            "StopSignal": "SIGTERM",
            # Not of OCI's: Docker reads it, others pass over it.
            "Healthcheck": {
                "Test": ["CMD", "nconnect", "wait", "--timeout", "5"],
                "Interval": 30 * _NS,
                "Timeout": 10 * _NS,
                "StartPeriod": 30 * _NS,
            },
            "Labels": {
                "org.opencontainers.image.title": "nconnect",
                "org.opencontainers.image.version": __version__,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created": date, "created_by": "scripts/package --image"}],
    }
    described = add("config.v1+json", json.dumps(config).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_TYPE}.manifest.v1+json",
        "config": described,
        "layers": [packed],
    }
    top = add("manifest.v1+json", json.dumps(manifest).encode())
    top["annotations"] = {"org.opencontainers.image.ref.name": "nconnect:latest"}
    index = {"schemaVersion": 2, "mediaType": f"{_TYPE}.index.v1+json", "manifests": [top]}
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(index).encode(),
        **{f"blobs/sha256/{digest}": content for digest, content in sorted(blobs.items())},
    }
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(content), made_at, 0o644
            tar.addfile(entry, io.BytesIO(content))
    return written.getvalue()


def mirror() -> Sequence[str]:
    """The mirror that this machine's apt uses, as debootstrap takes it; nothing if it names none."""
    command = (
        "apt-get",
        "indextargets",
        "--format",
        "$(SITE) $(REPO_URI)",
        f"Codename: {RELEASE}",
        "Label: Debian",
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line.split()[1] for line in done.stdout.splitlines() if len(line.split()) == 2]
    return [found[0].rstrip("/")] if found else []


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise LabError(f"{command[0]}: {' '.join(words)}")
    return done.stdout
