#!/usr/bin/env bash
# Builds a Go program: MODULE VERSION PACKAGE FOLDER [TAGS]. `go install` refuses modules whose go.mod has directives that
# count in the main module only, so a module of our own requires it, repeats them and takes over its checksums.
set -euo pipefail
module=$1 version=v$2 package=$3 target=$4 tags=${5:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
printf 'module headrace.local/tool\ngo 1.25\nrequire %s %s\n' "$module" "$version" > go.mod
source_dir=$(go mod download -json "$module@$version" | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p')
# A directive is a line, or a block in parentheses; a replacement by a folder beside the module cannot be taken over.
awk '/^(replace|exclude) \($/ {block = 1}
     (block || /^(replace|exclude) [^(]/) && !/=> \.\.?\// {print}
     block && /^\)$/ {block = 0}' "$source_dir/go.mod" >> go.mod
cat "$source_dir/go.sum" >> go.sum
mkdir -p "$target"
name=$(basename "$package")
# Quickly rather than well: they run in tests only.
go build -mod=mod -tags "$tags" -gcflags "all=-N -l" -ldflags "-s -w" -o "$target/$name.tmp" "$package"
mv "$target/$name.tmp" "$target/$name"
