#!/usr/bin/env bash
# Validates the manifests with kubeconform, strictly, against the schemas of one Kubernetes
# version. The schemas come from a PyPI package, so no access to GitHub is needed.
set -euo pipefail
cd "$(dirname "$0")"
version=v1.36.0
schemas=$(mktemp -d)
trap 'rm -rf "$schemas"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$schemas" kubernetes-validate==1.37.0
(cd "$schemas" && python3 -m zipfile -e ./*.whl .)
from=$schemas/kubernetes_validate/kubernetes-json-schema/$version-local-strict
# The package's references name a server's path.
sed -i "s#\"/api/_definitions.json#\"file://$from/_definitions.json#" "$from"/*.json
go run github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0 -strict -summary \
  -schema-location "$from/{{.ResourceKind}}{{.KindSuffix}}.json" \
  $(ls ./*.yaml | grep -v kustomization)
