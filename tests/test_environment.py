"""The environment's promises: one set of pins, hashes, no addresses, a front door that explains."""

import os
import re
import runpy
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import cliplib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
TORCH_FAMILY = re.compile(r"torch$|torchvision$|triton$|nvidia-|cuda-")


def pinned(lines):
    """Name -> (version, marker) of `name==version ; marker` lines; each must be an exact pin."""
    found = {}
    for requirement in map(Requirement, lines):
        (pin,) = requirement.specifier
        assert pin.operator == "==", f"{requirement} is no exact pin"
        name = canonicalize_name(requirement.name)
        assert name not in found, f"{name} is pinned twice"
        found[name] = (pin.version, str(requirement.marker or ""))
    return found


def lock_entries():
    """Each entry of the lock: its requirement and how many hashes it carries."""
    entries = re.split(r"(?m)^(?=[^\s#])", LOCK)[1:]
    return {
        e.split("\\")[0].strip(): len(re.findall(r"--hash=sha256:[0-9a-f]{64}", e)) for e in entries
    }


def direct_pins():
    extras = PROJECT["optional-dependencies"].values()
    return pinned([*PROJECT["dependencies"], *(line for extra in extras for line in extra)])


def conda():
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def conda_pip_lines():
    (section,) = [d["pip"] for d in conda()["dependencies"] if isinstance(d, dict)]
    return section


def test_lock_pins_every_direct_dependency_at_pyprojects_version():
    locked = {name: version for name, (version, _) in pinned(lock_entries()).items()}
    wanted = {n: v for n, (v, _) in direct_pins().items() if n not in ("torch", "torchvision")}
    assert {name: locked.get(name) for name in wanted} == wanted


def test_lock_has_hashes_for_each_entry_and_leaves_torch_to_the_user():
    entries = lock_entries()
    assert len(entries) > 150
    assert [entry for entry, hashes in entries.items() if hashes == 0] == []
    assert [entry for entry in entries if TORCH_FAMILY.match(entry.split("==")[0])] == []


def test_torch_and_torchvision_are_pinned_as_a_pair_in_pyproject_only():
    pair = {n: v for n, (v, _) in direct_pins().items() if n in ("torch", "torchvision")}
    assert pair.keys() == {"torch", "torchvision"}
    for name in ("Makefile", ".ci/env", ".ci/run", ".ci/lock"):
        assert not any(version in (ROOT / name).read_text() for version in pair.values()), name


def test_environment_yml_leads_to_the_same_names_versions_and_markers():
    lines = conda_pip_lines()
    assert lines[-1] == "--editable ."
    pair = {n: pin for n, pin in direct_pins().items() if n in ("torch", "torchvision")}
    assert pinned(lines[:-1]) == pair | pinned(lock_entries())


def test_environment_yml_is_what_make_lock_writes():
    lock = runpy.run_path(str(ROOT / ".ci" / "lock"))
    written = lock["environment_yml"](lock["torch_pair"](PROJECT), LOCK)
    assert (ROOT / "environment.yml").read_text() == written


def test_lock_text_drops_the_torch_family_and_keeps_hashes():
    lock = runpy.run_path(str(ROOT / ".ci" / "lock"))
    resolved = (
        "numpy==2.0 \\\n    --hash=sha256:aa\n    # via torch\n"
        "nvidia-cublas==13.1 ; sys_platform == 'linux' \\\n    --hash=sha256:bb\n    # via torch\n"
        "torch==2.0 \\\n    --hash=sha256:cc\n"
        "torchaudio-free==1.0 ; os_name == 'nt' \\\n    --hash=sha256:dd\n"
    )
    kept = lock["lock_text"](resolved)
    assert lock["pins"](kept) == ["numpy==2.0", "torchaudio-free==1.0 ; os_name == 'nt'"]
    assert re.findall(r"sha256:(\w+)", kept) == ["aa", "dd"]


def test_pythons_that_the_project_names_agree():
    supported = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(9, 17) if f"3.{minor}" in supported] == [
        "3.11",
        "3.12",
        "3.13",
    ]
    (python,) = [d for d in conda()["dependencies"] if str(d).startswith("python=")]
    assert python.removeprefix("python=") in supported


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == PROJECT["version"] == cliplib.__version__


def test_citation_names_the_software_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    required = {"cff-version", "message", "title", "authors", "type", "version", "license"}
    assert required <= citation.keys()
    (paper,) = citation["references"]
    assert [a["family-names"] for a in paper["authors"]] == [
        *("Cherti", "Beaumont", "Wightman", "Wortsman", "Ilharco"),
        *("Gordon", "Schuhmann", "Schmidt", "Jitsev"),
    ]
    assert (paper["year"], paper["start"], paper["end"]) == (2023, "2818", "2829")
    assert "arXiv:2212.07143" in [i["value"] for i in paper["identifiers"]]


def test_licence_is_mit_in_all_three_places():
    licence = (ROOT / "LICENSE").read_text()
    assert licence.startswith("MIT License\n\nCopyright (c) 2026 The cliplib authors")
    assert PROJECT["license"] == "MIT"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["license"] == "MIT"


def project_texts():
    """Path and text of every file that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            yield name, path.read_bytes().decode("utf-8", errors="ignore")


# Put together here, so that this file does not name what it forbids.
HOSTS = [".".join(parts) for parts in (
    ("pypi", "org"), ("pythonhosted", "org"), ("registry", "npmjs"), ("download", "pytorch"),
    ("deb", "debian", "org"), ("conda", "anaconda", "org"), ("repo", "anaconda"),
)]  # fmt: skip
FORBIDDEN = {
    "a package registry's address": re.compile("|".join(map(re.escape, HOSTS))),
    "a choice of package index": re.compile(
        r"--(?:extra-)?index-url[ =]\S*//|--find-links[ =]\S*/"
    ),
    "somebody's home folder": re.compile(r"(?<![\w.:/$}-])/(?:home|Users|root)/\w"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_project_file_names(what):
    texts = list(project_texts())
    assert len(texts) > 10
    assert [name for name, text in texts if FORBIDDEN[what].search(text)] == []


def make(*arguments, folder=ROOT, **environment):
    # A make that runs these tests hands its own flags and names down; they are not ours.
    own = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VENV", "PYTHON", "TORCH_ARGS")
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def the_error(result):
    """The one line that a failing recipe says, beside make's own closing line."""
    assert result.returncode == 2
    (line,) = [x for x in result.stderr.splitlines() if not re.match(r"make(\[\d+\])?: ", x)]
    return line


def test_make_help_lists_every_target_with_one_line():
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.M)
    shown = re.findall(r"^  ([a-z-]+) +\S", make().stdout, flags=re.M)
    assert sorted(shown) == sorted(phony.split())
    assert {"env", "corpus", "study", "book", "test", "lint", "serve", "clean"} <= set(shown)


# An interpreter that pretends: it answers with VERSION, makes empty environments, and "installs"
# whatever it is told, failing or dying as the file `mood` beside the clone says.
PRETENDER = """\
#!/bin/sh
case "$*" in
  *ensurepip*) test VERSION != 3.12-without-venv ;;
  "-m venv --clear "*) echo venv >> CALLS; rm -rf "$4"; mkdir -p "$4/bin"
    touch "$4/pyvenv.cfg"; cp "$0" "$4/bin/python" ;;
  "-m pip install "*) echo pip >> CALLS
    case "$(cat MOOD 2>/dev/null)" in
      offline) echo "ERROR: no route to the packages" >&2; exit 1 ;;
      dying) echo "Installing collected packages: a"; kill -9 $PPID ;;
    esac ;;
  -) echo torch==0 torchvision==0 ;;
  *) echo VERSION | cut -d - -f 1 ;;
esac
"""


class Clone:
    """The files of `make env` in a folder of their own, with a pretended interpreter."""

    def __init__(self, folder, version="3.12"):
        self.folder = folder / "clone"
        (self.folder / ".ci").mkdir(parents=True)
        for name in ("Makefile", ".ci/env", "pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / name, self.folder / name)
        self.venv = self.folder / ".venv"
        self.calls = folder / "calls"
        self.mood = folder / "mood"
        self.python = self.pretender(folder / "python", version)

    def pretender(self, path, version):
        text = PRETENDER.replace("VERSION", version)
        path.write_text(text.replace("CALLS", str(self.calls)).replace("MOOD", str(self.mood)))
        path.chmod(0o755)
        return path

    def make_env(self, *arguments):
        return make("env", f"PYTHON={self.python}", *arguments, folder=self.folder)

    def called(self):
        """What was called since the last look: `venv` or `pip`, in order."""
        calls = self.calls.read_text().split() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        return calls


@pytest.mark.parametrize("version", ["2.7", "3.9", "3.10", "3.14"])
def test_a_python_out_of_range_gets_one_line_and_nothing_is_made(tmp_path, version):
    clone = Clone(tmp_path, version)
    error = the_error(clone.make_env())
    assert f"{clone.python} is {version}" in error
    assert "3.11 to 3.13" in error
    assert not clone.venv.exists()


def test_a_python_without_venv_gets_one_line(tmp_path):
    clone = Clone(tmp_path, "3.12-without-venv")
    assert "no venv module" in the_error(clone.make_env())
    assert not clone.venv.exists()


def test_a_newer_python3_gives_way_to_one_that_fits(tmp_path):
    clone = Clone(tmp_path)
    clone.pretender(tmp_path / "python3", "3.14")
    clone.pretender(tmp_path / "python3.13", "3.13")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    result = make("env", folder=clone.folder, PATH=path)
    assert "with Python 3.13" in result.stdout
    assert result.returncode == 0


def test_a_folder_that_is_no_environment_is_never_emptied(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    error = the_error(Clone(tmp_path).make_env(f"VENV={mine}"))
    assert "no virtual environment" in error
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_finished_environment_is_left_alone_until_the_lock_changes(tmp_path):
    clone = Clone(tmp_path)
    assert clone.make_env().returncode == 0
    assert clone.called() == ["venv", "pip", "pip", "pip"]
    again = clone.make_env()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert clone.called() == []
    with (clone.folder / "requirements.lock").open("a") as lock:
        lock.write("# another pin\n")
    clone.make_env()
    assert clone.called() == ["pip", "pip", "pip"]


def test_pips_failure_is_one_line_and_the_next_try_goes_on(tmp_path):
    clone = Clone(tmp_path)
    clone.mood.write_text("offline")
    assert "ERROR: no route to the packages" in the_error(clone.make_env())
    assert clone.called() == ["venv", "pip"]
    clone.mood.write_text("well")
    assert clone.make_env().returncode == 0
    assert clone.called() == ["pip", "pip", "pip"]


def test_an_install_that_was_killed_half_way_starts_from_an_empty_environment(tmp_path):
    clone = Clone(tmp_path)
    clone.mood.write_text("dying")
    assert clone.make_env().returncode == 2
    clone.called()
    clone.mood.write_text("well")
    assert clone.make_env().returncode == 0
    assert clone.called() == ["venv", "pip", "pip", "pip"]


def test_a_copied_clone_gets_an_environment_of_its_own(tmp_path):
    clone = Clone(tmp_path)
    clone.make_env()
    clone.called()
    clone.folder = shutil.move(clone.folder, tmp_path / "moved")
    assert clone.make_env().returncode == 0
    assert clone.called() == ["venv", "pip", "pip", "pip"]
