"""Results for other systems: CSV here, FHIR and HL7 v2 in their own modules; and what all three export."""

from __future__ import annotations

import csv as csv_module
import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from calcium.errors import AgatstonError
from calcium.job import JobState
from service.api.schemas import ResultOut
from service.settings import Settings
from service.store import Store
from service.tables import Job

COLUMNS = (
    "job_id", "study_instance_uid", "series_instance_uid", "status", "reason_code", "reason", "agatston",
    "agatston_low", "agatston_high", "volume_mm3", "risk_group", "warnings", "weights_name", "weights_version",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a text cell that begins so
REPORT_KINDS = ("sr3d", "sr")  # in the order of preference


class NoScoreError(AgatstonError):
    """The job has no current score to export."""

    code = "no_score"


@dataclass(frozen=True, slots=True)
class Patient:
    """Who and what was scanned, as the report in the outbox says: no row of ours holds it.

    Parameters
    ----------
    family, given, middle, prefix, suffix
        Components of the alphabetic group of the name (PS3.5 section 6.2.1.2).
    ideographic
        The ideographic group as it stands, or empty.
    birth_date
        ``YYYYMMDD`` or empty.
    sex
        ``M``, ``F``, ``O`` or empty.
    accession_number, studied_at
        Of the study; the moment is without a zone, as in the images, or None.
    """

    patient_id: str
    issuer: str
    family: str
    given: str
    middle: str
    prefix: str
    suffix: str
    ideographic: str
    birth_date: str
    sex: str
    accession_number: str
    studied_at: datetime | None


@dataclass(frozen=True, slots=True)
class Scored:
    """A current score with the identity of its report.

    Parameters
    ----------
    result
        With numbers.
    report_uid
        SOP Instance UID of the Structured Report, or of the job where none was written.
    scored_at
        When the job ended, UTC.
    patient
        None where the report is no longer in the outbox.
    """

    result: ResultOut
    report_uid: str
    scored_at: datetime
    patient: Patient | None
    sender: str  # our AE title

    @property
    def agatston(self) -> float:
        """The predicted total."""
        assert self.result.agatston is not None
        return self.result.agatston

    @property
    def validated(self) -> bool:
        """Whether the site declared its own validation of the weights."""
        return bool((self.result.weights or {}).get("validated_by_site"))


def scored(job: Job, settings: Settings) -> Scored:
    """Return what a job exports.

    Raises
    ------
    NoScoreError
        It has no score, or one that was superseded.
    """
    result = ResultOut.of(job)
    if result.agatston is None or job.state != JobState.SCORED:
        why = f": {job.reason}" if job.reason else ""
        raise NoScoreError(f"the job is {job.state.replace('_', ' ')} and has no current score{why}")
    written = {one.kind: one for one in job.objects}
    report = next((written[kind] for kind in REPORT_KINDS if kind in written), None)
    patient = None
    if report is not None:
        try:
            with warnings.catch_warnings(), Store(settings.store_root).open(report.key) as file:
                warnings.simplefilter(
                    "ignore"
                )  # pydicom warns with the value: patient data would reach the log
                patient = read_patient(dcmread(file, stop_before_pixels=True))
        except (OSError, InvalidDicomError, ValueError):
            patient = None
    return Scored(
        result,
        report.sop_instance_uid if report is not None else job.id,
        job.ended_at or job.created_at,
        patient,
        settings.ae_title,
    )


def read_patient(report: Dataset) -> Patient:
    """Read who and what was scanned from a report; what it does not say is empty."""

    def text(keyword: str) -> str:
        value = report.get(keyword)
        return "" if value is None else str(value).strip()

    name = report.get("PatientName")
    birth, sex = text("PatientBirthDate"), text("PatientSex")
    return Patient(
        patient_id=text("PatientID"),
        issuer=text("IssuerOfPatientID"),
        family=name.family_name if name else "",
        given=name.given_name if name else "",
        middle=name.middle_name if name else "",
        prefix=name.name_prefix if name else "",
        suffix=name.name_suffix if name else "",
        ideographic=str(name.ideographic) if name else "",
        birth_date=birth if len(birth) == 8 and birth.isdigit() else "",
        sex=sex if sex in {"M", "F", "O"} else "",
        accession_number=text("AccessionNumber"),
        studied_at=_moment(text("StudyDate"), text("StudyTime")),
    )


def _moment(day: str, clock: str) -> datetime | None:
    """Read DA and TM (PS3.5 section 6.2); None where either is no such value."""
    digits = clock.partition(".")[0].replace(":", "")
    try:
        return datetime.strptime(day + digits.ljust(6, "0")[:6], "%Y%m%d%H%M%S")  # noqa: DTZ007 (has no zone)
    except ValueError:
        return None


def csv(results: Iterable[ResultOut], *, header: bool = True) -> str:
    """Return rows of CSV (RFC 4180); a job without a score has empty numbers and a reason."""
    buffer = io.StringIO()
    writer = csv_module.writer(buffer, lineterminator="\r\n")
    if header:
        writer.writerow(COLUMNS)
    for one in results:
        row = one.model_dump(include=set(COLUMNS))
        row["warnings"] = ";".join(warning.get("code", "") for warning in one.warnings)
        row["weights_name"] = (one.weights or {}).get("name")
        row["weights_version"] = (one.weights or {}).get("version")
        writer.writerow([_cell(row.get(column)) for column in COLUMNS])
    return buffer.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(FORMULA):
        return "'" + value
    return value
