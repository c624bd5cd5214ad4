"""What a destination may ask of a result before it takes it.

A closed set of keys: who sent the series, what its headers say about place, device and protocol, and what
became of it. None is about the patient, and what headers say stays in memory: no row and no log has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from calcium.frames import text
from service.patterns import Network, lies_in, like

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Outcome = Literal["scored", "not_eligible"]
Group = Literal["very low", "low", "moderate", "moderately high", "high"]  # RiskGroup.label

# Key -> keyword: PS3.3 Tables C.7-8 (General Equipment), C.7-3 (General Study) and C.7-5a (General Series).
HEADER_KEYS = {
    "institution_name": "InstitutionName",
    "station_name": "StationName",
    "manufacturer": "Manufacturer",
    "model_name": "ManufacturerModelName",
    "study_description": "StudyDescription",
    "series_description": "SeriesDescription",
    "protocol_name": "ProtocolName",
    "body_part": "BodyPartExamined",
}


class Facts(BaseModel):
    """What the rules know of a result; a key that the series does not have is empty.

    Parameters
    ----------
    calling_ae, called_ae, address
        Who sent the latest instance, to which of our titles, from which IP address; what we fetched has no
        address.
    outcome
        Whether there is a score.
    risk_group
        Of a score (RiskGroup.label).
    institution_name, station_name, manufacturer, model_name, study_description, series_description, \
    protocol_name, body_part
        As the headers say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    calling_ae: str
    called_ae: str = ""
    address: str = ""
    institution_name: str = ""
    station_name: str = ""
    manufacturer: str = ""
    model_name: str = ""
    study_description: str = ""
    series_description: str = ""
    protocol_name: str = ""
    body_part: str = ""
    outcome: Outcome = "scored"
    risk_group: Group | Literal[""] = ""

    def with_header(self, header: Dataset) -> Self:
        """Return the same with what a header of the series says."""
        return self.model_copy(update={key: text(header, keyword) for key, keyword in HEADER_KEYS.items()})


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


Pattern: TypeAlias = Annotated[str, Field(min_length=1, max_length=64)]  # PS3.5 section 6.2, VR LO
Patterns: TypeAlias = Annotated[tuple[Pattern, ...], BeforeValidator(_one_or_more), Field(min_length=1)]


class Match(BaseModel):
    """A rule: every key that it has must fit, each by any of its values.

    Texts are patterns (service.patterns.like), `address` takes IP addresses and networks, `outcome` and
    `risk_group` take their own words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    calling_ae: Patterns = ()
    called_ae: Patterns = ()
    address: Annotated[tuple[Network, ...], BeforeValidator(_one_or_more), Field(min_length=1)] = ()
    institution_name: Patterns = ()
    station_name: Patterns = ()
    manufacturer: Patterns = ()
    model_name: Patterns = ()
    study_description: Patterns = ()
    series_description: Patterns = ()
    protocol_name: Patterns = ()
    body_part: Patterns = ()
    outcome: Annotated[tuple[Outcome, ...], BeforeValidator(_one_or_more), Field(min_length=1)] = ()
    risk_group: Annotated[tuple[Group, ...], BeforeValidator(_one_or_more), Field(min_length=1)] = ()

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: object) -> object:
        if isinstance(values, dict):
            unknown = sorted(str(key)[:64] for key in values if key not in cls.model_fields)
            if unknown:
                keys = ", ".join(cls.model_fields)
                raise ValueError(f"{', '.join(unknown)}: no key of match; its keys are {keys}")
        return values

    @model_validator(mode="after")
    def _can_fit(self) -> Self:
        if self.risk_group and self.outcome and "scored" not in self.outcome:
            raise ValueError("risk_group is of scored results: this match would never fit")
        return self

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that it has, in the order of their declaration."""
        return tuple(key for key in type(self).model_fields if getattr(self, key))

    def first_misfit(self, facts: Facts) -> str | None:
        """Return the first key that does not fit; None where all do."""
        return next((key for key in self.keys if not self._fits(key, getattr(facts, key))), None)

    def _fits(self, key: str, value: str) -> bool:
        if key == "address":
            return bool(value) and lies_in(value, self.address)
        wanted: tuple[str, ...] = getattr(self, key)
        if key in {"outcome", "risk_group"}:
            return value in wanted
        return any(like(value, pattern) for pattern in wanted)

    def words(self, key: str) -> str:
        """Return what a key wants, for people."""
        return ", ".join(map(str, getattr(self, key)))
