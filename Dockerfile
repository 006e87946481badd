# syntax=docker/dockerfile:1
# One image for web, worker, beat, migrations and the command line.
#
# Rules: what is installed comes from the lock files, by hash, and no compiler, pip or test tool stays; it runs as a user
# without a name to log in with, on a root that may be read-only: only /data (CARDSYNC_DATA_DIR) and /tmp are written to.
# Health checks stand in docker-compose.yml: they differ from process to process.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
# run, or otel: with what sends traces (docs/deployment.md).
ARG REQUIREMENTS=run
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
WORKDIR /src
RUN python -m venv /opt/cardsync && python -m venv /opt/build
COPY requirements/${REQUIREMENTS}.txt requirements/build.txt requirements/
RUN /opt/cardsync/bin/pip install --require-hashes --no-deps --only-binary :all: -r requirements/${REQUIREMENTS}.txt \
    && /opt/build/bin/pip install --require-hashes --no-deps --only-binary :all: -r requirements/build.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY migrations/ migrations/
COPY workers/ workers/
COPY cardsync/ cardsync/
RUN /opt/build/bin/python -m hatchling build -t wheel -d /tmp/dist \
    && /opt/cardsync/bin/pip install --no-index --no-deps /tmp/dist/*.whl \
    && /opt/cardsync/bin/pip check \
    && /opt/cardsync/bin/pip uninstall --yes pip \
    && cd / && /opt/cardsync/bin/cardsync --version

FROM python:${PYTHON}-slim
RUN groupadd --gid 10001 cardsync \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin cardsync \
    && install -d -o 10001 -g 10001 -m 0700 /data
COPY --from=build /opt/cardsync /opt/cardsync
# Bytecode was written at build time; a read-only root takes no more. Standard output is the log: it must not wait.
ENV PATH=/opt/cardsync/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CARDSYNC_DATA_DIR=/data \
    CARDSYNC_LOG_FORMAT=json
USER 10001:10001
# Not /data: a file named .env in the working folder is read as settings.
WORKDIR /
VOLUME ["/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["cardsync"]
CMD ["--help"]
