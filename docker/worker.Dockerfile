# The worker: networks, report, delivery. CPU by default; for CUDA:
#   docker build --build-arg TORCH_LINKS=https://download.pytorch.org/whl/cu130/torch/ -f docker/worker.Dockerfile .
FROM docker.io/library/python:3.11-slim-bookworm

ARG TORCH_LINKS=https://download.pytorch.org/whl/cpu/torch/
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
RUN python -m pip install ${TORCH_LINKS:+--find-links "$TORCH_LINKS"} '.[worker]'

USER agatston
ENV AGATSTON_HOME=/var/lib/agatston AGATSTON_MIGRATIONS=/app/alembic MPLCONFIGDIR=/tmp/matplotlib
VOLUME /var/lib/agatston
ENTRYPOINT ["agatston"]
CMD ["worker"]
