import pytest
from transparent import SETTINGS, Coded, WithoutLoud

from fullrank import Run, train


@pytest.fixture(scope="session")
def transparent_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose h is the pixels and whose z is the pixels without the loud code."""
    out = tmp_path_factory.mktemp("transparent") / "run"
    return train("digits", data=Coded, out=out, head=WithoutLoud, online_every=1, **SETTINGS)
