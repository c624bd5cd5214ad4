"""Patient and study attributes: copied from the source series into every object, in one character set.

Every object of ours carries the same values (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2), as archives reject or split
studies whose objects disagree.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.valuerep import validate_value

UTF8 = "ISO_IR 192"

# Type 2 in every object: empty where the source has none.
REQUIRED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName",
)  # fmt: skip
# Type 3, or conditional on the patient: copied where the source has a value.
OPTIONAL = (
    # Patient, PS3.3 C.7.1.1
    "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID", "OtherPatientIDsSequence",
    "OtherPatientNames", "PatientBirthTime", "EthnicGroup", "PatientComments",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    # General Study, C.7.2.1
    "StudyDescription", "IssuerOfAccessionNumberSequence", "PhysiciansOfRecord", "ConsultingPhysicianName",
    "NameOfPhysiciansReadingStudy", "ProcedureCodeSequence", "RequestingService",
    # Patient Study, C.7.2.2
    "AdmittingDiagnosesDescription", "PatientAge", "PatientSize", "PatientWeight", "PatientBodyMassIndex",
    "MedicalAlerts", "Allergies", "SmokingStatus", "PregnancyStatus", "Occupation", "AdmissionID",
    "IssuerOfAdmissionIDSequence", "ServiceEpisodeID",
    # Clinical Trial Subject and Study, C.7.1.3 and C.7.2.3: a sponsor without its protocol is no module
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription",
    # SOP Common, C.12.1: how the copied times and dates are meant
    "TimezoneOffsetFromUTC", "LongitudinalTemporalInformationModified",
)  # fmt: skip
# Never altered and never dropped, whatever form they have: an archive files by them.
IDENTITY = frozenset({"PatientID", "IssuerOfPatientID", "PatientName", "AccessionNumber", "StudyID"})


def patient_and_study(header: Dataset) -> Dataset:
    """Return the patient and study attributes of a source instance, normalised.

    Text is Unicode (written as ISO_IR 192, PS3.3 C.12.1.1.2), whatever character set the source has. Values
    that the VR does not allow are left out (type 3) or emptied (type 2), except identifiers and names, which
    stay as they are. PatientSex is M, F, O or empty.

    Parameters
    ----------
    header
        A source instance, with or without pixels; not changed.

    Returns
    -------
    Dataset
        Attributes of `REQUIRED` and `OPTIONAL`, SpecificCharacterSet and StudyInstanceUID.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns with the value: patient data would reach the log
        # Taken out of the header, an element is already decoded by the header's character set. A further
        # Dataset.decode() would turn names that were set as text into question marks.
        result = _unicode(header, ("StudyInstanceUID", *REQUIRED, *OPTIONAL))
        for keyword in REQUIRED:
            if keyword not in result:
                setattr(result, keyword, "")
    if result.PatientSex not in {"M", "F", "O"}:
        result.PatientSex = ""
    result.SpecificCharacterSet = UTF8
    return result


def copy_into(target: Dataset, header: Dataset) -> None:
    """Write the patient and study attributes of `header` into `target`, replacing what stands there."""
    attributes = patient_and_study(header)
    for keyword in OPTIONAL:  # whatever a library copied by itself
        if keyword in target and keyword not in attributes:
            del target[keyword]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target.update(attributes)


def _unicode(source: Dataset, tags: Iterable[str | BaseTag], *, nested: bool = False) -> Dataset:
    """Return a deep copy of some elements, with plain Unicode text and only values that their VR allows."""
    result = Dataset()
    for tag in tags:
        element = _element(source, tag)
        if element is None or element.keyword == "SpecificCharacterSet":
            continue
        if element.VR == "SQ":
            items = [_unicode(item, item.keys(), nested=True) for item in element.value]
            if items:
                result.add(DataElement(element.tag, "SQ", Sequence(items)))
            continue
        if element.is_empty:
            if nested or element.keyword in REQUIRED:
                result.add(DataElement(element.tag, element.VR, None))
            continue
        values = list(element.value) if element.VM > 1 else [element.value]
        if element.VR == "PN":  # a name object keeps the bytes that it was read or written as
            values = [str(value) for value in values]
        if element.keyword not in IDENTITY and not all(_allowed(element.VR, value) for value in values):
            continue
        result.add(DataElement(element.tag, element.VR, values if element.VM > 1 else values[0]))
    return result


def _element(source: Dataset, tag: str | BaseTag) -> DataElement | None:
    """Return an element; None where it is absent or its bytes are not what its VR says."""
    try:
        return source[tag] if tag in source else None  # noqa: SIM401 (get gives the value for a keyword)
    except Exception:  # noqa: BLE001 (pydicom decodes only now, and raises what a hostile value makes it raise)
        return None


def _allowed(vr: str, value: Any) -> bool:
    """Tell whether a value has the form that its VR asks for (PS3.5 table 6.2-1)."""
    try:
        validate_value(vr, value if vr in {"UN", "OB"} else str(value), config.RAISE)
    except (ValueError, TypeError):
        return False
    return True
