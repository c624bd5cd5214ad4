# The node's front: SCP, API, migrations. No torch.
FROM docker.io/library/python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN useradd --uid 10001 --create-home --home-dir /home/agatston agatston \
    && install -d -o agatston -g agatston -m 0700 /var/lib/agatston
WORKDIR /app

COPY pyproject.toml README.md LICENSE ./
COPY calcium calcium
COPY service service
COPY worker worker
COPY models models
COPY alembic.ini ./
COPY alembic alembic
# The rooms `worker` and `models` are only data and source here: without the extra "worker" they cannot run.
RUN python -m pip install .

USER agatston
ENV AGATSTON_HOME=/var/lib/agatston AGATSTON_DICOM_HOST=0.0.0.0 AGATSTON_HTTP_HOST=0.0.0.0 \
    AGATSTON_MIGRATIONS=/app/alembic
VOLUME /var/lib/agatston
EXPOSE 11112 8080
ENTRYPOINT ["agatston"]
CMD ["api"]
