from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from nconnect.io.files.trusted import Folder, create_file, read_file, set_mode, write_atomically
from nconnect.io.files.user import UntrustedPath


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_the_mode_is_0600_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "x", b"secret")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "x").read_bytes() == b"secret"


def test_it_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    for data in (b"one", b"", b"x" * 300_000):
        write_atomically(tmp_path / "x", data)
        assert [p.name for p in tmp_path.iterdir()] == ["x"]
        assert (tmp_path / "x").read_bytes() == data


def test_a_reader_keeps_what_it_opened(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x", b"old")
    with (tmp_path / "x").open("rb") as reader:
        write_atomically(tmp_path / "x", b"new")
        assert reader.read() == b"old"


def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "x", b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "x", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_the_owner_is_kept(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x", b"new", owner=(12345, 23456))
    status = (tmp_path / "x").stat()
    assert (status.st_uid, status.st_gid) == (12345, 23456)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
THEM = 12345


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of another user, beside a file that only root can read."""
    (tmp_path / "secret").write_text("root's own")
    (tmp_path / "secret").chmod(0o600)
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, THEM, THEM)
    return folder


def rights() -> tuple[str, list[int]]:
    """This thread's uids, the file system's last, and the process's groups."""
    status = Path("/proc/thread-self/status").read_text()
    return next(line for line in status.splitlines() if line.startswith("Uid:")), os.getgroups()


@needs_root
def test_in_another_users_folder_root_has_that_users_rights(theirs: Path, tmp_path: Path) -> None:
    before = rights()
    with Folder.open(theirs) as folder:
        assert folder.user is not None
        assert folder.user.uid == THEM
        folder.replace("made", b"x")
        (theirs / "link").symlink_to(tmp_path / "secret")
        os.link(tmp_path / "secret", theirs / "hard")
        for name in ("link", "hard"):
            with pytest.raises(OSError, match=r"link|Permission"):
                folder.read(name, 100)
            with pytest.raises(OSError, match=r"link|Permission"):
                folder.open_file(name, os.O_WRONLY)
            folder.replace(name, b"new")
    assert (theirs / "made").stat().st_uid == THEM
    assert (tmp_path / "secret").read_text() == "root's own"
    assert rights() == before


@needs_root
@pytest.mark.parametrize("target", ["secret", "../secret", "/etc/passwd"])
def test_no_link_on_the_way_through_it_is_followed(theirs: Path, tmp_path: Path, target: str) -> None:
    (theirs / "down").symlink_to(tmp_path)
    (theirs / "file").symlink_to(target)
    for path in (theirs / "down" / "secret", theirs / "file"):
        with pytest.raises(UntrustedPath, match="is a link"):
            read_file(path, 100)
    with pytest.raises(UntrustedPath, match="is a link"):
        Folder.make(theirs / "down" / "new")
    with pytest.raises(FileExistsError):
        create_file(theirs / "file")
    assert not (tmp_path / "new").exists()


@needs_root
def test_rights_do_not_come_back_below_it(theirs: Path) -> None:
    """A folder of root's that the user moved there: it is walked with the user's rights."""
    inner = theirs / "inner"
    inner.mkdir(mode=0o700)
    (inner / "file").write_text("root's own")
    with pytest.raises(PermissionError):
        read_file(inner / "file", 100)
    os.chown(inner, 54321, 54321)
    with pytest.raises(UntrustedPath, match="belongs to user 54321, not to user 12345"):
        read_file(inner / "file", 100)


@needs_root
def test_links_of_root_are_followed_where_nobody_else_can_make_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("x")
    (tmp_path / "way").symlink_to("real")
    (tmp_path / "real" / "again").symlink_to("../way/file")
    assert read_file(tmp_path / "way" / "again", 10) == b"x"
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError, match="Too many levels"):
        read_file(tmp_path / "round", 10)


@needs_root
def test_a_folder_that_others_write_to_is_refused_unless_it_is_sticky(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for mode, group, is_refused in (
        (0o777, 0, True),
        (0o775, 100, True),
        (0o775, 0, False),
        (0o1777, 0, False),
    ):
        tmp_path.chmod(mode)
        os.chown(tmp_path, 0, group)
        if is_refused:
            with pytest.raises(UntrustedPath, match="others can replace"):
                read_file(tmp_path / "file", 10)
        else:
            assert read_file(tmp_path / "file", 10) == b"x"
    (tmp_path / "link").symlink_to("file")
    os.chown(tmp_path / "link", THEM, THEM, follow_symlinks=False)
    with pytest.raises(UntrustedPath, match="is a link"):
        read_file(tmp_path / "link", 10)


@needs_root
def test_a_folder_to_which_an_acl_lets_others_write_is_refused(tmp_path: Path) -> None:
    """Its group is root's, and the mode looks as if nobody else could."""
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "x").write_bytes(b"x")
    for may, refused in ((5, False), (7, True)):
        # linux/posix_acl_xattr.h: version; tag, rights and id of owner, a user, group, mask and others.
        entries = (
            (1, 7, 2**32 - 1),
            (2, may, 12345),
            (4, 5, 2**32 - 1),
            (16, may, 2**32 - 1),
            (32, 5, 2**32 - 1),
        )
        acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
        try:
            os.setxattr(folder, "system.posix_acl_access", acl)
        except OSError:
            pytest.skip("no ACLs on this file system")
        if refused:
            with pytest.raises(UntrustedPath, match="others can replace"):
                read_file(folder / "x", 10)
        else:
            assert read_file(folder / "x", 10) == b"x"


@needs_root
def test_what_is_made_in_another_users_folder_is_that_users(theirs: Path) -> None:
    Folder.make(theirs / "a" / "b", mode=0o700).close()
    os.close(create_file(theirs / "a" / "file"))
    for path in (theirs / "a", theirs / "a" / "b", theirs / "a" / "file"):
        assert path.stat().st_uid == THEM
    assert (theirs / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_only_files_are_read_and_a_fifo_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(UntrustedPath, match="is not a file"):
            read_file(path, 10)


@needs_root
def test_a_mode_is_set_of_the_file_itself(theirs: Path, tmp_path: Path) -> None:
    path = theirs / "file"
    for owner in (THEM, 0):
        path.write_text("x")
        path.chmod(0o644)
        os.chown(path, owner, owner)
        set_mode(path, 0o600)
        assert path.stat().st_mode & 0o777 == 0o600
        path.unlink()
    (tmp_path / "secret").chmod(0o640)
    for place in (path.symlink_to, path.hardlink_to):
        place(tmp_path / "secret")
        with pytest.raises(OSError, match=r"link|not permitted"):
            set_mode(path, 0o600)
        path.unlink()
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o640
