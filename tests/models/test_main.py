"""`python -m models` on tiny real bundles."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from models import bundle
from models.__main__ import main
from models.commands import prune as pruning
from models.manifest import Manifest
from models.store import Store
from testkit import commands, tiny_models
from testkit.commands import Ask
from testkit.servers import ROOT
from training.commands import rollback as of_training

Output = pytest.CaptureFixture[str]
VERDICT = "released: better by 2.00 points of error"
DAY_S = 24 * 3600


def released_after(replaced: int | None, **changes: Any) -> dict[str, Any]:
    """The decision of a version that was released in place of `replaced`."""
    return {
        "verdict": VERDICT,
        "replaced": replaced,
        "images": 900,
        "margin": 0.01,
        "difference": {"value": -0.02, "low": -0.03, "high": -0.01},
        "worse_labels": [],
        "allowed_labels": [],
        "forced": False,
    } | changes


def add(store: Store, name: str, release: dict[str, Any] | None = None, **changes: Any) -> int:
    """Write the next version; with `release`, it is also released. Its number."""

    def make(version: int) -> tuple[Manifest, dict[str, bytes]]:
        manifest, files = tiny_models.content(name, version, "single")
        values = manifest.model_dump() | {"release": release} | changes
        return Manifest.model_validate(values), files

    version = int(store.add(name, make).name)
    if release is not None:
        store.release(name, version)
    return version


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Three versions of `pets`, of which 3 is released and replaced 1; one of `tags`."""
    monkeypatch.setenv("LABRADOR_MODEL_STORE", str(tmp_path / "store"))
    found = Store(tmp_path / "store")
    add(found, "pets")
    add(found, "pets")
    add(found, "pets", released_after(1))
    add(found, "tags")
    return found


def run(*words: str, output: Output) -> list[str]:
    """The lines that a command prints, which succeeds."""
    assert main([*words]) == 0
    printed = output.readouterr()
    assert printed.err == ""
    return printed.out.splitlines()


def refused(*words: str, output: Output) -> str:
    """The one line of a command that exits with 1."""
    assert main([*words]) == 1
    found = output.readouterr().err
    assert found.startswith("error: ") and found.count("\n") == 1
    return found.removeprefix("error: ").rstrip("\n")


def wrong_usage(*words: str, output: Output) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*words])
    assert caught.value.code == 2
    return output.readouterr().err.splitlines()[-1]


def corrupt(store: Store, reference: str, file: str = "model.onnx") -> Path:
    path = store.path(reference) / file
    path.write_bytes(path.read_bytes() + b"\0")
    return path


# list


def test_list_says_what_is_released_since_when_and_why(store: Store, capsys: Output) -> None:
    os.utime(store.root / "pets" / "RELEASED", (0, 0))
    pets = run("list", "pets", output=capsys)
    assert pets[0] == "pets: version 3 is released since 1970-01-01T00:00:00+00:00"
    assert [line.split()[:2] for line in pets[1:3]] == [["1", "0.0"], ["2", "0.0"]]
    assert pets[1].endswith(
        "accuracy 0.900 [0.800, 0.950]  exported, not compared with another version"
    )
    assert pets[3].startswith("* 3  ")
    assert pets[3].endswith(f"accuracy 0.900 [0.800, 0.950]  {VERDICT}; it replaced version 1")
    everything = run("list", output=capsys)
    assert everything[:5] == [*pets, ""]
    assert everything[5].startswith("tags: version 1 is released since ")


def test_list_marks_what_was_forced(store: Store, capsys: Output) -> None:
    add(store, "pets", released_after(3, verdict="refused: worse", forced=True))
    assert run("list", "pets", output=capsys)[-1].endswith(
        "refused: worse, forced; it replaced version 3"
    )


def test_list_in_json(store: Store, capsys: Output) -> None:
    pets, tags = json.loads("\n".join(run("list", "--json", output=capsys)))
    assert (pets["name"], pets["released"], pets["problem"]) == ("pets", 3, None)
    assert pets["released_since"] == store.released_since("pets")
    assert [version["version"] for version in pets["versions"]] == [1, 2, 3]
    newest = pets["versions"][-1]
    assert newest["release"] == released_after(1)
    assert newest["bytes"] == sum(
        file.stat().st_size for file in store.path("pets:3").rglob("*") if file.is_file()
    )
    assert newest["metrics"] == {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}}
    assert (tags["name"], len(tags["versions"])) == ("tags", 1)


def test_list_goes_on_after_what_is_damaged_and_exits_with_1(store: Store, capsys: Output) -> None:
    corrupt(store, "pets:2", "manifest.json")
    (store.root / "tags" / "RELEASED").write_text("7\n")
    assert main(["list"]) == 1
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line[:3] for line in lines] == ["pet", "  1", "  2", "* 3", "", "tag", "  1"]
    assert "manifest.json is corrupt" in lines[2]
    assert "RELEASED says '7'; versions of tags: 1" in lines[5]
    assert printed.err.count("\n") == 1
    assert "pets/2/manifest.json is corrupt" in printed.err and "says '7'" in printed.err


# show


def test_show_prints_the_essentials_of_the_released_version(store: Store, capsys: Output) -> None:
    release = released_after(3, worse_labels=["red"], allowed_labels=["red", "blue"], forced=True)
    add(store, "pets", release)
    lines = run("show", "pets", output=capsys)
    rows = dict(re.split(r" +", line, maxsplit=1) for line in lines)
    assert rows["model"] == f"pets:4, in {store.root / 'pets' / '4'}"
    assert rows["files"] == "13, 0.0 MB"
    assert rows["released"] == f"since {store.released_since('pets')}"
    assert (rows["task"], rows["labels"]) == ("single-label", "3: red, green, blue")
    assert rows["input"] == "16 px, crop_fraction 0.9"
    assert rows["metric"] == "accuracy 0.900 [0.800, 0.950]"
    assert rows["variant"] == (
        "model.onnx, fp32; gate: scores differ by at most 0 (tolerance 0.0001) and 0 decisions on"
        " 0 images; loss 0.000 [0.000, 0.000]"
    )
    assert (rows["created"], rows["commit"]) == ("2025-01-01T00:00:00Z", "unknown")
    assert rows["release"] == f"{VERDICT}, forced"
    assert rows["replaced"] == "version 3"
    assert rows["compared"] == "on 900 images; difference -0.020 [-0.030, -0.010], margin 0.01"
    assert (rows["worse"], rows["allowed"]) == ("red", "red, blue")


def test_show_of_another_version_says_which_is_released(store: Store, capsys: Output) -> None:
    assert "released   no; version 3 is" in run("show", "pets:1", output=capsys)
    (store.root / "pets" / "RELEASED").unlink()
    assert "released   no" in run("show", "pets:1", output=capsys)
    assert "none is released" in refused("show", "pets", output=capsys)


def test_show_of_many_labels_is_still_short(store: Store, capsys: Output) -> None:
    labels = [f"label-{number}" for number in range(200)]
    baseline = {"label_share": [0.5] * 200, "confidence_edges": [1.0], "confidence_counts": [1]}
    add(store, "pets", labels=labels, baseline=baseline)
    (line,) = (x for x in run("show", "pets:4", output=capsys) if x.startswith("labels "))
    assert line.split(maxsplit=1)[1] == f"200: {', '.join(labels[:12])}, and 188 more"


def test_show_in_json_has_the_whole_manifest(store: Store, capsys: Output) -> None:
    found = json.loads("\n".join(run("show", "pets", "--json", output=capsys)))
    assert Manifest.model_validate(found["manifest"]) == bundle.read_manifest(store.path("pets:3"))
    assert (found["path"], found["released"]) == (str(store.path("pets")), True)
    assert found["released_since"] == store.released_since("pets")
    assert not json.loads("\n".join(run("show", "pets:1", "--json", output=capsys)))["released"]


# verify


def test_verify_checks_every_version_and_names_each_damaged_one(
    store: Store, capsys: Output
) -> None:
    lines = run("verify", output=capsys)
    assert lines == [
        f"{v}: 13 files are whole, 0.0 MB" for v in ("pets:1", "pets:2", "pets:3", "tags:1")
    ]
    file = corrupt(store, "pets:1", "golden/cmyk.jpg")
    (store.path("pets:3") / "model.onnx").unlink()
    assert main(["verify"]) == 1
    printed = capsys.readouterr()
    assert printed.err == "error: damaged: pets:1, pets:3\n"
    assert [line.partition(":")[0] for line in printed.out.splitlines()] == ["pets"] * 3 + ["tags"]
    assert f"pets:1: {file} is corrupt: its sha256 is not the manifest's" in printed.out
    assert "model.onnx cannot be read" in printed.out


def test_verify_takes_names_and_versions(store: Store, capsys: Output) -> None:
    corrupt(store, "pets:1")
    found = run("verify", "pets:2", "tags", output=capsys)
    assert [line.split(": ")[0] for line in found] == ["pets:2", "tags:1"]
    assert refused("verify", "tags", "pets", output=capsys) == "damaged: pets:1"
    assert refused("verify", "pets:7", output=capsys) == "pets has no version 7; it has 1, 2, 3"
    assert refused("verify", "cats", output=capsys).endswith("; there are: pets, tags")


@pytest.mark.parametrize("content", ["7\n", None])
def test_verify_notices_when_nothing_valid_is_released(
    content: str | None, store: Store, capsys: Output
) -> None:
    file = store.root / "pets" / "RELEASED"
    file.unlink()
    if content:
        file.write_text(content)
    assert refused("verify", output=capsys) == "damaged: what is released of pets"
    assert main(["verify", "pets:1"]) == 0


# rollback


def test_rollback_goes_to_the_replaced_version_or_to_a_given_one(
    store: Store, capsys: Output
) -> None:
    words = run("rollback", "pets", output=capsys)
    assert words == ["version 1 of pets is released, in place of version 3"]
    assert store.released("pets") == 1
    expected = "pets:1 replaced no version: choose one with --to; valid: 1, 2, 3"
    assert refused("rollback", "pets", output=capsys) == expected
    run("rollback", "pets", "--to", "2", output=capsys)
    assert store.released("pets") == 2


def test_rollback_to_a_version_can_be_repeated(store: Store, capsys: Output) -> None:
    """An orchestrator may run a job twice."""
    file = store.root / "pets" / "RELEASED"
    words = ("rollback", "pets", "--to", "1")
    assert run(*words, output=capsys) == ["version 1 of pets is released, in place of version 3"]
    os.utime(file, (0, 0))
    assert run(*words, output=capsys) == ["version 1 of pets was released already"]
    assert file.stat().st_mtime == 0  # since when it is released stays


@pytest.mark.parametrize("content", [b"7\n", b"\xff", None])
def test_rollback_to_a_version_repairs_what_is_released(
    content: bytes | None, store: Store, capsys: Output
) -> None:
    file = store.root / "pets" / "RELEASED"
    file.unlink()
    if content:
        file.write_bytes(content)
    assert str(file) in refused("rollback", "pets", output=capsys)
    (line,) = run("rollback", "pets", "--to", "2", output=capsys)
    assert line == "version 2 of pets is released; none was before"
    assert store.released("pets") == 2


def test_rollback_never_releases_what_is_damaged_or_not_there(store: Store, capsys: Output) -> None:
    corrupt(store, "pets:1")
    for words, expected in {
        (): "model.onnx is corrupt",
        ("--to", "1"): "model.onnx is corrupt",
        ("--to", "7"): "pets has no version 7; it has 1, 2, 3",
        ("--to", "0"): "'pets:0' is not a model",
    }.items():
        assert expected in refused("rollback", "pets", *words, output=capsys)
    assert store.released("pets") == 3


def test_training_has_the_same_rollback() -> None:
    assert of_training.rollback is sys.modules["models.commands.rollback"].rollback


# prune


@pytest.fixture
def old(store: Store) -> Store:
    """Seven versions of `pets`; 4 is released and replaced 3."""
    add(store, "pets", released_after(3))
    for _ in range(3):
        add(store, "pets")
    return store


def test_prune_only_prints_without_yes(old: Store, capsys: Output) -> None:
    before = sorted(old.root.rglob("*"))
    lines = run("prune", "--keep", "2", output=capsys)
    assert lines == [
        "pets keeps 3, 4, 6, 7; version 4 is released",
        "tags keeps 1; version 1 is released",
        "would remove pets:1, 0.0 MB",
        "would remove pets:2, 0.0 MB",
        "would remove pets:5, 0.0 MB",
        "0.0 MB in all; --yes removes them",
    ]
    assert sorted(old.root.rglob("*")) == before


@pytest.mark.parametrize(
    ("keep", "kept"),
    [(1, [3, 4, 7]), (2, [3, 4, 6, 7]), (3, [3, 4, 5, 6, 7]), (9, [1, 2, 3, 4, 5, 6, 7])],
)
def test_prune_keeps_the_released_the_replaced_and_the_newest(
    keep: int, kept: list[int], old: Store, capsys: Output
) -> None:
    lines = run("prune", "pets", "--keep", str(keep), "--yes", output=capsys)
    assert old.versions("pets") == kept
    assert old.released("pets") == 4
    for version in kept:
        bundle.read(old.path(f"pets:{version}"))
    gone = [version for version in range(1, 8) if version not in kept]
    assert [line for line in lines if "removed" in line] == [
        f"removed pets:{version}, 0.0 MB" for version in gone
    ]
    assert sorted(p.name for p in (old.root / "pets").iterdir()) == [*map(str, kept), "RELEASED"]
    assert (lines[-1] == "nothing to remove") == (not gone)
    run("rollback", "pets", output=capsys)
    assert old.released("pets") == 3


def test_prune_prints_how_many_megabytes_go(old: Store, capsys: Output) -> None:
    for version in (1, 2):
        with (old.path(f"pets:{version}") / "model.onnx").open("ab") as file:
            file.truncate(2_500_000 * version)  # damaged ones can be removed too
    lines = run("prune", "pets", "--keep", "3", output=capsys)
    assert lines[1:] == [
        "would remove pets:1, 2.5 MB",
        "would remove pets:2, 5.0 MB",
        "7.5 MB in all; --yes removes them",
    ]


def test_the_number_of_a_removed_version_is_not_used_again(old: Store, capsys: Output) -> None:
    old.release("pets", 1)
    run("prune", "pets", "--keep", "1", "--yes", output=capsys)
    assert old.versions("pets") == [1, 7]
    assert add(old, "pets") == 8
    for keep in ("0", "-1", "x", "1.5"):
        assert f"{keep!r}: use 1 or more" in wrong_usage("prune", "--keep", keep, output=capsys)


@pytest.mark.parametrize("damage", ["no RELEASED", "RELEASED", "manifest"])
def test_prune_removes_nothing_while_it_is_unclear_what_must_stay(
    damage: str, old: Store, capsys: Output
) -> None:
    add(old, "voc")
    for _ in range(3):
        add(old, "able")  # comes before `pets`
    released = old.root / "pets" / "RELEASED"
    if damage == "manifest":
        corrupt(old, "pets:4", "manifest.json")
    elif damage == "RELEASED":
        released.write_text("9")
    else:
        released.unlink()
    before = sorted(old.root.rglob("*"))
    assert str(old.root / "pets") in refused("prune", "--keep", "1", "--yes", output=capsys)
    assert sorted(old.root.rglob("*")) == before


def test_prune_stops_when_a_version_that_it_would_remove_is_released_meanwhile(
    old: Store, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = Store.remove

    def and_release(store: Store, name: str, version: int) -> None:
        remove(store, name, version)
        store.release("pets", 2)

    monkeypatch.setattr(Store, "remove", and_release)
    message = refused("prune", "pets", "--keep", "1", "--yes", output=capsys)
    assert message == "pets:2 was released in the meantime: run prune again"
    assert old.versions("pets") == [2, 3, 4, 5, 6, 7]


def test_prune_sweeps_old_leftovers_only(old: Store, capsys: Output) -> None:
    """Of a bundle, of a RELEASED, in a folder without a version; a running export's stays."""
    (old.root / "failed").mkdir()
    leftovers = [
        old.root / "failed" / ".unfinished-a" / "model.onnx",
        old.root / "pets" / ".unfinished-b" / "golden" / "scores.json",
        old.root / "pets" / ".unfinished-c",
        old.root / "pets" / ".unfinished-young" / "model.onnx",
        old.root / "tags" / ".unfinished-d",
    ]
    for file in leftovers:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"half")
    aged = [path for path in old.root.rglob("*") if ".unfinished" in str(path)]
    now_s = (old.root / "tags" / ".unfinished-d").stat().st_mtime
    for path in aged:
        old_s = now_s - pruning.UNFINISHED_S - 60
        young = path.name == "model.onnx" and ".unfinished-young" in str(path)
        os.utime(path, (now_s, now_s) if young else (old_s, old_s))
    gone = [f"{name}, 0.0 MB" for name in ("pets/.unfinished-b", "pets/.unfinished-c")]
    found = run("prune", "pets", "--keep", "9", output=capsys)
    assert found[1:-1] == [f"would remove {line}" for line in gone]
    found = run("prune", "--keep", "9", "--yes", output=capsys)
    gone = ["failed/.unfinished-a, 0.0 MB", *gone, "tags/.unfinished-d, 0.0 MB"]
    assert found[2:-1] == [f"removed {line}" for line in gone]
    assert [p.name for p in old.root.glob("*/.unfinished-*")] == [".unfinished-young"]
    assert old.versions("pets") == [1, 2, 3, 4, 5, 6, 7]


KILLED = """
import os, sys
from models.__main__ import main

def hook(event, arguments):
    if event in ("os.remove", "shutil.rmtree"):
        os._exit(9)

sys.addaudithook(hook)
main(["prune", "pets", "--keep", "1", "--yes"])
"""


def test_a_removal_that_is_killed_leaves_no_half_version_and_is_swept_later(
    old: Store, capsys: Output
) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT).returncode == 9
    assert old.versions("pets") == [2, 3, 4, 5, 6, 7]
    for version in old.versions("pets"):
        bundle.read(old.path(f"pets:{version}"))
    (left,) = old.root.glob("pets/.unfinished-*")
    for path in (left, *left.rglob("*")):  # as if the bundle had been old
        os.utime(path, (0, 0))
    run("prune", "pets", "--keep", "1", "--yes", output=capsys)
    assert not left.exists()


# The command line


def test_a_folder_without_models_is_refused_as_it_is_probably_the_wrong_one(
    tmp_path: Path, capsys: Output
) -> None:
    for command in ("list", "verify", "prune"):
        message = refused(command, "--store", str(tmp_path / "gone"), output=capsys)
        expected = f"there is no model in {tmp_path / 'gone'}: see --store and"
        assert message == f"{expected} $LABRADOR_MODEL_STORE"
    for command in ("show", "rollback"):
        message = refused(command, "pets", "--store", str(tmp_path), output=capsys)
        assert message == f"no model pets in {tmp_path}; there are: none"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["lst"], "invalid choice: 'lst' (choose from"),
        (["list", "--jsn"], "unknown option --jsn; did you mean --json?"),
        (["list", "pets", "tags"], "unexpected: tags"),
        (["show"], "required: MODEL"),
        (["verify", "--frobnicate"], "python -m models verify --help lists the valid ones"),
        (["rollback"], "required: NAME"),
        (["rollback", "pets", "--to", "one"], "--to: invalid int value: 'one'"),
        (["prune", "--yess"], "unknown option --yess; did you mean --yes?"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_valid(
    words: list[str], message: str, capsys: Output
) -> None:
    assert message in wrong_usage(*words, output=capsys)


def test_a_file_system_error_is_one_line(store: Store, capsys: Output) -> None:
    file = store.root / "pets" / "RELEASED"
    file.unlink()
    file.mkdir()
    message = refused("rollback", "pets", output=capsys)
    assert "Is a directory" in message and str(file) in message


PYDANTIC = {
    *("pydantic", "pydantic_core"),
    *("annotated_types", "typing_extensions", "typing_inspection"),
}


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    with commands.asked("models.__main__") as ask:
        yield ask


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["prune", "--hlp"], 2),
        (["list"], 0),
        (["show", "pets"], 0),
        (["verify"], 0),
        (["rollback", "pets"], 0),
        (["prune", "--keep", "1", "--yes"], 0),
    ],
)
def test_it_needs_pydantic_and_no_other_library(
    words: Sequence[str], code: int, store: Store, ask: Ask
) -> None:
    found = ask([*words, "--store", str(store.root)])
    assert found.code == code, found.printed
    libraries = {name for name in found.imported if not name.startswith("_sysconfigdata")}
    assert {"models", "pydantic"} <= libraries <= PYDANTIC | {"models"}


def test_it_runs_as_a_program(store: Store) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "models", "rollback", "pets"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "version 1 of pets is released, in place of version 3\n"
    assert (store.root / "pets" / "RELEASED").stat().st_mode & 0o777 == 0o644
