# The image for those with Docker; `make image` writes the same without it.
#
#   docker buildx build --platform linux/amd64,linux/arm64 --tag belfry \
#     --build-arg VERSION=$(cat VERSION) --build-arg COMMIT=$(git rev-parse --short=12 HEAD) .
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETOS TARGETARCH VERSION=unknown COMMIT=unknown
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY api api
COPY cmd cmd
COPY internal internal
RUN for name in controller speaker; do \
      CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false -tags grpcnotrace \
        -ldflags "-s -w -buildid= -X github.com/belfrylb/belfry/internal/daemon.version=$VERSION -X github.com/belfrylb/belfry/internal/daemon.commit=$COMMIT" \
        -o /out/belfry-$name ./cmd/$name || exit 1; \
    done

FROM scratch
ARG VERSION=unknown COMMIT=unknown
LABEL org.opencontainers.image.title="Belfry's controller and speaker" \
      org.opencontainers.image.source="https://github.com/belfrylb/belfry" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$COMMIT"
COPY --from=build /out/belfry-controller /belfry-controller
COPY --from=build /out/belfry-speaker /belfry-speaker
ENV PATH=/
WORKDIR /
USER 65532:65532
