# The program without the private engines, for compose.yaml and for clusters. INSTACHAT_DATABASE_URL and
# INSTACHAT_REDIS_URL name its PostgreSQL and its Redis.

FROM python:3.13-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.txt requirements/run.txt requirements/
# Two environments: /build has pip and the build backend and is not copied to the image; /opt/instachat is.
RUN python -m venv /build \
    && python -m venv --without-pip /opt/instachat \
    && /build/bin/pip install --require-hashes --only-binary=:all: -r requirements/build.txt \
    && /build/bin/pip --python /opt/instachat/bin/python install \
        --require-hashes --only-binary=:all: -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY backend backend
COPY instachat_cli instachat_cli
COPY loadtest loadtest
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /build/wheel . \
    && /build/bin/pip --python /opt/instachat/bin/python install --no-index --no-deps /build/wheel/*.whl

FROM python:3.13-slim-trixie
RUN useradd --system --user-group --uid 10001 --create-home instachat
COPY --from=build /opt/instachat /opt/instachat
ENV PATH=/opt/instachat/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
ENTRYPOINT ["instachat"]
CMD ["--help"]
