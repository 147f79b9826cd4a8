"""A changed standard reaches a project that was lived in, everywhere, without a conflict or a lost line (M5)."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import copier
import yaml

from tests.pipelines.standards import in_images, in_jobs, in_objects, in_texts
from tests.render.support import ANSWERS_FILE, ROOT, Answers, scratch
from tests.update.accounting import account, conflicts, snapshot
from tests.update.lanes import Lane, fresh, live
from tests.update.releases import Release, clone

SAMPLE = yaml.safe_load((ROOT / "examples/team/team.yml").read_text(encoding="utf-8"))["team"]
OLD = {"runner": "old-linux", "image_registry": "old.acme.example", "labels": {"cost-centre": "old", "gone": "soon"}}
BEFORE: Answers = (("team", yaml.safe_dump(OLD)), ("ci", "both"), ("database", "postgres"), ("delivery", "gitops"))


def test_M5_changed_standard_arrives_everywhere_and_loses_no_line() -> None:
    now = Release(clone().now.removeprefix("v"))
    lived = live(Lane(now, BEFORE, "builds"), clone())
    project = Path(tempfile.mkdtemp(dir=scratch())) / "project"
    shutil.copytree(lived.project, project, symlinks=True)

    copier.run_update(
        project, {"team": SAMPLE}, vcs_ref=copier.VcsRef.CURRENT, defaults=True, overwrite=True, quiet=True
    )

    after = snapshot(project)
    assert yaml.safe_load((project / ANSWERS_FILE).read_text(encoding="utf-8"))["team"] == SAMPLE
    found = account(lived.base, lived.files, after, fresh(clone(), clone().now, project)).wrong
    assert found.keys() <= {"answers"}, found
    assert all(one.startswith("team") for one in found.get("answers", [])), found
    assert conflicts(project, after) == []
    own = ("nightly.yaml", "gitlab: soak")  # jobs of the team's
    missed = [*in_jobs(project, SAMPLE), *in_images(project, SAMPLE), *in_texts(project)]
    assert [place for place in missed if not place.startswith(own)] == []
    image = project / "deploy/kubernetes/overlays/production/image/kustomization.yaml"  # the next release writes it
    image.write_text(re.sub("newName: .*/", f"newName: {SAMPLE['image_registry']}/", image.read_text(encoding="utf-8")))
    for part in ("base", "monitoring", "gitops"):
        assert list(in_objects(project, SAMPLE, f"only-{part}")) == []
