"""One cluster for all tests of this directory: making it takes a minute and a half."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.image import busybox_image
from tests.kubernetes.cluster import PAUSE, Cluster
from tests.kubernetes.image import REPOSITORY, weaver_image
from tests.kubernetes.mesh import until_rolled_out

BUILT = REPOSITORY / "build/kubernetes"
MANIFEST = REPOSITORY / "deploy/kubernetes/weaver.yaml"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three nodes that the manifest was applied to, as it stands in the repository."""
    if not os.environ.get("WEAVER_KUBERNETES"):
        pytest.skip("kubernetes: runs by make e2e-kubernetes, which builds it")
    # On a real file system, as overlay mounts need it.
    place = Path(tempfile.mkdtemp(prefix="weaver-kubernetes-", dir="/var/tmp"))
    images = [
        weaver_image(BUILT, place / "weaver.tar"),
        busybox_image(place / "busybox.tar"),
        busybox_image(place / "pause.tar", PAUSE, "/bin/sleep", "100000"),
    ]
    made = Cluster(place, BUILT / "bin", images)
    try:
        made.up()
        made.kubectl("apply", "-f", str(MANIFEST))
        until_rolled_out(made)
        yield made
    finally:
        made.keep_logs(BUILT / "logs")
        made.down()
        shutil.rmtree(place)
