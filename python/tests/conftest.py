# SPDX-License-Identifier: Apache-2.0
"""The package under test is the one of this checkout; see fake_daemon.py."""

import os
import sys

import pytest

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from fake_daemon import FakeDaemon

import silo


@pytest.fixture
def fake(tmp_path_factory):
    daemon = FakeDaemon(tmp_path_factory.mktemp("d"))
    yield daemon
    daemon.stop()


@pytest.fixture
def server(fake):
    server = silo.Server(fake.url)
    yield server
    server.close()
