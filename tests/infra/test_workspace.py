"""Working memory that is kept between calls."""

import os

import numpy as np
import pytest

from rieszflow._infra.workspace import Workspace


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_scratch_is_each_process_own():
    """A forked process must not write into the working memory of its parent."""
    workspace = Workspace()
    mine = workspace.array((1000,), np.float32)
    mine[:] = 1
    child = os.fork()
    if child == 0:
        workspace.array((1000,), np.float32)[:] = 2
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (workspace.array((1000,), np.float32) == 1).all()
    assert workspace.array((10, 20), np.int64).shape == (10, 20)
    assert workspace.array((3000, 2000), np.float32).nbytes == 24_000_000
