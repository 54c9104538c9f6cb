package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/belfrylb/belfry/hack/lab"
)

// buildBinaries builds all programs as a release does.
func buildBinaries(ctx context.Context, b *bench) error {
	dir, err := os.MkdirTemp("", "belfry-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"controller", "speaker", plugin} {
		file := filepath.Join(dir, name)
		if err := buildBinary(ctx, name, file); err != nil {
			return err
		}
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		b.found("binary/"+name, float64(info.Size()), "")
	}
	return nil
}

// buildBinary builds a program as a release does.
func buildBinary(ctx context.Context, name, file string) error {
	root, err := lab.Root()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags=grpcnotrace", "-ldflags=-s -w", "-o", file, "./cmd/"+name)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return nil
}
