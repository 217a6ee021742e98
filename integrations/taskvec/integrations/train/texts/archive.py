"""Debian's package lists and unpacked packages, in a folder of their own."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from taskvec.core.errors import InputError

SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
CONFIGURATION = """#clear Acquire::Languages;
Acquire::Languages {{{languages}}};
Acquire::GzipIndexes "false";
Dir::State::Lists "{folder}/lists";
Dir::Cache "{folder}/cache";
Dir::Etc::SourceList "{sources}";
Dir::Etc::SourceParts "/dev/null";
APT::Sandbox::User "root";
"""


class Archive:
    """Package lists in some languages, and packages' files, fetched with apt when first asked for.

    folder: what is fetched, kept for the next run. languages: apt's names, such as `pt_BR`.
    Raises InputError where apt is missing or finds nothing.
    """

    def __init__(self, folder: Path, languages: Sequence[str] = ("en",)) -> None:
        self.folder = folder.resolve()
        self.languages = tuple(languages)

    @property
    def lists(self) -> Path:
        """Folder of the package lists, `*_Packages` and `*Translation-*`, fetched if need be."""
        folder = self.folder / "lists"
        configuration = self._configuration()
        known = configuration.read_text() if configuration.exists() else ""
        wanted = self._settings()
        if known != wanted or not any(folder.glob("*Translation-*")):
            for name in ("lists/partial", "cache/archives/partial"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            configuration.write_text(wanted)
            try:
                self._run("apt-get", "-c", str(configuration), "update")
            except InputError:
                configuration.unlink()
                raise
        return folder

    def package(self, name: str) -> Path:
        """Folder of a package's files, as they lie under `/` where it is installed."""
        unpacked = self.folder / "packages" / name
        if not unpacked.exists():
            _ = self.lists
            part = unpacked.with_name(f"{name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            self._run("apt-get", "-c", str(self._configuration()), "download", name, cwd=part)
            (archive,) = part.glob("*.deb")
            self._run("dpkg-deb", "-x", archive.name, ".", cwd=part)
            archive.unlink()
            part.rename(unpacked)
        return unpacked

    def _configuration(self) -> Path:
        return self.folder / "apt.conf"

    def _settings(self) -> str:
        sources = next((path for path in SOURCES if path.exists()), None)
        if sources is None:
            raise InputError("no apt sources: the training text comes from Debian's archive")
        languages = " ".join(f'"{language}";' for language in self.languages)
        return CONFIGURATION.format(folder=self.folder, sources=sources, languages=languages)

    def _run(self, *command: str, cwd: Path | None = None) -> None:
        try:
            subprocess.run(command, cwd=cwd or self.folder, check=True, capture_output=True)  # noqa: S603
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", b"") or str(error).encode()
            raise InputError(f"{command[0]} failed: {reason.decode(errors='replace')}") from error


def collapse(text: str) -> str:
    """The text with every run of white space made one space."""
    return re.sub(r"\s+", " ", text).strip()
