"""Requests made by schemathesis from the API's own OpenAPI document: no 5xx, answers as promised."""

from __future__ import annotations

import os

import pytest
import rows
from api_client import serving
from hypothesis import HealthCheck, Phase, given, seed, settings

from service.settings import Settings

schemathesis = pytest.importorskip("schemathesis")
from schemathesis import GenerationMode  # noqa: E402 (only where it is installed)
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance  # noqa: E402

SEED = int(os.environ.get("AGATSTON_FUZZ_SEED", "1"))
EXAMPLES = round(200 * float(os.environ.get("AGATSTON_FUZZ_FACTOR", "1")))  # of each operation and mode
CHECKS = (not_a_server_error, response_schema_conformance, status_code_conformance)
# Says by 503 that a check fails, as it must.
EXPECTED_5XX = "/health/ready"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("default")  # of schemathesis and its dependencies
def test_hostile_requests_of_every_operation(tmp_path):
    database = rows.database(tmp_path)
    with database.transaction() as session:
        rows.beats(session)
        for state in ("scored", "failed", "waiting", "not_eligible"):
            rows.add_job(session, state=state, agatston=5.0 if state == "scored" else None)
        rows.add_alert(session)
    count = 0
    slowest = 0.0
    with serving(Settings(home=tmp_path), database) as client:
        document = schemathesis.openapi.from_dict(client.get("/api/v1/openapi.json").json())
        operations = [found.ok() for found in document.get_all_operations()]
        assert len(operations) >= 15
        for operation in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

                @seed(SEED)
                @settings(
                    max_examples=EXAMPLES, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck),
                    phases=[Phase.generate, Phase.shrink],
                )  # fmt: skip
                @given(case=operation.as_strategy(generation_mode=mode))
                def hostile(case):
                    nonlocal count, slowest
                    answer = case.call(base_url=str(client.base_url), timeout=60)
                    count += 1
                    slowest = max(slowest, answer.elapsed)
                    if case.path != EXPECTED_5XX:
                        case.validate_response(answer, checks=CHECKS)

                try:
                    hostile()
                except Exception as error:
                    if "Unsatisfiable" not in type(error).__name__:  # nothing that could be wrong
                        raise
        assert client.get("/health/live").status_code == 200
    database.dispose()
    print(f"seed {SEED}: {count} requests of {len(operations)} operations, the slowest {slowest:.2f} s")  # noqa: T201
