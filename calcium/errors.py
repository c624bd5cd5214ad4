"""Every error that the application raises on purpose, in one tree.

::

    AgatstonError                 .code, .uid; str(error) is safe to log: no patient data in it
    ├── SettingsError             a setting is missing or wrong; says which and what to write
    ├── SeriesError               instances that cannot become one CTVolume
    │   ├── UnreadableInstanceError    not DICOM, truncated, an attribute of the wrong form
    │   ├── MissingAttributeError      a required attribute is absent or empty
    │   ├── PixelDataError             pixels missing, of the wrong size, or not decodable
    │   ├── MixedSeriesError           patients, studies, frames of reference, sizes or orientations differ
    │   ├── DuplicatePositionError     two slices at one position with different content
    │   │   └── MultipleVolumesError   several volumes in one series, e.g. 4D or several phases
    │   ├── MissingSlicesError         a gap, with its place and size in mm
    │   ├── IrregularSpacingError      positions that no constant spacing explains
    │   ├── ObliqueError               slices not perpendicular to the patient's axis (tilted gantry)
    │   ├── UnitsError                 stored values that do not become Hounsfield units
    │   └── TooLargeError              more voxels or bytes than the limit
    ├── NotEligibleError          a readable series that gets no score; .code and the message say why
    ├── AnnotationError           an annotation that does not fit its image or its format
    ├── WeightsError              weights absent, of another architecture, or whose sha256 differs
    └── TransientError            worth another try
        ├── ArchiveUnavailableError    the peer does not answer, or refuses for lack of resources
        └── ResourcesError             out of memory (host or GPU), disk full

Two leaves lie with what raises them: service.dimse.association (RejectedError and NoContextError, both
ArchiveUnavailableError; PeerRefusedError) and service.database (DatabaseUnavailableError, MigrationError).
"""

from __future__ import annotations

import re


class AgatstonError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    message
        What is wrong and what to do about it, without patient data.
    uid
        SOP Instance UID or Series Instance UID that failed, where there is one; appended to the message.
    """

    code = "error"

    def __init__(self, message: str, *, uid: str | None = None) -> None:
        # A broken header may carry a patient's name where a UID should be (PS3.5 section 9.1): not repeated.
        if uid and not re.fullmatch("[0-9.]{1,64}", uid):
            uid = None
        super().__init__(f"{message} [{uid}]" if uid else message)
        self.uid = uid


class SettingsError(AgatstonError):
    """A setting is missing or wrong."""

    code = "settings"


class SeriesError(AgatstonError):
    """Instances that cannot become one CTVolume."""

    code = "series"


class UnreadableInstanceError(SeriesError):
    """Not DICOM, truncated, or an attribute of the wrong form."""

    code = "unreadable_instance"


class MissingAttributeError(SeriesError):
    """A required attribute is absent or empty."""

    code = "missing_attribute"


class PixelDataError(SeriesError):
    """Pixel data missing, of the wrong size, or not decodable."""

    code = "pixel_data"


class MixedSeriesError(SeriesError):
    """Patients, studies, frames of reference, sizes or orientations differ within one series."""

    code = "mixed_series"


class DuplicatePositionError(SeriesError):
    """Two slices at one position with different content."""

    code = "duplicate_position"


class MultipleVolumesError(DuplicatePositionError):
    """Several volumes in one series, e.g. 4D or several phases: which one to score is not known."""

    code = "multiple_volumes"


class MissingSlicesError(SeriesError):
    """A gap between neighbouring slices; the message names its place and size in mm."""

    code = "missing_slices"


class IrregularSpacingError(SeriesError):
    """Slice positions that no constant spacing explains."""

    code = "irregular_spacing"


class ObliqueError(SeriesError):
    """Slices that are not perpendicular to the patient's long axis, e.g. a tilted gantry."""

    code = "oblique"


class UnitsError(SeriesError):
    """Stored values that the header does not turn into Hounsfield units."""

    code = "not_hounsfield"


class TooLargeError(SeriesError):
    """More voxels or bytes than the limit allows."""

    code = "too_large"


class NotEligibleError(AgatstonError):
    """A readable series that gets no score: a result, not a fault.

    Parameters
    ----------
    code
        Stable code of the reason, e.g. ``contrast_enhanced``; the codes stand in calcium.eligibility.
    text
        The reason in words, with the figures that decided it.
    uid
        Series Instance UID.
    """

    def __init__(self, code: str, text: str, *, uid: str | None = None) -> None:
        super().__init__(text, uid=uid)
        self.code = code
        self.text = text


class AnnotationError(AgatstonError):
    """An annotation that does not fit its image or its format."""

    code = "annotation"


class WeightsError(AgatstonError):
    """Weights absent, of another architecture, or whose sha256 differs from the manifest."""

    code = "weights"


class TransientError(AgatstonError):
    """Worth another try."""

    code = "transient"


class ArchiveUnavailableError(TransientError):
    """The peer does not answer, or refuses for lack of resources."""

    code = "archive_unavailable"


class ResourcesError(TransientError):
    """Out of memory (host or GPU), or the disk is full."""

    code = "resources"
