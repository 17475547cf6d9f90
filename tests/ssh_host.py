"""Machines that passwordless ssh reaches, all of them this one: a private sshd, for tests."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SSHD = "/usr/sbin/sshd"
SERVER = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
SetEnv {variables}
"""
CLIENT = """
Host {names}
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  HostKeyAlias ssh_host
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  LogLevel ERROR
"""


@contextlib.contextmanager
def started_sshd(folder: Path, names: tuple[str, ...], **variables: str) -> Iterator[Path]:
    """Within it `ssh NAME` reaches this machine, for whoever puts the folder it gives into PATH.

    The `ssh` that lies there reads keys and settings of `folder`, as the user's own would ~/.ssh.
    What comes by it has `variables`, and nothing else of ours. Skips where sshd or pdsh is absent.
    """
    missing = [name for name in ("pdsh", "ssh", "ssh-keygen") if shutil.which(name) is None]
    if missing or not os.access(SSHD, os.X_OK):
        pytest.skip(f"no {', '.join([*missing, SSHD])}: apt-get install pdsh openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as its service would
    folder.mkdir()
    for key in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(command, check=True)
    (folder / "known_hosts").write_text(f"ssh_host {(folder / 'host_key.pub').read_text()}")
    told = {"folder": folder, "port": _free_port(), "user": getpass.getuser()}
    told |= {"names": " ".join(names)}
    told |= {"variables": " ".join(f'"{name}={value}"' for name, value in variables.items())}
    (folder / "server").write_text(SERVER.format(**told))
    (folder / "client").write_text(CLIENT.format(**told))
    wrapper = folder / "bin/ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/client "$@"\n')
    wrapper.chmod(0o755)
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "server")], stderr=log)
    try:
        deadline = time.monotonic() + 20
        while subprocess.run([wrapper, names[0], "true"], capture_output=True).returncode:
            said = (folder / "server.log").read_text()
            assert server.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.1)
        yield wrapper.parent
    finally:
        server.terminate()
        server.wait(timeout=20)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
