# A static binary that runs as an unprivileged user.
FROM golang:1.26.8 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w -X github.com/dopaminestore/dopamine/internal/telemetry.version=${VERSION}" -o /dopamine ./cmd/dopamine

# Alpine for its wget: the health checks call the program's own endpoints.
FROM alpine:3.22
RUN adduser -D -H -u 10001 dopamine
COPY --from=build /dopamine /usr/local/bin/dopamine
# By number: Kubernetes can then check runAsNonRoot.
USER 10001:10001
ENTRYPOINT ["dopamine"]
