"""What C-STORE answers when it does not answer 0x0000 (PS3.4 Table B.2-1)."""

from __future__ import annotations

from pydicom.dataset import Dataset

SUCCESS = 0x0000

# reason -> status; PS3.4 Table B.2-1 groups them: A7xx is worth another try, A9xx and Cxxx are not.
STATUSES = {
    "disk_full": 0xA700,
    "database_unavailable": 0xA701,
    "queue_full": 0xA702,
    "stopping": 0xA703,
    "mismatch": 0xA900,
    "missing_uid": 0xA901,
    "unreadable": 0xC000,
    "conflicting_instance": 0xC001,
    "series_too_large": 0xC002,
    "internal": 0xC003,
}
COMMENT_LENGTH = 64  # Error Comment (0000,0902) is LO


class RefusedError(Exception):
    """An instance that is not stored.

    Parameters
    ----------
    reason
        Key of STATUSES; also the label in metrics.
    comment
        For the sender's log: no patient data, at most 64 characters are sent.
    element
        Tag of the attribute that is wrong, where one is.
    """

    def __init__(self, reason: str, comment: str, *, element: int | None = None) -> None:
        super().__init__(comment)
        self.reason = reason
        self.comment = comment
        self.element = element

    @property
    def answer(self) -> Dataset:
        """The status elements of the response (PS3.7 section 9.3.1.2)."""
        answer = Dataset()
        answer.Status = STATUSES[self.reason]
        answer.ErrorComment = (
            self.comment.encode("ascii", "replace").decode().replace("\\", "/")[:COMMENT_LENGTH]
        )
        if self.element is not None:
            answer.OffendingElement = self.element
        return answer
