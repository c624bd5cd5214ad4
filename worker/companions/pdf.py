"""The summary page as an Encapsulated PDF (PS3.3 A.45.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from highdicom.sr import CodedConcept
from pydicom.uid import EncapsulatedPDFStorage

from worker.companions.base import new_object, references
from worker.companions.picture import PDF_TITLE, describe, draw_pdf
from worker.report import codes
from worker.report.document import finish, local_time

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from calcium.series import CTSeries
    from models.results import ScoringResult
    from worker.report.document import ReportConfig


def build_pdf(series: CTSeries, result: ScoringResult, config: ReportConfig) -> Dataset:
    """Return the summary page as an encapsulated document; the same arguments give the same bytes."""
    dataset = new_object(series, result, config, kind="pdf", sop_class_uid=str(EncapsulatedPDFStorage))
    content = draw_pdf(result, config.device, describe(series))
    moment = local_time(config.made_at, series.header)
    dataset.ConversionType = "WSD"  # SC Equipment, PS3.3 C.8.6.1
    dataset.ContentDate, dataset.ContentTime = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
    dataset.AcquisitionDateTime = None  # type 2, PS3.3 C.24.2: several images
    dataset.BurnedInAnnotation = "YES"
    dataset.SourceInstanceSequence = references(series.instances)
    dataset.DocumentTitle = PDF_TITLE
    dataset.ConceptNameCodeSequence = [CodedConcept.from_code(codes.TITLE)]
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocumentLength = len(content)
    dataset.EncapsulatedDocument = content + b"\0" * (
        len(content) % 2
    )  # OB has an even length (PS3.5 section 6.2)
    return finish(dataset, series, config)
