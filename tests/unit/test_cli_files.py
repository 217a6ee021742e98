"""Which files `taskvec index` finds, and what it passes over."""

import os
from pathlib import Path

import pytest

from taskvec.core.errors import InputError
from taskvec.integrations.cli.encoders import canonical_model
from taskvec.integrations.cli.files import find_files, is_under, short_path, source_name
from taskvec.integrations.cli.redaction import redacted
from taskvec.integrations.cli.stores.opening import store_folder


def write(path: Path, text: str = "some text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(folder: Path, **options: Path) -> list[str]:
    found = find_files([str(folder)], **options)
    return [path.relative_to(folder).as_posix() for path in found.files.values()]


def test_finds_files_in_folders_below_in_a_stable_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "sub/c.rst", "sub/deeper/d.py"):
        write(tmp_path / name)
    assert names(tmp_path) == ["a.md", "b.txt", "sub/c.rst", "sub/deeper/d.py"]


def test_passes_over_hidden_and_installed_folders_and_names_them(tmp_path: Path) -> None:
    write(tmp_path / ".git/config")
    write(tmp_path / ".taskvec/index/meta.json")
    write(tmp_path / "__pycache__/x.txt")
    write(tmp_path / "env/pyvenv.cfg")
    write(tmp_path / "env/lib/site.py")
    write(tmp_path / "photo.PNG")
    write(tmp_path / "kept.txt")
    found = find_files([str(tmp_path)])
    assert [path.name for path in found.files.values()] == ["kept.txt"]
    skipped = {Path(item.path).name: item.reason for item in found.skipped}
    assert skipped == {
        ".git": "hidden",
        ".taskvec": "hidden",
        "__pycache__": "installed or generated",
        "env": "installed or generated",
        "photo.PNG": "not text",
    }


def test_passes_over_the_store_itself(tmp_path: Path) -> None:
    write(tmp_path / "store/meta.json")
    write(tmp_path / "a.txt")
    assert names(tmp_path, exclude=(tmp_path / "store").resolve()) == ["a.txt"]


def test_takes_a_hidden_folder_and_a_media_file_that_are_named(tmp_path: Path) -> None:
    hidden, image = write(tmp_path / ".notes/a.txt"), write(tmp_path / "drawing.png")
    found = find_files([str(hidden.parent), str(image)])
    assert list(found.files.values()) == [hidden, image]


def test_follows_links_and_survives_loops(tmp_path: Path) -> None:
    write(tmp_path / "docs/a.txt")
    (tmp_path / "docs/loop").symlink_to(tmp_path / "docs")
    (tmp_path / "docs/up").symlink_to(tmp_path)
    assert names(tmp_path / "docs") == ["a.txt"]


def test_takes_each_file_once_however_often_it_is_given(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt")
    found = find_files([str(tmp_path), str(path), f"{tmp_path}/../{tmp_path.name}/a.txt"])
    assert list(found.files.values()) == [path]


def test_reports_links_to_nothing_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    found = find_files([str(tmp_path)])
    assert not found.files
    reasons = {Path(item.path).name: item.reason for item in found.problems}
    assert reasons == {"dangling.txt": "a link to nothing", "pipe.txt": "not a regular file"}


def test_names_what_may_not_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(self: Path) -> bool:
        if self.name == "locked":
            raise PermissionError(13, "Permission denied", str(self))
        return os.path.isdir(self)  # noqa: PTH112 - the method itself is what is replaced

    write(tmp_path / "a.txt")
    write(tmp_path / "locked")
    monkeypatch.setattr(Path, "is_dir", look)
    found = find_files([str(tmp_path)])
    assert [path.name for path in found.files.values()] == ["a.txt"]
    assert [item.reason for item in found.problems] == ["permission denied"]


def test_a_dotted_path_is_the_file_that_the_system_means(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/inner/a.txt")
    path = write(tmp_path / "elsewhere/b.txt")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere/inner")
    found = find_files([f"{tmp_path}/link/../b.txt"])
    assert list(found.files.values()) == [path]


def test_remembers_given_paths_that_do_not_exist(tmp_path: Path) -> None:
    assert find_files([str(tmp_path / "gone.txt")]).gone == [tmp_path / "gone.txt"]


@pytest.mark.parametrize("given", ["", "a\0b"])
def test_refuses_what_is_no_path(given: str) -> None:
    with pytest.raises(InputError, match="is not a path"):
        find_files([given])


def test_a_file_name_that_is_not_utf8_becomes_text(tmp_path: Path) -> None:
    name = source_name(tmp_path / os.fsdecode(b"caf\xe9.txt"))
    assert name.endswith("caf\\xe9.txt")
    name.encode("utf-8")


def test_a_source_is_under_its_folder_but_not_under_a_longer_name() -> None:
    assert is_under("/docs/a.txt", "/docs")
    assert is_under("/docs/a.txt", "/docs/a.txt")
    assert is_under("/docs/a.txt", "/")
    assert not is_under("/docs-old/a.txt", "/docs")


def test_a_path_below_the_present_folder_is_shown_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_path(str(tmp_path / "docs/a.txt")) == "docs/a.txt"
    assert short_path("/elsewhere/a.txt") == "/elsewhere/a.txt"


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("qdrant:.taskvec/index", "qdrant:.taskvec/index"),
        ("qdrant:docs@home", "qdrant:docs@home"),
        ("qdrant:http://host:6333", "qdrant:http://host:6333"),
        ("qdrant:https://u:hush@host/p?key=hush#hush", "qdrant:https://host/p"),
        ("postgresql://u:hu@sh@host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://host/db?password=hu@sh", "postgresql://…"),
        ("postgresql://u:hu?sh@host/db", "postgresql://…"),
        ("postgresql:u:hush@host/db", "postgresql:…@host/db"),
        ("host=here password=hush dbname=x", "host=here password=… dbname=x"),
        ("host=here PASSWORD = 'hu sh' dbname=x", "host=here PASSWORD = … dbname=x"),
    ],
)
def test_messages_show_a_store_without_its_password(spec: str, shown: str) -> None:
    assert redacted(spec) == shown


def test_a_model_is_remembered_without_its_password() -> None:
    assert canonical_model("http://u:hush@host:8080") == "http://host:8080"
    assert canonical_model("jinaai/jina-embeddings-v3") == "jinaai/jina-embeddings-v3"


def test_a_postgres_folder_is_no_forgotten_url() -> None:
    with pytest.raises(InputError, match="write postgresql://") as raised:
        store_folder("postgres:u:hush@host/db")
    assert "hush" not in str(raised.value)
