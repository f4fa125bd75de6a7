"""Notebook 05. What all official benchmark files share: records read one at a time, predictions, and exact errors.

Annotation files reach 450 MB, more than a laptop wants as Python objects. They are streamed (ijson), so that memory
holds one record at a time. Whatever is wrong with a file is told with its name, the record and the field.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, BinaryIO, NamedTuple, TypeVar, overload

from vlmlab.errors import BadInput, UnknownName

T = TypeVar("T")
File = str | os.PathLike
NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", list: "a list",
         tuple: "a list", dict: "an object", type(None): "null"}  # fmt: skip
AGAIN = "download it or write it again"


class Record(NamedTuple):
    """One record of an official file and where it stands: "record 3" (from 1), "line 7" or "id 'abc'"."""

    file: str
    place: str
    value: dict[str, Any]

    def need(self, field: str, *types: type) -> Any:
        """The field's value; BadInput if it is missing or of none of the types (true and false are no int)."""
        if field not in self.value:
            raise BadInput(f"{self.file}, {self.place}: the field {field!r} is missing")
        found = self.value[field]
        if not of_type(found, types):
            raise self.fail(field, f"must be {' or '.join(NAMES[kind] for kind in types)}, not {named(found)}")
        return found

    def maybe(self, field: str, *types: type, default: Any = None) -> Any:
        """The same, but `default` where the field is missing or null."""
        return default if self.value.get(field) is None else self.need(field, *types)

    def fail(self, field: str, problem: str) -> BadInput:
        """The error to raise about a field, as `raise record.fail("label", "must be 0 or 1, not 2")`."""
        return BadInput(f"{self.file}, {self.place}: the field {field!r} {problem}")


def of_type(value: Any, types: tuple[type, ...]) -> bool:
    """isinstance, but a bool is no int."""
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def named(value: Any) -> str:
    """The JSON kind of a value in words: "a list", "null"."""
    return NAMES.get(type(value), f"a {type(value).__name__}")


def stream(path: File, key: str | None = None) -> Iterator[Record]:
    """The records of a JSON array of objects, one at a time.

    key: the field of the top object that holds the array; None if the array is the whole file.
    Raises BadInput for a file that is missing, empty, cut off or no such JSON.
    """
    import ijson

    count = 0
    with _opened(path) as file, _parsing(path, file, lambda: count):
        for value in ijson.items(file, f"{key}.item" if key else "item", use_float=True):
            count += 1
            yield _record(path, f"record {count}", value)
        if not count:
            _demand(path, file, key or "", "start_array", f"a list under {key!r}" if key else "a list of records")


def mapping(path: File) -> Iterator[tuple[str, Record]]:
    """The pairs (id, record) of a JSON object of objects, one at a time. Raises BadInput, for a repeated id too."""
    import ijson

    seen: set[str] = set()
    with _opened(path) as file, _parsing(path, file, lambda: len(seen)):
        for name, value in ijson.kvitems(file, "", use_float=True):
            if name in seen:
                raise BadInput(f"{path}: the id {name!r} stands there twice")
            seen.add(name)
            yield name, _record(path, f"id {name!r}", value)
        if not seen:
            _demand(path, file, "", "start_map", "an object of records by id")


def lines(path: File) -> Iterator[Record]:
    """The records of a file with one JSON object a line; blank lines are skipped. Raises BadInput."""
    count = 0
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            count += 1
            try:
                value = json.loads(line.strip())
            except (ValueError, RecursionError) as error:  # ValueError: no JSON, or no UTF-8
                raise BadInput(f"{path}, line {number} is not valid JSON ({error}); {AGAIN}") from None
            yield _record(path, f"line {number}", value)
    if not count:
        raise BadInput(f"{path} is empty; {AGAIN}")


def finished(path: File) -> list[Record]:
    """The records of a file that grows line by line, none if there is no file yet; a last line that a kill cut off is
    dropped from it. Raises BadInput."""
    if not os.path.exists(path):
        return []
    with open(path, "r+b") as file:
        written = file.read()
        file.truncate(written.rfind(b"\n") + 1)
    return list(lines(path)) if b"\n" in written else []


def unique(records: Iterable[Record], field: str) -> Iterator[Record]:
    """The same records; BadInput at the first one that repeats another's value of `field`."""
    seen = set()
    for record in records:
        value = record.need(field, str, int)
        if value in seen:
            raise record.fail(field, f"repeats {value!r} of an earlier record")
        seen.add(value)
        yield record


def profile_of(profile: str, profiles: Sequence[str]) -> str:
    """The profile itself; the first one for "official". Raises UnknownName."""
    if profile == "official":
        return profiles[0]
    if profile not in profiles:
        raise UnknownName("profile", profile, profiles)
    return profile


def alone(questions: File | None, what: str) -> None:
    """BadInput if a file of questions is given where the annotations hold them; what: "GQA's questions stand ..."."""
    if questions is not None:
        raise BadInput(f"{what}; leave {questions} out")


class Examples(Sequence[T]):
    """A sequence that is read again from its files at each iteration, so that it never lies in memory as a whole.

    The first example is read at once, so that a wrong file is told here. Indexing reads up to the index.
    """

    def __init__(self, read: Callable[[], Iterator[T]]):
        self._read = read
        self._length: int | None = None
        next(read(), None)

    def __iter__(self) -> Iterator[T]:
        count = 0
        for example in self._read():
            count += 1
            yield example
        self._length = count

    def __len__(self) -> int:
        if self._length is None:
            self._length = sum(1 for _ in self._read())
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        places = range(len(self))[index]  # raises IndexError
        if isinstance(places, range):
            wanted = dict.fromkeys(places)
            found = {
                at: one for at, one in enumerate(islice(self._read(), max(places, default=-1) + 1)) if at in wanted
            }
            return [found[at] for at in places]
        return next(islice(self._read(), places, None))


def results(predictions: File | Iterable[Mapping[str, Any]]) -> Iterator[Record]:
    """The records of an official results file (a JSON array, or one record a line), or of a list of them."""
    if isinstance(predictions, str | os.PathLike):
        yield from stream(predictions) if _first_byte(predictions) == b"[" else lines(predictions)
    else:
        yield from (_record(Answers.file, f"record {place}", value) for place, value in enumerate(predictions, 1))


class Answers(dict[Any, Any]):
    """Predictions by id, and the name of the file they come from."""

    file = "predictions"


def answers(
    predictions: File | Iterable[Mapping[str, Any]] | Mapping[Any, Any],
    id_field: str,
    answer_field: str,
    id_types: tuple[type, ...] = (int,),
    answer_types: tuple[type, ...] = (str,),
) -> Answers:
    """Predictions as a dict id -> answer.

    predictions: what `results` takes, or a dict id -> answer.
    Raises BadInput for a missing field, a wrong type, or an id that is answered twice.
    """
    found = Answers()
    if isinstance(predictions, Mapping):
        found.update(predictions)
        for name, value in found.items():
            record = Record(found.file, f"id {name!r}", {id_field: name, answer_field: value})
            record.need(id_field, *id_types)
            record.need(answer_field, *answer_types)
        return found
    if isinstance(predictions, str | os.PathLike):
        found.file = str(predictions)
    for record in results(predictions):
        name = record.need(id_field, *id_types)
        if name in found:
            raise record.fail(id_field, f"repeats {name!r} of an earlier record")
        found[name] = record.need(answer_field, *answer_types)
    return found


def matched(ids: Iterable[Any], predictions: Mapping[Any, Any], what: str = "question") -> None:
    """BadInput unless exactly the ids are predicted; it names the first missing and the first unknown id."""
    known = dict.fromkeys(ids)
    missing = [name for name in known if name not in predictions]
    unknown = [name for name in predictions if name not in known]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(known)} {what}s without an answer (the first: {missing[0]!r})")
    if unknown:
        problems.append(f"{len(unknown)} answers to an unknown {what} (the first: {unknown[0]!r})")
    if problems:
        file = getattr(predictions, "file", Answers.file)
        raise BadInput(f"{file}: {' and '.join(problems)}; give exactly one answer to each {what}")


def _record(file: File, place: str, value: Any) -> Record:
    if not isinstance(value, dict):
        raise BadInput(f"{file}, {place} must be an object, not {named(value)}")
    return Record(str(file), place, value)


@contextmanager
def _opened(path: File) -> Iterator[BinaryIO]:
    try:
        file = open(path, "rb")  # noqa: SIM115 (only opening may be caught here, not what the caller does)
    except FileNotFoundError:
        raise BadInput(f"no such file: {path}") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    with file:
        yield file


@contextmanager
def _parsing(path: File, file: BinaryIO, read: Callable[[], int]) -> Iterator[None]:
    """Turn what ijson raises into BadInput. It reads in blocks: the fault lies before the byte that is told."""
    from ijson import JSONError

    try:
        yield
    except JSONError as error:
        if not os.fstat(file.fileno()).st_size:
            raise BadInput(f"{path} is empty; {AGAIN}") from None
        reason = error.args[0]  # several lines, the first in words; bytes where the file is no UTF-8
        reason = (reason if isinstance(reason, str) else reason.decode("utf-8", "replace")).splitlines()[0].rstrip(".")
        place = f"before byte {file.tell()}, good records before it: {read()}"
        raise BadInput(f"{path} is not valid JSON ({reason}; {place}); {AGAIN}") from None


def _demand(path: File, file: BinaryIO, prefix: str, event: str, what: str) -> None:
    """BadInput unless something begins at `prefix`: ijson finds nothing, in silence, where there is no such thing."""
    import ijson

    file.seek(0)
    if not any((at, kind) == (prefix, event) for at, kind, _ in ijson.parse(file)):
        raise BadInput(f"{path} does not hold {what}; is it the right file?")


def _first_byte(path: File) -> bytes:
    """The first byte that is no white space; b"" for an empty file."""
    with _opened(path) as file:
        return file.read(4096).lstrip()[:1]
