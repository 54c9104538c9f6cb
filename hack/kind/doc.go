// Package kind holds scripts for those with Docker: a kind cluster with a router
// beside it (up), a demonstration (demo), and the end of both (down). Its tests
// run what of them needs no Docker.
package kind
