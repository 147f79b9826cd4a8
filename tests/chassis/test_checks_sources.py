"""T8: files are read as their programs read them, and each value keeps its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_chassis import serve
from mcp_chassis.checks import Finding, kustomize
from mcp_chassis.checks.cluster import Limits
from mcp_chassis.checks.kustomize import Builder
from mcp_chassis.checks.sources import Block, Directive, Unparsable, blocks, caddy, load, nginx, read, seconds
from tests.chassis.serving import settings

LENGTHS = {
    "300": 300,
    "300s": 300,
    "5m": 300,
    "2m10s": 130,
    "1h 30m": 5400,
    "500ms": 0.5,
    "1d": 86_400,
    "1w": 604_800,
    "1M": 2_592_000,
    "1.5s": 1.5,
    "0": 0,
    "-1s": None,
    "5 apples": None,
    "": None,
    "{$LIMIT}": None,
}


@pytest.mark.parametrize(("text", "length"), LENGTHS.items())
def test_T8_lengths_of_time_in_every_spelling(text: str, length: float | None) -> None:
    assert seconds(text) == length


def test_D5_yaml_keeps_places_through_anchors_merges_and_documents() -> None:
    text = "base: &base\n  a: 1\n  b: 2\n---\none: &one {a: 1}\ntwo:\n  <<: *one\n  b: [x, 2]\n"
    problems: list[Finding] = []

    first, second = blocks(load(text, "f", problems))

    assert problems == []
    assert (first.at("base", "b"), second.at("two", "a"), second.at("two", "b")) == ("f:3", "f:5", "f:8")
    assert (second.text("two", "a"), second.texts("two", "b")) == ("1", ["x", "2"])


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("a: 1\nb: {c: 1,\n  c: 2}\n", "f:3", "c stands twice"),
        ("a: 1\nb: [\n", "f:3", "not YAML"),
        ("a: *nobody\n", "f:1", "not YAML"),
        ("a: &a [*a]\n", "f:1", "not YAML"),
    ],
)
def test_D5_bad_yaml_is_a_finding_with_its_line(text: str, where: str, words: str) -> None:
    problems: list[Finding] = []

    load(text, "f", problems)

    assert problems[-1].where == where
    assert any(words in problem.found for problem in problems)


@pytest.mark.parametrize("content", [b"a: \0\n", b"a: \xff\n"])
def test_D5_file_that_is_no_text_is_a_finding(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    problems: list[Finding] = []

    assert read(tmp_path / "x.yaml", problems) == []
    assert [(problem.outcome, problem.where) for problem in problems] == [("fail", str(tmp_path / "x.yaml"))]


def test_D2_tags_of_compose_are_no_fault() -> None:
    problems: list[Finding] = []

    (found,) = blocks(load("a: !reset null\nb: !override {c: 1}\nd: !override [e]\n", "f", problems))

    assert problems == []
    assert (found.text("b", "c"), found.texts("d")) == ("1", ["e"])


def test_D5_what_has_another_shape_reads_as_nothing() -> None:
    (found,) = blocks(load("a: 1\nb: [2]\nc: {d: 3}\n", "f", []))

    assert (found.text("a", "b"), found.blocks("a"), found.texts("c"), found.text("c")) == ("", [], [], "")
    assert found.at("c", "x", "y") == "f:3"


def flat(tree: tuple[Directive, ...], above: str = "") -> dict[str, tuple[str, str]]:
    """Map each directive's way to its arguments and line."""
    found = {}
    for one in tree:
        way = f"{above}/{one.name}"
        found[way] = (" ".join(one.arguments), one.place.rpartition("/")[2])
        found |= flat(one.inside, way)
    return found


def test_D3_nginx_drop_ins_stand_where_they_are_included(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "nginx.conf").write_text("http {\n  server {\n    include conf.d/*.conf;\n  }\n}\n", encoding="utf-8")
    (tmp_path / "conf.d" / "a.conf").write_text('\nadd_header X "a;{b" always;\n', encoding="utf-8")

    assert flat(nginx(tmp_path / "nginx.conf"))["/http/server/add_header"] == ("X a;{b always", "a.conf:2")


def test_D4_caddyfile_is_read_with_quotes_comments_heredocs_and_imports(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.caddy").write_text("idle 9s\n", encoding="utf-8")
    (tmp_path / "Caddyfile").write_text(
        "{\n\tservers {\n\t\timport conf.d/*.caddy\n\t}\n}\n"
        '(server) {\n\trespond "a {\n # b" 200 # not 300 {\n\theader X `"` \\\n\t\tlast#one\n}\n'
        ":80 {\n\timport server {\n\t\twrite 1s\n\t}\n\trespond <<END\n\t\t}\n\t\tEND 404\n}\n",
        encoding="utf-8",
    )

    found = flat(caddy(tmp_path / "Caddyfile"))

    assert found["//servers/idle"] == ("9s", "a.caddy:1")
    assert found["/(server)/respond"] == ("a {\n # b 200", "Caddyfile:7")
    assert found["/(server)/header"] == ('X " last#one', "Caddyfile:9")
    assert found["/:80/import/write"] == ("1s", "Caddyfile:14")
    assert found["/:80/respond"] == (" 404", "Caddyfile:16")


@pytest.mark.parametrize(
    ("text", "line"), [("a {\n\tb\n", 1), ("a\n}\n", 2), ('a\nb "c\n', 2), ("a {\n\tb {\n\t}\n", 1)]
)
def test_D4_caddyfile_that_caddy_refuses_is_a_finding_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "Caddyfile"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(Unparsable) as refusal:
        caddy(path)

    assert refusal.value.args[1] == f"{path}:{line}"


def built(folder: Path, files: dict[str, str]) -> dict[str, Block]:
    """Build the overlay of a kustomization, and map its objects' kinds to them."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return {one.text("kind"): one for one in Builder().build(folder / "over", [])}


BASE = {
    "base/kustomization.yaml": "resources: [all.yaml]\nconfigMapGenerator: [{name: m, literals: [A=1, B=2]}]\n",
    "base/all.yaml": "kind: Deployment\nmetadata: {name: d}\nspec:\n  grace: 1\n  containers: [{name: a, x: 1},"
    " {name: b}]\n---\nkind: Route\nmetadata: {name: r}\nspec: {rules: [{limit: 1}, {limit: 2}]}\n",
}


def test_T8_overlay_changes_values_as_kustomize_does_and_keeps_their_places(tmp_path: Path) -> None:
    over = """\
resources: [../base]
components: [../part]
configMapGenerator:
  - {name: m, behavior: merge, literals: [B=3]}
patches:
  - path: patch.yaml
  - target: {kind: Route}
    patch: |-
      - {op: replace, path: /spec/rules/1/limit, value: 9}
      - {op: add, path: /spec/rules/-, value: {limit: 7}}
"""
    patch = "kind: Deployment\nmetadata: {name: d}\nspec:\n  grace: 2\n  containers: [{name: b, y: 2}, {name: c}]\n"
    part = "patches:\n  - patch: '{$patch: delete, kind: Gone, metadata: {name: g}}'\nresources: [gone.yaml]\n"
    files = {"over/kustomization.yaml": over, "over/patch.yaml": patch, "part/kustomization.yaml": part}

    found = built(tmp_path, {**BASE, **files, "part/gone.yaml": "kind: Gone\nmetadata: {name: g}\n"})

    assert set(found) == {"Deployment", "Route", "ConfigMap"}
    deployment, route = found["Deployment"], found["Route"]
    assert (deployment.text("spec", "grace"), deployment.at("spec", "grace")) == ("2", f"{tmp_path}/over/patch.yaml:4")
    assert [dict(one) for one in deployment.blocks("spec", "containers")] == [
        {"name": "a", "x": 1},
        {"name": "b", "y": 2},
        {"name": "c"},
    ]
    assert [one.text("limit") for one in route.blocks("spec", "rules")] == ["1", "9", "7"]
    assert route.blocks("spec", "rules")[1].at("limit") == f"{tmp_path}/over/kustomization.yaml:9"
    assert dict(found["ConfigMap"].block("data")) == {"A": "1", "B": "3"}


def test_T8_items_of_a_list_are_merged_by_the_key_that_they_are_known_by(tmp_path: Path) -> None:
    base = (
        "kind: Pod\nspec:\n  ports: [{port: 1, x: 1}]\n  containers:\n"
        "  - {name: a, ports: [{containerPort: 1, name: b}, {containerPort: 2}], volumeMounts: [{mountPath: /a}]}\n"
    )
    patch = (
        "{kind: Pod, spec: {ports: [{port: 1, x: 2}], containers: [{name: a, ports: [{containerPort: 1, name: c}],"
        " volumeMounts: [{mountPath: /b}]}]}}"
    )
    over = f"resources: [base.yaml]\npatches: [{{target: {{kind: Pod}}, patch: '{patch}'}}]\n"

    pod = built(tmp_path, {"over/kustomization.yaml": over, "over/base.yaml": base})["Pod"].block("spec")

    (container,) = pod.blocks("containers")
    assert [dict(one) for one in pod.blocks("ports")] == [{"port": 1, "x": 2}]
    assert [dict(one) for one in container.blocks("ports")] == [{"containerPort": 1, "name": "c"}, {"containerPort": 2}]
    assert [one.text("mountPath") for one in container.blocks("volumeMounts")] == ["/a", "/b"]


@pytest.mark.parametrize("key", ["resources: ['%s']", "components: ['%s']", "patches: [{path: '%s'}]"])
@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("absent.yaml", "fail"),
        ("../empty", "fail"),
        ("https://example.com/a//b?ref=v1", "unseen"),
        ("git@example.com:a/b", "unseen"),
        ("github.com/a/b", "unseen"),
    ],
)
def test_T8_what_a_kustomization_names_and_is_not_there_is_told(
    tmp_path: Path, key: str, name: str, outcome: str
) -> None:
    for folder in ("over", "empty"):
        (tmp_path / folder).mkdir()
    file = tmp_path / "over" / "kustomization.yaml"
    file.write_text(f"kind: Kustomization\n{key % name}\n", encoding="utf-8")

    builder = Builder()
    builder.build(tmp_path / "over", [])

    (found,) = builder.problems
    assert (found.outcome, found.where, found.required) == (outcome, f"{file}:2", False)
    assert name in found.found


def test_S3_zero_is_a_length_too() -> None:
    assert Limits.of({"MCP_TOOL_TIMEOUT": "10", "MCP_DRAIN_TIMEOUT": "0"}).drain == 0


def test_S3_a_check_waits_for_the_last_resort_of_the_server() -> None:
    assert kustomize.LAST_RESORT == serve._LAST_RESORT


def test_S3_drain_of_a_check_is_the_server_s() -> None:
    assert Limits.of({"MCP_TOOL_TIMEOUT": "10"}).drain == settings(tool_timeout=10).drain_seconds
    given = {"MCP_TOOL_TIMEOUT": "10", "MCP_DRAIN_TIMEOUT": "70"}
    assert Limits.of(given).drain == settings(tool_timeout=10, drain_timeout=70).drain_seconds
