"""A home is served by one process, of a format this release knows."""

import os
import stat
import subprocess
import sys

import pytest

from monofs.model.errors import ConfigError, HomeInUse, HomeUnusable
from monofs.node.home import load_secret, open_home


def test_a_new_home_is_made_private_and_opens_again(tmp_path):
    home = open_home(str(tmp_path / "h"), software="1", now_ns=1)
    assert home.new
    assert stat.S_IMODE(os.stat(home.directory).st_mode) == 0o700
    home.close()
    again = open_home(str(tmp_path / "h"), software="1", now_ns=2)
    assert not again.new
    again.close()


def test_a_home_in_use_is_refused_naming_the_process_and_freed_by_its_death(tmp_path):
    code = (
        "import sys; from monofs.node.home import open_home; home = open_home(sys.argv[1], software='1', now_ns=1);"
        "print('ready', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(HomeInUse, match=f"process {process.pid}"):
            open_home(str(tmp_path), software="1", now_ns=1)
        process.kill()
    open_home(str(tmp_path), software="1", now_ns=1).close()


def test_a_newer_format_a_damaged_one_and_a_foreign_directory_are_refused(tmp_path):
    open_home(str(tmp_path), software="1", now_ns=1).close()
    (tmp_path / "format").write_text('{"format": 99, "software": "9.9", "created_ns": 1}')
    with pytest.raises(HomeUnusable, match=r"monofs 9\.9"):
        open_home(str(tmp_path), software="1", now_ns=1)
    (tmp_path / "format").write_text("{")
    with pytest.raises(HomeUnusable, match="damaged"):
        open_home(str(tmp_path), software="1", now_ns=1)
    (tmp_path / "format").unlink()
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(HomeUnusable, match=r"thesis\.tex"):
        open_home(str(tmp_path), software="1", now_ns=1)
    with pytest.raises(HomeUnusable, match="--home"):
        open_home(str(tmp_path / "thesis.tex" / "x"), software="1", now_ns=1)


def test_a_refused_directory_is_left_as_it_was_and_a_first_start_cut_short_goes_on(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(HomeUnusable, match=r"thesis\.tex"):
        open_home(str(tmp_path), software="1", now_ns=1)
    assert os.listdir(tmp_path) == ["thesis.tex"]
    (tmp_path / "thesis.tex").rename(tmp_path / "format.new")
    assert open_home(str(tmp_path), software="1", now_ns=1).new


def test_the_secret_is_made_once_kept_private_and_checked(tmp_path):
    home = open_home(str(tmp_path), software="1", now_ns=1)
    secret = load_secret(home, "")
    assert len(secret) == 64
    assert load_secret(home, "") == secret
    file = tmp_path / "cluster.secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_secret(home, "")
    file.chmod(0o600)
    file.write_text("short")
    with pytest.raises(ConfigError, match="shorter"):
        load_secret(home, "")
    with pytest.raises(ConfigError, match="cannot read"):
        load_secret(home, str(tmp_path / "none"))
    home.close()
