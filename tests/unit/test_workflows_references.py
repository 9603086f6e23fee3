"""scripts/references.py: all references name one repository at one ref, and all of them change or none."""

from pathlib import Path

import pytest

import references

SERVE = """jobs:
  plan:
    steps:
      - uses: first/home/actions/setup@main
      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1
"""
TREE = {
    references.SERVE: SERVE,
    "README.md": "`uses: first/home/.github/workflows/serve.yml@main`; map first/home@main=DIR\n",
    "docs/page.md": "[a](https://github.com/first/home/blob/main/docs/page.md#x) or https://github.com/first/home/tree/main/examples\n",
    "words.md": "see github.com/first/home.git, or first/home.\n",
    "model.py": 'URL = "https://raw.githubusercontent.com/first/home/main/schema/x.json"\n',
    "other.md": "my-first/home, first/homestead, first/home-made, first/home.example and first/homes are others'\n",
    "trust.yaml": "first/home/.github/workflows/serve.yml@refs/tags/v1\n",
}


def at(ref: str, home: str = "first/home") -> dict[str, str]:
    tree = {name: text.replace("@main", f"@{ref}").replace("/main/", f"/{ref}/") for name, text in TREE.items()}
    return {name: text if name == "other.md" else text.replace("first/home", home) for name, text in tree.items()}


def test_a_release_changes_only_the_refs() -> None:
    assert references.released(TREE, "v1.2.3") == at("v1.2.3")
    assert references.released(at("v1.2.3"), "v1.2.3") == at("v1.2.3")


def test_adopting_changes_every_reference_and_is_idempotent() -> None:
    adopted = references.adopted(TREE, "somebody", "else.where")
    assert adopted == at("main", "somebody/else.where")
    assert references.adopted(adopted, "somebody", "else.where") == adopted
    assert references.adopted(adopted, "first", "home") == TREE


def test_a_name_that_contains_the_old_one_is_accepted() -> None:
    assert references.adopted(TREE, "my-first", "home")[references.SERVE].count("my-first/home/") == 1


@pytest.mark.parametrize("owner", ["", "-a", "a-", "a--b", "a/b", "a b", "a\n", "a" * 40, "ä", "$(id)", "..", "a_b"])
def test_a_malformed_owner_is_refused(owner: str) -> None:
    with pytest.raises(references.Refused, match="is not a valid owner"):
        references.adopted(TREE, owner, "repo")


@pytest.mark.parametrize("repo", ["", ".", "..", "a/b", "a b", "a\n", "a.git", "a" * 101, "ä", "$(id)", "a@b"])
def test_a_malformed_repository_is_refused(repo: str) -> None:
    with pytest.raises(references.Refused, match="is not a valid repository"):
        references.adopted(TREE, "owner", repo)


@pytest.mark.parametrize("tag", ["", "1.2.3", "v1", "v1.2", "v1.2.3.4", "v01.2.3", "v1.2.3\n", "main", "v1.2.3-beta", "v1.2.3; id"])
def test_only_an_exact_version_is_released(tag: str) -> None:
    with pytest.raises(references.Refused, match="not an exact version"):
        references.released(TREE, tag)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("      - uses: first/home/actions/check@v1", "the ref must be main"),
        ("      - uses: first/home/actions/check", "the ref is missing"),
        ("      - uses: ./actions/check", "is in the caller's workspace"),
        ('        uses: "./.github/workflows/serve.yml"', "is in the caller's workspace"),
    ],
)
def test_a_stray_reference_is_reported_and_not_rewritten(line: str, problem: str) -> None:
    tree = TREE | {"actions/x/action.yml": f"runs:\n  steps:\n{line}\n"}
    assert [problem in one and one.startswith("actions/x/action.yml:3: ") for one in references.problems(tree)] == [True]
    with pytest.raises(references.Refused, match="would disagree"):
        references.adopted(tree, "somebody", "elsewhere")


def test_a_name_that_the_tree_already_uses_at_another_ref_is_refused() -> None:
    with pytest.raises(references.Refused, match=r"actions/checkout@3d3c42e5aac5"):
        references.adopted(TREE, "actions", "checkout")


def test_text_files_are_rewritten_and_others_are_unchanged(tmp_path: Path) -> None:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    script = tmp_path / "run.sh"
    script.write_bytes(b"#!/bin/sh\r\necho first/home@main\r\n")
    script.chmod(0o755)
    (tmp_path / "model.pt").write_bytes(b"\xff\xfefirst/home@main")
    (tmp_path / "link.md").symlink_to("README.md")
    assert references.main(["adopt", "--owner", "somebody", "--repo", "elsewhere"], tmp_path) == 0
    assert script.read_bytes() == b"#!/bin/sh\r\necho somebody/elsewhere@main\r\n"
    assert script.stat().st_mode & 0o111
    assert (tmp_path / "model.pt").read_bytes() == b"\xff\xfefirst/home@main"
    assert (tmp_path / "link.md").is_symlink()
    assert references.main(["check"], tmp_path) == 0
    assert not list(tmp_path.rglob("*.references"))


def test_a_refusal_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (TREE | {"stray.yml": "- uses: first/home/actions/x@v2\n"}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert references.main(["release", "v1.0.0"], tmp_path) == 0, "a stray ref is set by a release"
    (tmp_path / "stray.yml").write_text("- uses: ./actions/x\n")
    before = references.read(tmp_path)
    assert references.main(["adopt", "--owner", "somebody", "--repo", "elsewhere"], tmp_path) == 1
    assert references.read(tmp_path) == before
    assert "./actions/x" in capsys.readouterr().err


def test_the_references_of_this_repository_agree() -> None:
    # git is not run here: all of the tree's files, less what no commit holds
    root = references.ROOT
    names = [name for top in ("actions", ".github", "examples", "scripts", "schema") for name in (root / top).rglob("*.*")]
    tree = {str(path.relative_to(root)): path.read_text(errors="replace") for path in names if path.is_file()}
    assert references.problems(tree) == []
    assert len(references.references(tree, references.home_of(tree)[0])) > 20
