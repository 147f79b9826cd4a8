"""A project of its own for each test, with a commit, a tag, a bare remote, and stand-ins first on PATH."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.kubernetes_build import tool
from tests.pipelines.executor import Job, Workflow, gitlab_job
from tests.pipelines.stand_ins import StandIns
from tests.render.conftest import _apart as _apart
from tests.render.support import Answers, by_copier, succeed

SECRETS = {
    "KUBE_CONFIG": "the cluster's",
    "PROBE_TOKEN": "the probe's",
    "MCP_REGISTRY_KEY": "k3y",
    "UPDATE_TOKEN": "u",
    "REGISTRY_USERNAME": "someone",
    "REGISTRY_PASSWORD": "r",
}
IMAGE = "registry.acme.test/acme-notes"
"""Of a render whose registry is not the example's."""


@functools.cache
def kustomize() -> str:
    """Return the folder of the real kustomize, which the stand-in of kubectl calls."""
    return str(Path(tool("kustomize")).parent)


@dataclass
class Repository:
    """A clone that pipelines run in, and its surroundings."""

    project: Path
    remote: Path
    programs: StandIns
    secrets: dict[str, str] = field(default_factory=lambda: dict(SECRETS))
    tag: str = "v0.1.0"
    settings: dict[str, str] = field(default_factory=lambda: {"PRODUCTION_PROBE": "on"})

    def variables(self) -> dict[str, str]:
        """Return a runner's environment."""
        path = [str(self.programs.programs), kustomize(), os.environ["PATH"]]
        return {**os.environ, "PATH": os.pathsep.join(path), "HOME": str(self.project.parent)}

    def github(self, workflow: str, **more: str) -> dict[str, Job]:
        """Run a workflow of GitHub's, for the tag, and return what each job did; `more` wins over its variables."""
        variables = self.variables() | {"GITHUB_REF_NAME": self.tag, "GITHUB_SHA": self.git("rev-parse", "HEAD")}
        context: dict[str, Any] = {"secrets": self.secrets, "vars": self.settings}
        return Workflow(self.project, workflow, variables, more, **context).run()

    def gitlab(self, job: str, **more: str) -> tuple[int, str]:
        """Run one job of GitLab's, and return its exit code and what it said."""
        files = {name: self.project.parent / name for name in ("KUBE_CONFIG", "PROBE_TOKEN")}
        for name, path in files.items():
            path.write_text(self.secrets.get(name, ""), encoding="utf-8")
        given = {name: str(files.get(name, value)) for name, value in self.secrets.items()}
        predefined = {
            "CI_COMMIT_TAG": self.tag,
            "CI_COMMIT_SHA": self.git("rev-parse", "HEAD"),
            "CI_DEFAULT_BRANCH": "main",
            "CI_API_V4_URL": "https://git.example.com/api/v4",
            "CI_PROJECT_ID": "7",
            "CI_PROJECT_URL": "https://git.example.com/acme/notes",
            "CI_REGISTRY": "registry.git.example.com",
            "CI_REGISTRY_USER": "gitlab-ci-token",
            "CI_REGISTRY_PASSWORD": "the-jobs-own",
            # The forge's address is a folder here, and takes options of a push.
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{self.remote}.insteadOf",
            "GIT_CONFIG_VALUE_0": "https://git.example.com/acme/notes.git",
            "CI_JOB_URL": "https://git.example.com/acme/notes/-/jobs/1",
        }
        return gitlab_job(self.project, job, self.variables() | predefined | given | more)

    def git(self, *arguments: str) -> str:
        """Return what git says in the clone."""
        return succeed("git", *arguments, cwd=self.project).strip()

    def on_main(self, name: str) -> str:
        """Return a file as it is on the remote's main."""
        return succeed("git", "show", f"main:{name}", cwd=self.remote)


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., Repository]:
    """Return a maker of repositories, by the answers of a render; `real` names programs that need no stand-in."""

    def make(*answers: tuple[str, str], source: Path | None = None, real: Collection[str] = ()) -> Repository:
        project, remote = tmp_path / "project", tmp_path / "remote.git"
        team = ("team", f"{{image_registry: {IMAGE.split('/')[0]}}}")
        chosen: Answers = answers if any(name == "team" for name, _ in answers) else (*answers, team)
        shutil.copytree(source or by_copier(chosen), project)
        made = Repository(project, remote, StandIns(tmp_path / "stand-ins", real))
        succeed("git", "init", "--quiet", "--bare", "--initial-branch=main", remote, cwd=tmp_path)
        succeed("git", "config", "receive.advertisePushOptions", "true", cwd=remote)
        made.git("init", "--quiet", "--initial-branch=main")
        made.git("remote", "add", "origin", str(remote))
        (project / ".git/info/exclude").write_text("manifests.yaml\nrelease.yaml\napplied\ncommitted\nprobe.txt\n")
        made.git("add", "--all")
        made.git("commit", "--quiet", "--message=Start")
        made.git("push", "--quiet", "origin", "main")
        made.programs.say("deployed", "41")
        return made

    return make
