#!/usr/bin/env bash
# Builds the Jaeger binary into the folder given as $2, in the version given as $1. `go install` refuses the module because its go.mod has a
# replace directive, so a module of our own requires it, repeats the directive and takes over its checksums.
set -euo pipefail
version=v$1
target=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > go.mod <<EOF
module headrace.local/jaeger
go 1.25
require github.com/jaegertracing/jaeger ${version}
replace github.com/Shopify/sarama => github.com/Shopify/sarama v1.33.0
EOF
source_dir=$(go mod download -json "github.com/jaegertracing/jaeger@${version}" | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p')
cat "${source_dir}/go.sum" >> go.sum
mkdir -p "$target"
go build -mod=mod -o "$target/jaeger.tmp" github.com/jaegertracing/jaeger/cmd/jaeger
mv "$target/jaeger.tmp" "$target/jaeger"
