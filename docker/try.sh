#!/usr/bin/env bash
# Builds the images, brings the whole node up with an Orthanc as PACS, pushes a simulated series through it, waits
# for the report at Orthanc, shows the job over HTTP, and takes everything down again.
# Needs: docker compose (or podman and podman-compose: COMPOSE=podman-compose), curl, python3.
set -euo pipefail
cd "$(dirname "$0")/.."
compose=${COMPOSE:-docker compose}
export AGATSTON_PACS=ORTHANC@orthanc:4242 AGATSTON_ALLOW_ANY_PEER=true
token=$(head -c 24 /dev/urandom | base64 | tr -d '+/=')
AGATSTON_TOKENS=$(printf '[{"name": "try", "role": "operate", "sha256": "%s"}]' "$(printf %s "$token" | sha256sum | cut -d' ' -f1)")
export AGATSTON_TOKENS
export AGATSTON_HTTP_PORT=${AGATSTON_HTTP_PORT:-18080} AGATSTON_DICOM_PORT=${AGATSTON_DICOM_PORT:-21112}
export ORTHANC_HTTP_PORT=${ORTHANC_HTTP_PORT:-18042}

case $compose in
*podman*)
    # podman 4.3 cannot start what depends on a container that has ended well: there the services start at once and
    # are started again until the migrations ran.
    sed '/service_completed_successfully/d' compose.yaml >.compose-podman.yaml
    compose="$compose -f .compose-podman.yaml"
    ;;
esac

say() { printf '\n== %s\n' "$*"; }
cleanup() {
    $compose --profile demo down --volumes >/dev/null 2>&1 || true
    rm -f .compose-podman.yaml
}
# until_true SECONDS WHAT COMMAND...
until_true() {
    local seconds=$1 what=$2
    shift 2
    for _ in $(seq "$seconds"); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 1
    done
    echo "within $seconds s this did not come true: $what" >&2
    $compose --profile demo logs --tail 60 >&2 || true
    return 1
}
trap cleanup EXIT

say "build"
$compose --profile demo build
say "up"
$compose --profile demo up -d
until_true 120 "the node is ready" curl -fsS -H "Authorization: Bearer $token" "http://127.0.0.1:$AGATSTON_HTTP_PORT/health/ready"
curl -fsS -H "Authorization: Bearer $token" "http://127.0.0.1:$AGATSTON_HTTP_PORT/health/ready" | python3 -m json.tool

say "a scanner sends a simulated series"
$compose exec -T worker sh -c 'rm -rf /tmp/scan && agatston phantom /tmp/scan --seed 7 && python -m pynetdicom storescu scp 11112 /tmp/scan -r -aet SCANNER -aec AGATSTON -q'

say "the report at Orthanc"
report() { curl -fsS "http://127.0.0.1:$ORTHANC_HTTP_PORT/instances" | grep -q '[0-9a-f]'; }
until_true 180 "a report at Orthanc" report
curl -fsS "http://127.0.0.1:$ORTHANC_HTTP_PORT/series?expand" |
    python3 -c 'import json, sys; [print(s["MainDicomTags"].get("Modality"), s["MainDicomTags"].get("SeriesDescription"), len(s["Instances"])) for s in json.load(sys.stdin)]'

say "the job over HTTP"
curl -fsS -H "Authorization: Bearer $token" "http://127.0.0.1:$AGATSTON_HTTP_PORT/api/v1/jobs" | python3 -m json.tool | head -40
say "done"
