"""`scripts/package`: the wheel, and a Debian package that brings its libraries along.

    /usr/bin/nconnect                            starts it on the libraries below, and on no others
    /usr/lib/nconnect/                           nconnect and the libraries of requirements/runtime.lock
    /usr/lib/systemd/system/nconnect@.service
    /usr/share/{man,bash-completion,zsh,fish,doc}

Compiled libraries fit one minor version of Python, which is in their names, so those for several versions lie
side by side. The package fits the versions whose interpreters are on the machine that builds it
(`lab.interpreters`): 3.11 is Debian 12's, 3.13 is Debian 13's.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lab import CHECKOUT
from lab.command import give_back, interrupt_once
from lab.image import build_image
from lab.interpreters import Version, interpreters
from lab.netns import LabError
from nconnect import __version__

PACKAGING = CHECKOUT / "packaging"
LIBRARIES = "usr/lib/nconnect"
SCRIPTS = ("postinst", "prerm", "postrm")
# Where a shell looks for a command's completion, and how `nconnect completion` calls that shell.
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/nconnect",
    "zsh": "usr/share/zsh/vendor-completions/_nconnect",
    "fish": "usr/share/fish/vendor_completions.d/nconnect.fish",
}


def build_wheel(folder: Path) -> Path:
    """Build the wheel into `folder`, with the locked build tools."""
    with tempfile.TemporaryDirectory() as made:
        _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", made)
        (wheel,) = Path(made).glob("*.whl")
        return Path(shutil.move(wheel, folder / wheel.name))


def build_deb(wheel: Path, folder: Path) -> Path:
    """Build the Debian package of a wheel into `folder`, for this machine's architecture and Pythons."""
    for program in ("dpkg-deb", "dpkg"):
        if shutil.which(program) is None:
            raise LabError(f"{program} is missing: a Debian package can be built on Debian only")
    architecture = _run("dpkg", "--print-architecture").strip()
    with tempfile.TemporaryDirectory() as made:
        root = Path(made, "root")
        for python in reversed(interpreters().values()):
            _install(python, wheel, root / LIBRARIES)
        _place_files(root)
        _place_completions(root)
        _place_control(root, architecture)
        for path in (root, *root.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        deb = folder / f"nconnect_{__version__}_{architecture}.deb"
        _run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(root), str(deb))
    return deb


def dependencies() -> list[str]:
    """The package's dependencies on other packages, as they stand in its control file."""
    glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "glibc 2.36").split()[1]
    return [
        f"libc6 (>= {glibc})",
        python_dependency(list(interpreters())),
        "nftables",
        "passwd",
    ]


def python_dependency(versions: list[Version]) -> str:
    """Any of these minor versions (in order), and none between them."""
    (major, first), (_, last) = versions[0], versions[-1]
    missing = [minor for minor in range(first, last) if (major, minor) not in versions]
    gaps = [f"python3 (<< {major}.{minor}) | python3 (>= {major}.{minor + 1})" for minor in missing]
    return ", ".join([f"python3 (>= {major}.{first})", *gaps, f"python3 (<< {major}.{last + 1})"])


def _install(python: str, wheel: Path, target: Path) -> None:
    """Add what this interpreter needs to the folder: files that are there already are the same ones."""
    with tempfile.TemporaryDirectory() as made:
        _install_alone(python, wheel, Path(made, "libraries"))
        shutil.copytree(Path(made, "libraries"), target, dirs_exist_ok=True)


def _install_alone(python: str, wheel: Path, target: Path) -> None:
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install")
    options = ("--root-user-action=ignore", "--no-compile", "--target", str(target))
    _run(*pip, *options, "--require-hashes", "-r", "requirements/runtime.lock")
    _run(*pip, *options, "--no-deps", "--upgrade", str(wheel))
    for name in ("bin", "share"):  # programs and manuals of the libraries' own
        shutil.rmtree(target / name, ignore_errors=True)
    for trace in (*target.glob("*.dist-info/direct_url.json"), *target.glob("*.dist-info/RECORD")):
        trace.unlink()  # they name the folder of the build
    if shutil.which("strip"):  # their symbols are nine tenths of uvloop's
        _run("strip", "--strip-unneeded", *map(str, target.rglob("*.so")))
    # Byte code is made now, so that the package owns every file in its folders.
    compiler = (python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash")
    _run(*compiler, "-s", str(target), "-p", f"/{LIBRARIES}", str(target))


def _place_files(root: Path) -> None:
    _copy(PACKAGING / "deb" / "nconnect", root / "usr/bin/nconnect", 0o755)
    _copy(PACKAGING / "nconnect@.service", root / "usr/lib/systemd/system/nconnect@.service")
    documents = root / "usr/share/doc/nconnect"
    _copy(PACKAGING / "deb" / "copyright", documents / "copyright")
    _copy(CHECKOUT / "README.md", documents / "README.md")
    for page in sorted(PACKAGING.glob("man/*.[1-8]")):
        packed = root / f"usr/share/man/man{page.suffix[1:]}" / f"{page.name}.gz"
        packed.parent.mkdir(parents=True, exist_ok=True)
        packed.write_bytes(gzip.compress(page.read_bytes(), 9, mtime=0))


def _place_completions(root: Path) -> None:
    """What the installed command itself writes for each shell."""
    env = {**os.environ, "PYTHONPATH": str(root / LIBRARIES)}
    for shell, place in COMPLETIONS.items():
        done = subprocess.run(
            (sys.executable, "-m", "nconnect", "completion", shell),
            cwd=root,
            env={**env, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not done.stdout:
            raise LabError(f"nconnect completion {shell}: {done.stderr.strip() or 'printed nothing'}")
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(done.stdout)


def _place_control(root: Path, architecture: str) -> None:
    size_kib = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) // 1024
    control = root / "DEBIAN"
    control.mkdir()
    (control / "control").write_text(
        "Package: nconnect\n"
        f"Version: {__version__}\n"
        f"Architecture: {architecture}\n"
        "Section: net\n"
        "Priority: optional\n"
        "Maintainer: the authors of nconnect <nconnect@localhost>\n"
        f"Installed-Size: {size_kib}\n"
        f"Depends: {', '.join(dependencies())}\n"
        "Recommends: iproute2, iputils-ping\n"
        "Suggests: passt\n"
        "Description: tunnel between a device and somebody else's GPUs, over NKN\n"
        " Puts a TUN interface on both sides and ships IP packets between them as end-to-end\n"
        " encrypted messages over the NKN relay network or a node of one's own. No side needs a\n"
        " public address, a port forward or an account.\n"
    )
    for name in SCRIPTS:
        _copy(PACKAGING / "deb" / name, control / name, 0o755)


def _copy(source: Path, target: Path, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def _commit_time() -> str:
    """Seconds since the epoch of the commit that is built, or of now where there is none."""
    done = subprocess.run(
        ("git", "log", "-1", "--format=%ct"), cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or str(int(time.time()))


def _run(*command: str) -> str:
    env = {"SOURCE_DATE_EPOCH": _commit_time(), **os.environ}
    done = subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/package",
        description="Builds the wheel, for pipx and uv, and a Debian package that holds nconnect with all its"
        " Python libraries, the systemd unit, manual pages and completions.",
    )
    parser.add_argument("--out", type=Path, default=CHECKOUT / "dist", metavar="DIR", help="where to (dist/)")
    parser.add_argument("--wheel", action="store_true", help="the wheel alone")
    parser.add_argument("--image", action="store_true", help="an OCI image too; takes root and debootstrap")
    parser.add_argument(
        "--json", action="store_true", help='print one JSON object: {"wheel", "deb", "image"}'
    )
    options = parser.parse_args(arguments)
    interrupt_once()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        wheel = build_wheel(options.out)
        deb = None if options.wheel and not options.image else build_deb(wheel, options.out)
        image = None
        if options.image and deb is not None:
            words = {word.split()[0] for line in dependencies() for word in line.split(", ")}
            image = build_image(deb, options.out, sorted(words), int(_commit_time()))
    except (LabError, OSError) as error:
        print(f"package: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        give_back()
    built = [path for path in (wheel, deb, image) if path is not None]
    if options.json:
        paths = {"wheel": wheel, "deb": deb, "image": image}
        print(json.dumps({kind: str(path) if path else None for kind, path in paths.items()}))
    else:
        for path in built:
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
