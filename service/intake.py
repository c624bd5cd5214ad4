"""Instances that come on our own connection, by C-GET or WADO-RS: into the inbox, as if they had been sent."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from calcium.errors import MissingAttributeError, UnreadableInstanceError
from service.heads import read_head
from service.inbox import Incoming
from service.statuses import STATUSES, SUCCESS, RefusedError

if TYPE_CHECKING:
    from service.admission import Admission
    from service.dimse.retrieval import Received
    from service.inbox import Inbox

log = logging.getLogger(__name__)


class Intake:
    """Takes in the instances of one series; anything else is refused.

    Parameters
    ----------
    inbox, admission
        Where they go, and whether there is room.
    study_instance_uid, series_instance_uid
        Of the series.
    calling_ae, called_ae
        Where rows say that they came from, and to which of our titles.
    """

    def __init__(
        self,
        inbox: Inbox,
        admission: Admission,
        *,
        study_instance_uid: str,
        series_instance_uid: str,
        calling_ae: str,
        called_ae: str,
    ) -> None:
        self._inbox, self._admission = inbox, admission
        self._uids = (study_instance_uid, series_instance_uid)
        self._calling_ae, self._called_ae = calling_ae, called_ae
        self._fed: set[int] = set()

    def receive(self, received: Received) -> int:
        """Make an instance durable; return a status as a C-STORE is answered (PS3.4 Table B.2-1)."""
        try:
            self._fed.add(self._receive(received))
        except RefusedError as refused:
            log.warning("instance refused (%s): %s", refused.reason, refused.comment)
            return STATUSES[refused.reason]
        return SUCCESS

    def done(self) -> None:
        """Say that no more come: what was fed may be closed."""
        self._inbox.released(sorted(self._fed))

    def _receive(self, received: Received) -> int:
        self._admission.check(len(received.data_set))
        try:
            head = read_head(received.data_set, received.transfer_syntax_uid)
        except MissingAttributeError as error:
            raise RefusedError("missing_uid", str(error)) from error
        except UnreadableInstanceError as error:
            raise RefusedError("unreadable", str(error)) from error
        if (head.sop_class_uid, head.sop_instance_uid) != (received.sop_class_uid, received.sop_instance_uid):
            raise RefusedError("mismatch", "the data set's UIDs differ from the command's or the file's head")
        if (head.study_instance_uid, head.series_instance_uid) != self._uids:
            raise RefusedError("mismatch", "an instance of another series than was asked for")
        _, series_id = self._inbox.receive(
            Incoming(
                head=head,
                transfer_syntax_uid=received.transfer_syntax_uid,
                meta=received.meta,
                data_set=received.data_set,
                calling_ae=self._calling_ae,
                called_ae=self._called_ae,
            )
        )
        return series_id
