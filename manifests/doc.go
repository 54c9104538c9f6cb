// Package manifests holds what an installation consists of: CRDs, a kustomize
// base with overlays and components, the same rendered as one file, and a Helm
// chart. Its tests apply that to a real API server.
package manifests
