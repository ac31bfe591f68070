# A static binary that runs as nobody in particular.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /dopamine ./cmd/dopamine

# Alpine for its wget: the health checks ask the program's own endpoints.
FROM alpine:3.22
RUN adduser -D -H -u 10001 dopamine
COPY --from=build /dopamine /usr/local/bin/dopamine
USER dopamine
ENTRYPOINT ["dopamine"]
