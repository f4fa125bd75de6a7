"""What the widgets' tests share: planted models and a small scene."""

import pytest
from plants import LookedAt, Plant, blind, oracle

from vlmlab.scenes import Camera, Object, Scene
from vlmlab.widgets import cases, probe


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Plant]:
    """name -> planted model, with the probe made to ask such models."""
    monkeypatch.setattr(probe, "Looked", LookedAt)
    monkeypatch.setattr(cases, "Looked", LookedAt)
    return {"oracle": Plant("oracle", oracle), "blind": Plant("blind", blind)}


@pytest.fixture
def room() -> Scene:
    """A cat left of a sofa on which a mug stands; all of it free to move."""
    return Scene(
        (
            Object("cat", "red", x=-0.9, y=-0.4, yaw=90.0),
            Object("sofa", "blue", x=0.6, y=0.9),
            Object("mug", "white", "small", x=0.6, y=0.8, z=0.42),
        ),
        Camera(azimuth=0.0),
    )
