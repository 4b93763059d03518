# The collector and every other command of fleetpulse, as an ordinary user: `docker run --rm fleetpulse --help`.

# The Python that the locks were made with and the tests run on.
FROM python:3.11.15-slim-bookworm AS build

# Compiled once, here: the file system of a container may be read-only.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/fleetpulse
WORKDIR /build
# What is locked changes seldom: a layer of its own, which a change of the sources leaves as it is.
COPY requirements.txt ./
RUN /opt/fleetpulse/bin/python -m pip install --require-hashes --only-binary :all: --requirement requirements.txt
COPY LICENSE README.md pyproject.toml ./
COPY fleetpulse/ fleetpulse/
COPY collector/ collector/
COPY reports/ reports/
COPY rollups/ rollups/
COPY storage/ storage/
COPY migrations/ migrations/
RUN /opt/fleetpulse/bin/python -m pip install --no-deps --no-build-isolation .


FROM python:3.11.15-slim-bookworm

# A number that no account of the host is likely to have; the folder holds the spool.
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/fleetpulse --create-home --shell /usr/sbin/nologin fleetpulse \
    && chmod 700 /var/lib/fleetpulse
COPY --from=build /opt/fleetpulse /opt/fleetpulse

# The health check below knows the port from here; log lines are written as they come.
ENV PATH=/opt/fleetpulse/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FLEETPULSE_HOME=/var/lib/fleetpulse \
    FLEETPULSE_COLLECTOR_LISTEN_PORT=9817 \
    FLEETPULSE_LOG_FORMAT=json
USER 10001:10001
WORKDIR /var/lib/fleetpulse
EXPOSE 9817

# 503 says that the daemon cannot keep what it sees; a database that is away is none of that. http.client and not urllib:
# a proxy that is set for the container is not for this. The first answer comes a second after the start.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['FLEETPULSE_COLLECTOR_LISTEN_PORT']), timeout=4); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]

# An end in order takes five seconds.
STOPSIGNAL SIGTERM
ENTRYPOINT ["fleetpulse"]
CMD ["run"]
