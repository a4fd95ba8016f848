# One image for every role: the command says whether it is a worker, beat, flower or a one-shot `lash-tasks`.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /build
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY stores ./stores
COPY beat_schedule.py ./
COPY lash_tasks ./lash_tasks
RUN pip install '.[flower]' && rm -rf /build

# The application: mount your own over it, or copy it here in an image built FROM this one.
WORKDIR /app
COPY examples ./
ENV LASH_APP=support PYTHONPATH=/app

RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin lash
USER lash

CMD ["lash-tasks", "--help"]
