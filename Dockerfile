# The node, the local testnet and Kubo in one image: what a service runs is its command.
# Built by scripts/setup itself, so an image and a checkout never differ in how they are made.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /opt/viz
# Locks first: a change of our own code does not install the packages again, nor one of the README,
# which the package's metadata only names.
COPY pyproject.toml LICENSE ./
COPY requirements requirements
COPY scripts/setup scripts/setup
COPY scripts/kubo/go.mod scripts/kubo/go.sum scripts/kubo/
COPY contracts/package.json contracts/package-lock.json contracts/.npmrc contracts/
COPY node/viz/__init__.py node/viz/__init__.py
RUN touch README.md && scripts/setup --node --kubo
COPY node node
COPY scripts/kubo/serve scripts/kubo/serve

FROM ${PYTHON_IMAGE}
# 10001: a number that no account of the host is likely to have.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin viz \
    && mkdir -p /data && chown viz:viz /data
COPY --from=build /opt/viz /opt/viz
ENV PATH=/opt/viz/.venv/bin:$PATH \
    KUBO_BIN=/opt/viz/scripts/kubo/bin/ipfs \
    VIZ_DATA_DIR=/data \
    XDG_CACHE_HOME=/data/cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER viz
WORKDIR /data
VOLUME /data
EXPOSE 8402
ENTRYPOINT ["viz"]
CMD ["node"]
