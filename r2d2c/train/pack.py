"""One file of a whole run, to hand on: ``r2d2c pack RUN``. What reads a run's folder reads such an archive as well.

A zip file of known members: text, and checkpoints in safetensors; nothing in it is code, and nothing is run. It may
come from anybody, so all of it is checked before a byte of it is used (E620, E621).
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from r2d2c.train.atomic import replacing, write_atomic
from r2d2c.train.pack_checks import check_checkpoints, check_texts, damaged
from r2d2c.train.refuse import refuse

SUFFIX = ".r2d2c"
FORMAT = "r2d2c run 1"
MANIFEST = "manifest.json"
CHECKPOINTS = ("checkpoints/last.safetensors", "checkpoints/best.safetensors")
NEEDED = ("lock.json", "metrics.jsonl", "run.json", "spec.yaml", CHECKPOINTS[0])
# What a run's folder may have besides; curves and events are drawn again from the metrics.
MORE = ("angles.csv", "mutations.jsonl", "summary.txt", "transplant.json", CHECKPOINTS[1])
MEMBERS = tuple(sorted((*NEEDED, *MORE)))
MOST_TEXT = 256 * 2**20  # bytes of all members that may be compressed, unpacked
MOST_MANIFEST = 64 * 2**10
MOST_LINES = {"lock.json": 2**20, "run.json": 2**24, "spec.yaml": 2**26}
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Packed:
    """An archive that was written. files: bytes of each member, as it is unpacked."""

    path: Path
    files: Mapping[str, int]

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size


def is_archive(path: str | Path) -> bool:
    """Whether a path is a file that is, or is called as, an archive of a run."""
    path = Path(path)
    if not path.is_file():
        return False
    if path.suffix == SUFFIX:
        return True
    with path.open("rb") as stream:
        return path.suffix == ".zip" and stream.read(4) == b"PK\x03\x04"


def is_run(path: str | Path) -> bool:
    """Whether a path is a folder, as those of runs are, or an archive of a run."""
    return Path(path).is_dir() or is_archive(path)


# -- writing


def pack(run: str | Path, path: str | Path | None = None, *, force: bool = False) -> Packed:
    """Write the archive of a run, ``RUN.r2d2c`` if no path is given. The same run gives the same bytes.

    Paths of this machine are left out: of data in files, the archive has their names alone, and they are looked for
    beside it. E523 for what is no run, E520 for a run without a whole checkpoint, E624 if ``path`` exists.
    """
    from r2d2c.train.run_folder import RunFolder, Which

    files = RunFolder.open(Path(run))
    if path is None:
        folder = files.path if files.path.name not in ("", "..") else files.path.resolve()
        path = folder.with_name(folder.name + SUFFIX)
    path = Path(path)
    if path.is_dir() or (path.exists() and not force):
        refuse("E624", f"{path} exists", fix="choose another with -o, or replace it with --force")
    both: tuple[Which, ...] = ("last", "best")
    for which in both:
        if which == "last" or files.has("best"):
            files.load(which)  # a damaged one is not handed on
    found: dict[str, bytes | Path] = {}
    for name in MEMBERS:
        source = files.path / name
        if source.is_file():
            found[name] = source if name in CHECKPOINTS else source.read_bytes()
    found |= _portable({name: raw for name, raw in found.items() if isinstance(raw, bytes)})
    listed = {name: _measured(content) for name, content in sorted(found.items())}
    manifest = json.dumps({"format": FORMAT, "files": listed}, indent=1, sort_keys=True) + "\n"
    with replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        _add(archive, MANIFEST, manifest.encode())
        for name in listed:
            _add(archive, name, found[name])
    return Packed(path, {name: int(entry["bytes"]) for name, entry in listed.items()})


def _add(archive: zipfile.ZipFile, name: str, content: bytes | Path) -> None:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16
    # Parameters hardly become smaller, and stored ones cannot be a bomb.
    info.compress_type = zipfile.ZIP_STORED if isinstance(content, Path) else zipfile.ZIP_DEFLATED
    if isinstance(content, bytes):
        archive.writestr(info, content, compresslevel=9)
        return
    info.file_size = content.stat().st_size
    with content.open("rb") as source, archive.open(info, "w") as target:
        for block in _blocks(source):
            target.write(block)


def _measured(content: bytes | Path) -> dict[str, Any]:
    if isinstance(content, bytes):
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    total, size = hashlib.sha256(), 0
    with content.open("rb") as stream:
        for block in _blocks(stream):
            total.update(block)
            size += len(block)
    return {"bytes": size, "sha256": total.hexdigest()}


def _portable(texts: Mapping[str, bytes]) -> dict[str, bytes]:
    """The texts of a run without paths of this machine; hashes of the spec fit what it then is."""
    try:
        origin = json.loads(texts["run.json"])
    except (KeyError, ValueError):
        origin = {}
    data = origin.get("data")
    origin |= {"folder": ".", "data": _data_beside(data), "packed": False}
    made = dict(texts)
    made["run.json"] = (json.dumps(origin, indent=2, ensure_ascii=False) + "\n").encode()
    if origin["data"] != data:
        old, new = str(data), str(origin["data"])
        spec = texts["spec.yaml"].replace(old.encode(), new.encode())
        made["spec.yaml"] = spec.replace(json.dumps(old)[1:-1].encode(), json.dumps(new)[1:-1].encode())
        before, after = (
            hashlib.sha256(one).hexdigest().encode() for one in (texts["spec.yaml"], made["spec.yaml"])
        )
        for name in ("lock.json", "mutations.jsonl"):
            if name in made:
                made[name] = texts[name].replace(before, after)
    for name in ("summary.txt", "transplant.json"):
        if name in made:
            # Paths to files and folders, absolute or of a home: what stays is their last part.
            made[name] = re.sub(rb"(?<![\w.~/])~?/(?:[^/:?,\"\n]+/)*([^/:?,\"\n]+)", rb"\1", made[name])
    return made


def _data_beside(data: Any) -> Any:
    """``csv:/home/me/wine.csv?target=y`` as ``csv:wine.csv?target=y``."""
    if not isinstance(data, str) or ":" not in data:
        return data
    source, _, argument = data.partition(":")
    place, question, options = argument.partition("?")
    here = Path(place).expanduser()
    if not (here.is_absolute() or here.exists()):
        return data  # a name, as of a data set in a library
    return f"{source}:{here.name}{question}{options}"


# -- reading


_open: dict[tuple[str, int, int], tuple[tempfile.TemporaryDirectory[str], Path]] = {}


def opened(path: str | Path) -> Path:
    """The folder of a run: the path itself, or a temporary one that an archive was unpacked into, checked.

    It is removed when Python ends.
    """
    path = Path(path)
    if not is_archive(path):
        return path
    found = path.stat()
    key = (str(path.resolve()), found.st_mtime_ns, found.st_size)
    if key not in _open:
        temporary = tempfile.TemporaryDirectory(prefix="r2d2c-")
        folder = Path(temporary.name) / path.stem
        unpack(path, folder)
        _open[key] = temporary, folder
    return _open[key][1]


def unpack(path: Path, folder: Path) -> None:
    """Unpack an archive into a new folder, which then is a run's. Refuses one that is damaged (E620) or has what no
    archive of r2d2c has (E621); nothing of it stays then.
    """
    from r2d2c.train.run import seen_from

    try:
        with zipfile.ZipFile(path) as archive:
            infos = _checked(path, archive)
            listed = _manifest(path, archive, infos)
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            for name, entry in listed.items():
                _extract(path, archive, infos[name], entry, folder / name)
        check_texts(path, folder)
        check_checkpoints(path, folder, CHECKPOINTS)
        stored = json.loads((folder / "run.json").read_bytes())
        # Its words are a stranger's: data may lie beside the archive, and nowhere else.
        stored |= {"folder": seen_from(path.resolve().parent, folder), "packed": True}
        write_atomic(folder / "run.json", (json.dumps(stored, indent=2, ensure_ascii=False) + "\n").encode())
    except BaseException as error:
        for name in (MANIFEST, *MEMBERS):
            with suppress(OSError):
                (folder / name).unlink()
        if isinstance(error, (zipfile.BadZipFile, EOFError, NotImplementedError)) or _is_zlib(error):
            damaged(path, str(error) or "it is cut off")
        raise


def _is_zlib(error: BaseException) -> bool:
    import zlib

    return isinstance(error, zlib.error)


def _checked(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by name, refused where one is none of ours or too large. Nothing is unpacked yet."""
    infos: dict[str, zipfile.ZipInfo] = {}
    known = (MANIFEST, *MEMBERS)
    for info in archive.infolist():
        name = info.orig_filename
        if name not in known:
            _foreign(path, f"it has a member {_shown(name)}, which no run has")
        if name in infos:
            _foreign(path, f"it has two members {name}")
        kind = info.external_attr >> 16 & 0o170000
        if kind not in (0, 0o100000):
            _foreign(path, f"its member {name} is a link or a device, not a file")
        if info.flag_bits & 0x1:
            _foreign(path, f"its member {name} is encrypted")
        stored = info.compress_type == zipfile.ZIP_STORED
        if name in CHECKPOINTS and not stored:
            _foreign(path, f"its member {name} is compressed")
        if not stored and info.compress_type != zipfile.ZIP_DEFLATED:
            _foreign(path, f"its member {name} is compressed in an unknown way")
        if stored and info.file_size != info.compress_size:
            _foreign(path, f"its member {name} has two sizes")
        infos[name] = info
    lacking = [name for name in (MANIFEST, *NEEDED) if name not in infos]
    if lacking:
        damaged(path, f"it has no {', '.join(lacking)}")
    large = path.stat().st_size
    if sum(info.compress_size for info in infos.values()) > large:
        _foreign(path, "its members lie over each other")
    most = {MANIFEST: MOST_MANIFEST, **MOST_LINES}
    texts = [info for name, info in infos.items() if name not in CHECKPOINTS]
    total = sum(info.file_size for info in texts)
    if total > MOST_TEXT:
        _foreign(path, f"its texts would be {total:,} bytes, and {MOST_TEXT:,} are the most")
    for info in texts:
        if info.file_size > most.get(info.filename, MOST_TEXT):
            _foreign(path, f"its member {info.filename} would be {info.file_size:,} bytes")
    return infos


def _manifest(
    path: Path, archive: zipfile.ZipFile, infos: Mapping[str, zipfile.ZipInfo]
) -> dict[str, dict[str, Any]]:
    """What the archive says of each of its members."""
    with archive.open(infos[MANIFEST]) as stream:
        raw = stream.read(MOST_MANIFEST + 1)
    try:
        manifest = json.loads(raw)
        listed = manifest["files"]
        kinds = {name: (type(entry["bytes"]), type(entry["sha256"])) for name, entry in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        damaged(path, f"its {MANIFEST} cannot be read")
    if manifest.get("format") != FORMAT:
        damaged(path, f"its format is {_shown(str(manifest.get('format')))}, not {FORMAT}")
    if any(kind != (int, str) for kind in kinds.values()) or listed.keys() != infos.keys() - {MANIFEST}:
        _foreign(path, f"its {MANIFEST} does not list what is in it")
    return {str(name): entry for name, entry in listed.items()}


def _extract(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, entry: Mapping[str, Any], target: Path
) -> None:
    total, size = hashlib.sha256(), 0
    if info.file_size != entry["bytes"]:
        damaged(path, f"its member {info.filename} was changed: its size is another")
    with archive.open(info) as source, target.open("xb") as stream:
        for block in _blocks(source):
            size += len(block)
            if size > info.file_size:
                _foreign(path, f"its member {info.filename} is larger than it says")
            total.update(block)
            stream.write(block)
    if size != info.file_size or total.hexdigest() != entry["sha256"]:
        damaged(path, f"its member {info.filename} was changed: the checksum is another")


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    while block := stream.read(_BLOCK):
        yield block


def _shown(name: str) -> str:
    return ascii(name if len(name) < 80 else name[:79] + "…")


def _foreign(path: Path, reason: str) -> NoReturn:
    refuse("E621", f"{path} is not opened: {reason}", notes=["`r2d2c pack` writes no such archive"])


def unpack_run(path: Path, out: str | Path | None) -> Path:
    """A new run folder, ``runs/NAME-NNN`` if ``out`` is None, with what is in an archive: to go on with it."""
    from r2d2c.train.run import next_folder

    folder = Path(out) if out is not None else next_folder(path.stem)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        refuse("E522", f"the run folder {folder} is not empty", fix="choose another with --out")
    try:
        unpack(path, folder)
    except BaseException:
        for made in (folder / "checkpoints", folder):
            with suppress(OSError):
                made.rmdir()
        raise
    return folder
