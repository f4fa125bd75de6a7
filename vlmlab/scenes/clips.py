"""Notebook 12. Clips: a scene that changes from frame to frame, what happens in it, and its frames in other orders.

A clip is its objects' tracks: what each of them is in each frame, exactly. Events are observed from the tracks alone,
so a clip played backwards, shuffled or cut short has the events that its own frames show.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from vlmlab.errors import BadInput, UnknownName, VlmlabError
from vlmlab.scenes.clip_events import MARGIN, SIZE, Event, observe
from vlmlab.scenes.clip_stages import EVENTS, STEP, STEPS, Stage, stage
from vlmlab.scenes.sampling import SPLITS
from vlmlab.scenes.scene import Object, Scene

if TYPE_CHECKING:
    from vlmlab.scenes.clip_questions import ClipQuestion

TRIES = 400  # stages drawn for one clip
FRAMES = (2, 1024)


@dataclass(frozen=True)
class Clip:
    """Frames of one room under a fixed camera.

    room: a scene without objects. tracks: for each object its state in each frame, None where it is not there.
    interval: seconds between frames. event: the event it was drawn for, or what was done to its frames.
    """

    room: Scene
    tracks: tuple[tuple[Object | None, ...], ...]
    interval: float
    event: str = "custom"
    _cache: dict = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.tracks or not self.tracks[0] or len({len(track) for track in self.tracks}) > 1:
            raise BadInput("a clip needs at least one object, and as many states of each object as it has frames")
        if any(len({item.kind for item in track if item is not None}) > 1 for track in self.tracks):
            raise BadInput("a clip's object changes its kind; give each object a track of its own")
        if not self.interval > 0:
            raise BadInput(f"the seconds between frames must be above 0, got {self.interval}")

    def __len__(self) -> int:
        return len(self.tracks[0])

    @property
    def seed(self) -> int | None:
        """The seed it was sampled from."""
        return self.room.seed

    @property
    def split(self) -> str:
        """The split it was sampled from."""
        return self.room.split

    @property
    def scenes(self) -> tuple[Scene, ...]:
        """One scene a frame: the objects that are there, in the order of the tracks."""
        if "scenes" not in self._cache:
            states = zip(*self.tracks, strict=True)
            self._cache["scenes"] = tuple(
                replace(self.room, objects=tuple(item for item in state if item is not None), _cache={})
                for state in states
            )
        return self._cache["scenes"]

    def index(self, frame: int, track: int) -> int | None:
        """Where the object of a track stands in scenes[frame].objects; None where it is not there."""
        if self.tracks[track][frame] is None:
            return None
        return sum(other[frame] is not None for other in self.tracks[:track])

    @property
    def events(self) -> tuple[Event, ...]:
        """What happens, in the order in which it begins (see Event)."""
        if "events" not in self._cache:
            self._cache["events"] = observe(self)
        return self._cache["events"]

    def render(self, size: int = SIZE, samples: int = 2) -> np.ndarray:
        """The pictures, uint8 (T, size, size, 3); frames that are alike are rendered once."""
        pictures = {scene: scene.render(size, samples).rgb for scene in dict.fromkeys(self.scenes)}
        return np.stack([pictures[scene] for scene in self.scenes])

    def questions(self, **options) -> "list[ClipQuestion]":
        """Questions with programs and exact answers (see clip_questions.py)."""
        from vlmlab.scenes.clip_questions import questions

        return questions(self, **options)

    def take(self, frames: Iterable[int], event: str = "custom") -> "Clip":
        """A clip of these frames in this order; a frame may come more than once. Raises BadInput for none, or for one
        that is not there."""
        order = list(frames)
        if not order or not 0 <= min(order) <= max(order) < len(self):
            raise BadInput(f"frames are numbered 0 to {len(self) - 1}, and a clip needs at least one; got {order}")
        tracks = tuple(tuple(track[i] for i in order) for track in self.tracks)
        return replace(self, tracks=tracks, event=event, _cache={})

    def reversed(self) -> "Clip":
        """The frames from last to first."""
        return self.take(range(len(self) - 1, -1, -1), "reversed")

    def shuffled(self, seed: int) -> "Clip":
        """The frames in a random order, neither forwards nor backwards. Raises BadInput for fewer than 3 frames."""
        if len(self) < 3:
            raise BadInput(f"{len(self)} frames cannot be shuffled; it takes at least 3")
        rng = np.random.default_rng([13, seed])
        order = list(range(len(self)))
        while order in (sorted(order), sorted(order)[::-1]):
            order = rng.permutation(len(self)).tolist()
        return self.take(order, "shuffled")

    def prefix(self, frames: int) -> "Clip":
        """The first `frames` frames."""
        return self.take(range(frames), "prefix")

    def still(self, frame: int) -> "Clip":
        """One frame all along."""
        return self.take([frame] * len(self), "still")

    def to_json(self) -> str:
        """The clip as JSON text; `from_json` gives it back equal."""
        states = [[None if item is None else asdict(item) for item in track] for track in self.tracks]
        record = {"event": self.event, "interval": self.interval, "room": json.loads(self.room.to_json())}
        return json.dumps(record | {"tracks": states})

    @classmethod
    def from_json(cls, text: str) -> "Clip":
        """Read `to_json`'s text; raises BadInput naming what is wrong."""
        try:
            record = json.loads(text)
            return cls(
                room=Scene.from_json(json.dumps(record["room"])),
                tracks=tuple(tuple(s if s is None else Object(**s) for s in track) for track in record["tracks"]),
                interval=record["interval"],
                event=record["event"],
            )
        except BadInput:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"not a clip in JSON: {type(error).__name__}: {error}") from None


def sample_clip(seed: int, event: str | None = None, frames: int = 8, split: str = "train") -> Clip:
    """Draw a clip: the same arguments give the same clip, and more frames show the same world more finely.

    Args:
        seed: any integer >= 0. event: one of EVENTS (drawn when None); other things may happen before or after it.
        frames: 2 to 1024, from the first instant to the last of 1.75 seconds. split: one of SPLITS.
    Raises:
        UnknownName for an event or split, BadInput for a seed or number of frames out of range.
    """
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    if event is not None and event not in EVENTS:
        raise UnknownName("event", event, EVENTS)
    if seed < 0:
        raise BadInput(f"seed must be 0 or more, got {seed}")
    if not FRAMES[0] <= frames <= FRAMES[1]:
        raise BadInput(f"frames must lie between {FRAMES[0]} and {FRAMES[1]}, got {frames}")
    rng = np.random.default_rng([12, SPLITS.index(split), seed])
    drawn = EVENTS[rng.integers(len(EVENTS))]
    for _ in range(TRIES):
        staged = stage(rng, event or drawn, split)
        if staged is not None and _as_expected(_filmed(staged, STEPS + 1, seed, split, ""), staged):
            return _filmed(staged, frames, seed, split, event or drawn)
    raise VlmlabError(f"no clip of {event or drawn!r} with seed {seed} after {TRIES} draws; take another seed")


def _filmed(staged: Stage, frames: int, seed: int, split: str, event: str) -> Clip:
    times = [round(i * STEPS * STEP / (frames - 1), 9) for i in range(frames)]  # no motion begins 1e-16 s too early
    tracks = tuple(staged.track(i, times) for i in range(len(staged.scene.objects)))
    room = replace(staged.scene, objects=(), seed=seed, split=split, _cache={})
    return Clip(room, tracks, STEPS * STEP / (frames - 1), event)


def _as_expected(clip: Clip, staged: Stage) -> bool:
    """On the grid's own frames everything that was staged is seen, beyond doubt, and nothing else."""
    seen = clip.events
    if Counter((e.kind, e.object) for e in seen) != Counter((kind, i) for kind, i, _ in staged.expected):
        return False
    hits = [e for e in seen if e.other is not None and e.kind == "moved"]
    moves = [e for e in seen if e.kind == "moved"]
    struck = [act for act in staged.acts if len(act) > 1]
    values = {(e.kind, e.object): e.value for e in seen}
    return (
        len(hits) == len(struck)
        and all(e.pixels >= MARGIN for e in moves)
        and all(value in ("", values[kind, i]) for kind, i, value in staged.expected)
    )
