"""Rows and files of a scored job, written as the worker writes them, for the tests of delivery."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from uuid import uuid4

import report_samples as samples
import torch

from models.networks import build
from models.weightset import LOCALIZERS, save_weights
from service import database as db
from service import jobs
from service.settings import Settings
from service.store import inbox_key
from service.tables import Instance, Job, Series, now
from worker import outbox
from worker.node import WorkerNode
from worker.scoring_job import result_row

if TYPE_CHECKING:
    from pathlib import Path


def node(home: Path, *, role: str = "sender", **settings: object) -> WorkerNode:
    """Return a worker on a fresh home with its database migrated."""
    environ = {"AGATSTON_HOME": str(home), "AGATSTON_RETRY_FIRST_SECONDS": "0.01"}
    environ |= {f"AGATSTON_{name.upper()}": str(value) for name, value in settings.items()}
    loaded = Settings.load(environ)
    database = db.Database(loaded.database)
    db.upgrade(database)
    database.dispose()
    return WorkerNode(loaded, role)


def waiting_job(worker: WorkerNode, files: list[Path] | None = None, *, calling_ae: str = "SCANNER") -> str:
    """Add a closed series with the given files in the inbox, and its job; return the job's id."""
    uid = f"1.2.826.0.1.3680043.10.1338.{uuid4().int % 10**12}"
    with worker.database.transaction() as session:
        series = Series(
            study_instance_uid=samples.header().StudyInstanceUID, series_instance_uid=uid,
            calling_ae=calling_ae, called_ae="AGATSTON", closed_at=now(), closed_by="forced",
        )  # fmt: skip
        session.add(series)
        session.flush()
        last = 0
        for index, path in enumerate(files or []):
            key = inbox_key("1.2", uid, f"1.2.{index}")
            content = path.read_bytes()
            worker.store.put(key, content)
            row = Instance(
                series_id=series.id, sop_instance_uid=f"1.2.{index}", sop_class_uid=samples.CT_IMAGE_STORAGE,
                transfer_syntax_uid="1.2.840.10008.1.2.1", key=key, size_bytes=len(content),
                sha256=f"{index:064}",
            )  # fmt: skip
            session.add(row)
            session.flush()
            last = row.id
        job = Job(series_id=series.id, instances_sha256="0" * 64, last_instance_id=last)
        session.add(job)
        session.flush()
        return job.id


def destination(name: str, aet: str, port: int, **more: object) -> str:
    """Return a list of one destination in the form of AGATSTON_DESTINATIONS."""
    return json.dumps([{"name": name, "aet": aet, "host": "127.0.0.1", "port": port, **more}])


def scored_job(worker: WorkerNode, **series_changes: object) -> list[int]:
    """Add a scored job with its objects and deliveries; return the ids of the deliveries."""
    series = samples.series(**series_changes)
    result = samples.result(series)
    claimed = jobs.claim(worker.database, waiting_job(worker), worker.owner)
    assert claimed is not None
    destinations = worker.settings.all_destinations
    objects = [
        outbox.write(worker.store, claimed, kind, dataset)
        for kind, dataset in outbox.build(series, result, outbox.wanted_kinds(destinations), samples.CONFIG)
    ]
    return jobs.finish_scored(worker.database, claimed, result_row(result), objects, destinations)


def untrained_weights(folder: Path) -> Path:
    """Write a set of networks as they are before training: they find no heart, and find it quickly."""
    torch.manual_seed(0)
    networks = {role: [build("slice_classifier", {})] for role in LOCALIZERS}
    networks["weigher"] = [build("weigher", {})]
    save_weights(folder, networks, name="untrained", version="0", training_data="no data", date="2026-11-25")
    return folder
