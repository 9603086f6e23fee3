# The runtime image: JRE, one Python environment, nginx and runtime/. A model image adds its own layers on top (torchrelay build).
# `torchrelay build` assembles its context (runtime/, requirements/, and wheels/, which may be empty). CPU and GPU differ by arguments
# only. It builds with BuildKit and with the classic builder alike, hence no RUN --mount.

ARG BASE_IMAGE=debian:bookworm-slim@sha256:96e378d7e6531ac9a15ad505478fcc2e69f371b10f5cdf87857c4b8188404716


# DL3006 wants a tag on each FROM: BASE_IMAGE carries it, or a digest.
# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS jre
# Debian keeps only the newest build of a package, so a pinned version would stop resolving at the next security fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends binutils openjdk-17-jdk-headless \
    && rm -rf /var/lib/apt/lists/*
# What TorchServe's jar really needs: log4j wants java.desktop (java.beans), java.sql and java.naming; Netty wants jdk.unsupported;
# jdk.crypto.ec is TLS. A third of the size of the distribution's headless JRE.
RUN jlink --output /opt/torchrelay/jre --strip-debug --no-header-files --no-man-pages \
        --add-modules java.desktop,java.logging,java.management,java.naming,java.net.http,java.sql,jdk.crypto.ec,jdk.management,jdk.unsupported \
    && /opt/torchrelay/jre/bin/java -Xshare:dump


# DL3006 wants a tag on each FROM: BASE_IMAGE carries it, or a digest.
# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS venv
# Debian keeps only the newest build of a package, so a pinned version would stop resolving at the next security fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/runtime.txt /build/requirements.txt
ARG TORCHSERVE_VERSION=0.12.0
RUN python3 -m venv /opt/torchrelay/venv \
    && /opt/torchrelay/venv/bin/pip install --require-hashes --requirement /build/requirements.txt \
    && /opt/torchrelay/venv/bin/pip install --no-deps "torchserve==${TORCHSERVE_VERSION}"
# A folder of wheels in the build context, which may be empty: the CPU build of torch comes from it, or from TORCH_INDEX_URL. The default index has
# the CUDA build, whose dependencies (CUDA's libraries) are pinned by torch itself.
COPY wheels/ /wheels/
ARG DEVICE=cpu
ARG TORCH_VERSION=2.13.0
ARG TORCH_INDEX_URL=""
RUN if [ "${DEVICE}" = gpu ]; then rm -f /wheels/torch-*+cpu-*; fi \
    && /opt/torchrelay/venv/bin/pip install --find-links /wheels ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} "torch==${TORCH_VERSION}" \
    && /opt/torchrelay/venv/bin/pip check
COPY runtime/trim.py /build/trim.py
RUN ["/opt/torchrelay/venv/bin/python", "/build/trim.py"]
# The environment finds the package by a .pth file and not by PYTHONPATH, which whoever runs the container may set. It is compiled here, because
# the probe starts every few seconds and the final image is read-only.
RUN echo /opt/torchrelay/runtime > "$(/opt/torchrelay/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchrelay_runtime.pth"
COPY runtime/torchrelay_runtime/ /opt/torchrelay/runtime/torchrelay_runtime/
RUN ["/opt/torchrelay/venv/bin/python", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/opt/torchrelay/runtime"]


# DL3006 wants a tag on each FROM: BASE_IMAGE carries it, or a digest.
# hadolint ignore=DL3006
FROM ${BASE_IMAGE}
# Debian keeps only the newest build of a package, so a pinned version would stop resolving at the next security fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libnginx-mod-http-lua nginx python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /var/lib/nginx /etc/nginx/sites-enabled
COPY --from=jre /opt/torchrelay/jre /opt/torchrelay/jre
COPY --from=venv /opt/torchrelay/venv /opt/torchrelay/venv
COPY --from=venv /opt/torchrelay/runtime /opt/torchrelay/runtime
# HOME, USER: an uid without an entry in /etc/passwd has neither, and getpass and torch's caches ask for them. All that is written goes to /tmp.
ENV PATH=/opt/torchrelay/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    JAVA_HOME=/opt/torchrelay/jre \
    HOME=/tmp USER=torchrelay \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    TORCHRELAY_SERVING=/opt/torchrelay/serving.json
LABEL org.opencontainers.image.title="torchrelay runtime" \
      org.opencontainers.image.description="TorchServe behind a front proxy, ready for a model layer"
USER 1000
WORKDIR /tmp
EXPOSE 8080 9090
HEALTHCHECK --interval=5s --timeout=5s --start-period=120s --retries=2 \
    CMD ["/opt/torchrelay/venv/bin/python", "-P", "-m", "torchrelay_runtime.probe", "--ready"]
# -P: the current folder, where a model may write, is not on the import path.
ENTRYPOINT ["/opt/torchrelay/venv/bin/python", "-P", "-m", "torchrelay_runtime.entrypoint"]
